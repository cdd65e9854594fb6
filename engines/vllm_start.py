"""Starts vLLM in process: one `AsyncLLM` a model, with metrics of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cos.engines.chat import ChatPrompt
from cos.engines.checkpoint import check_model, templater
from cos.engines.collector import spare_the_collector
from cos.engines.environment import compute_threads, fitting_dtype, is_cpu_build, is_eager, set_environment
from cos.engines.load import Load
from cos.engines.processes import EngineContext, preload, without_interrupts
from cos.engines.settings import EngineSettings
from cos.engines.vllm import VllmEngine
from cos.engines.vllm_process import prepare
from cos.engines.vocabulary import HfVocabulary
from cos.search.errors import InputError

CPU_BLOCK_TOKENS = 32
"""The CPU attention takes multiples of 32 only; the smallest wastes least of a step's remainder."""
CPU_KV_CACHE_MIB = 256
PRELOADED = ("vllm.v1.engine.async_llm", "vllm.v1.worker.cpu_worker", "transformers.models.auto")
"""What an engine process on CPU imports for most of its start."""


def start_engines(every: Iterable[EngineSettings]) -> list[VllmEngine]:
    """Starts engines, blocking until all are ready (call it in a thread).

    On CPU they start side by side; on GPU one after the other, because each measures the memory that is left to it.
    Errors: InputError for a model that cannot be found or loaded; the engines that did start are stopped again.
    """
    every = list(every)
    on_cpu = is_cpu_build()
    set_environment(every, on_cpu=on_cpu)
    of_engine = threading.local()
    if on_cpu:
        preload(PRELOADED)
        from vllm.v1.engine import utils

        def context() -> EngineContext:
            """Of the engine that this thread starts. vLLM knows "spawn" and "fork" only."""
            return EngineContext(partial(prepare, of_engine.threads))

        utils.get_mp_context = context  # pyright: ignore[reportPrivateImportUsage]

    def start(settings: EngineSettings) -> VllmEngine:
        of_engine.threads = compute_threads(settings)
        return _start(settings, on_cpu=on_cpu)

    with ThreadPoolExecutor(max_workers=len(every) if on_cpu else 1) as pool:
        starting = [pool.submit(start, settings) for settings in every]
    errors = [error for future in starting if (error := future.exception()) is not None]
    if errors:
        for future in starting:
            if future.exception() is None:
                future.result().stop()
        raise errors[0]
    spare_the_collector()
    return [future.result() for future in starting]


def _start(settings: EngineSettings, *, on_cpu: bool) -> VllmEngine:
    check_model(settings)
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    kv_mib = settings.kv_cache_mib or (CPU_KV_CACHE_MIB if on_cpu else None)
    optional: dict[str, Any] = {
        "max_model_len": settings.max_model_len,
        "block_size": CPU_BLOCK_TOKENS if on_cpu else None,
        "kv_cache_memory_bytes": kv_mib * 2**20 if kv_mib else None,
    }
    registry, load = CollectorRegistry(), Load()
    try:
        args = AsyncEngineArgs(
            model=settings.model,
            served_model_name=settings.role,
            dtype=cast("Any", settings.dtype),
            max_num_seqs=settings.max_num_seqs,
            tensor_parallel_size=settings.tensor_parallel_size,
            gpu_memory_utilization=settings.memory_utilization,
            enforce_eager=is_eager(settings, on_cpu=on_cpu),
            trust_remote_code=settings.trust_remote_code,
            limit_mm_per_prompt={"image": 1, "video": 0},
            enable_prefix_caching=True,
            generation_config="vllm",
            scheduling_policy="priority",
            # The memory of the KV cache is given on CPU: nothing is to be learnt from the largest picture.
            skip_mm_profiling=on_cpu,
            use_tqdm_on_load=False,
            enable_log_requests=False,
            **{name: value for name, value in optional.items() if value is not None},
        )
        config = args.create_engine_config(UsageContext.ENGINE_CONTEXT)
        dtype = fitting_dtype(settings, on_cpu=on_cpu)
        if dtype != settings.dtype and not config.model_config.quantization:
            args.dtype = cast("Any", dtype)
            config = args.create_engine_config(UsageContext.ENGINE_CONTEXT)
        if on_cpu and settings.tensor_parallel_size == 1:
            # vLLM takes a worker process of its own for this on CPU, to pin its threads, which we do not want pinned:
            # without it a start imports vLLM once less per engine, and a step makes one hop less.
            config.parallel_config.distributed_executor_backend = "uni"
        with without_interrupts():
            llm = AsyncLLM.from_vllm_config(config, stat_loggers=[_stat_logger(registry, load)])
    except (ValueError, OSError, RuntimeError) as error:
        raise InputError(
            f"the {settings.role} {settings.model!r} could not be started: {error}", settings.role
        ) from error
    vocabulary = HfVocabulary(cast("Any", llm.renderer.get_tokenizer()))
    prompt = ChatPrompt(vocabulary, templater(settings, llm.renderer.get_tokenizer()), settings.role)
    return VllmEngine(settings, llm, prompt, vocabulary, registry, load)


def _stat_logger(registry: CollectorRegistry, load: Load) -> Any:
    """vLLM's Prometheus logger bound to a registry of its own: a second engine would unregister the first one's metrics
    from the global registry (vllm/v1/metrics/loggers.py). It keeps ``load`` up to date, too."""
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    def record(self: Any, scheduler_stats: Any, *rest: Any, **named: Any) -> None:
        load.steps += 1
        if scheduler_stats is not None:
            load.running, load.waiting = scheduler_stats.num_running_reqs, scheduler_stats.num_waiting_reqs
        PrometheusStatLogger.record(self, scheduler_stats, *rest, **named)

    return type(
        "RegistryStatLogger",
        (PrometheusStatLogger,),
        {
            "_gauge_cls": staticmethod(partial(Gauge, registry=registry)),
            "_counter_cls": staticmethod(partial(Counter, registry=registry)),
            "_histogram_cls": staticmethod(partial(Histogram, registry=registry)),
            "record": record,
        },
    )
