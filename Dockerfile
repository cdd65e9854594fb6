# Two images. CPU: docker build -t cos-serve .          GPU: docker build --target cuda -t cos-serve:cuda .
# Every package comes from uv.lock. docs/deployment.md tells what is inside, how large it is and what was run.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

# What installs: none of it is in an image.
FROM ${PYTHON_IMAGE} AS installer
ARG UV_VERSION=0.13.9
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_PREFERENCE=only-system UV_PROJECT_ENVIRONMENT=/opt/cos UV_CACHE_DIR=/var/cache/uv
RUN pip install --no-cache-dir "uv==${UV_VERSION}"
WORKDIR /src
COPY pyproject.toml uv.lock ./

# On CPU nothing is compiled by Triton. Where TORCH_INDEX names a package index with CPU builds of torch, torch and
# torchvision come from there, in the locked versions, and the CUDA libraries stay out: 2.7 GB less.
FROM installer AS dependencies-cpu
ARG TORCH_INDEX=""
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --mount=type=cache,id=uv,target=/var/cache/uv \
    locked="$(uv export --quiet --locked --no-dev --extra otel --no-emit-project --no-hashes --no-annotate --no-header)"; \
    left_out='triton'; \
    if [ -n "${TORCH_INDEX}" ]; then left_out='triton|torch|torchvision|(nvidia|cuda)-[a-z0-9-]+'; fi; \
    mapfile -t without < <(sed -nE "s/^(${left_out})(\[[^]]*\])?==.*/--no-install-package=\1/p" <<<"${locked}"); \
    uv sync --locked --no-dev --extra otel --no-install-project "${without[@]}"; \
    if [ -n "${TORCH_INDEX}" ]; then \
        mapfile -t torch < <(sed -nE 's/^((torch|torchvision)==[0-9.]+).*/\1/p' <<<"${locked}"); \
        uv pip install --python /opt/cos/bin/python --no-deps --index-url "${TORCH_INDEX}" "${torch[@]}"; \
    fi

FROM installer AS dependencies-cuda
RUN --mount=type=cache,id=uv,target=/var/cache/uv \
    uv sync --locked --no-dev --no-group cpu --extra gpu --extra otel --no-install-project

FROM installer AS wheel
COPY . .
RUN --mount=type=cache,id=uv,target=/var/cache/uv uv build --quiet --wheel --out-dir /wheel

# What both images have: a user without rights, and folders of its own for models and traces.
FROM ${PYTHON_IMAGE} AS runtime
RUN groupadd --gid 10001 cos \
    && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin cos \
    && install --directory --owner=cos --group=cos /models /traces
# HF_HOME: models from the hub, and what vLLM and Triton compile for this machine, outlive the container.
ENV PATH=/opt/cos/bin:${PATH} PYTHONUNBUFFERED=1 \
    COS_HOST=0.0.0.0 COS_PORT=8000 \
    HF_HOME=/models VLLM_CACHE_ROOT=/models/vllm TRITON_CACHE_DIR=/models/triton
VOLUME ["/models", "/traces"]
WORKDIR /home/cos
EXPOSE 8000
# The first SIGTERM lets running searches end, for COS_SHUTDOWN_TIMEOUT_S (30 s). Give the container 15 s more.
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=300s --interval=10s --timeout=5s --retries=3 CMD \
    ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['COS_PORT'] + '/ready', timeout=4)"]
ENTRYPOINT ["cos-serve"]

FROM runtime AS cuda
# Triton, which vLLM's kernels are written in, compiles a small C module for each GPU when it starts. FlashInfer's
# sampler would need a CUDA toolkit for the same; vLLM's own sampler does without.
ENV VLLM_USE_FLASHINFER_SAMPLER=0 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libnuma1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=dependencies-cuda /opt/cos /opt/cos
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    --mount=type=bind,from=installer,source=/usr/local/bin/uv,target=/usr/local/bin/uv \
    uv pip install --python /opt/cos/bin/python --no-deps --no-cache --compile-bytecode /wheel/*.whl
USER 10001:10001

FROM runtime AS cpu
# vLLM's CPU kernels are linked with libnuma. No compiler: engines on CPU compile nothing. Torch tells that Triton is not
# there at every start, which is as it should be.
ENV TORCH_LOGS=-torch.utils.cpp_extension,-torch.utils.flop_counter,-torch._library.triton
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=dependencies-cpu /opt/cos /opt/cos
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    --mount=type=bind,from=installer,source=/usr/local/bin/uv,target=/usr/local/bin/uv \
    uv pip install --python /opt/cos/bin/python --no-deps --no-cache --compile-bytecode /wheel/*.whl
USER 10001:10001
