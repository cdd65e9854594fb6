# CPU by default. GPU: docker build --build-arg SYNC="--no-group cpu --extra gpu" -t cos-serve:gpu .
FROM python:3.12-slim-bookworm
ARG SYNC=""
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_PREFERENCE=only-system PYTHONUNBUFFERED=1
RUN pip install --no-cache-dir uv
WORKDIR /app
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --locked --no-dev --no-install-project ${SYNC}
COPY . .
RUN uv sync --locked --no-dev ${SYNC} && useradd --create-home cos
USER cos
EXPOSE 8000
HEALTHCHECK --start-period=180s --interval=15s CMD \
    python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=3)"
ENTRYPOINT [".venv/bin/cos-serve", "--host", "0.0.0.0"]
