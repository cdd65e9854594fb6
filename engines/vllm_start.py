"""Starts vLLM in process: one `AsyncLLM` a model, with metrics of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cos.engines.adapter import MERGE, adapter_arguments, find_adapter
from cos.engines.architectures import engine_overrides, register_configs
from cos.engines.chat import ChatPrompt
from cos.engines.checkpoint import check_model, templater
from cos.engines.collector import spare_the_collector
from cos.engines.environment import (
    CPU_KV_CACHE_MIB,
    compute_threads,
    fitting_dtype,
    is_cpu_build,
    is_eager,
    set_environment,
)
from cos.engines.heads import head_arguments
from cos.engines.load import Load
from cos.engines.placement import are_apart, placed, refuse_gpus
from cos.engines.preloading import preload_vllm
from cos.engines.processes import EngineContext, without_interrupts
from cos.engines.quantization import check_quantization
from cos.engines.settings import EngineSettings
from cos.engines.vllm import VllmEngine
from cos.engines.vllm_plugin import register
from cos.engines.vllm_process import prepare
from cos.engines.vocabulary import HfVocabulary
from cos.search.errors import InputError

CPU_BLOCK_TOKENS = 32
"""The CPU attention takes multiples of 32 only; the smallest wastes least of a step's remainder."""


def start_engines(every: Iterable[EngineSettings]) -> list[VllmEngine]:
    """Starts engines, blocking until all are ready (call it in a thread).

    On CPU they start side by side, and on GPUs where they have none in common. On one GPU they start one after the
    other, because each measures the memory that is left to it. Errors: InputError for engines that do not fit the GPUs
    that there are, and for a model that cannot be found or loaded; the engines that did start are stopped again.
    """
    on_cpu = is_cpu_build()
    every = [*every]
    if on_cpu:
        refuse_gpus(every)
    else:
        every = placed(every)
    set_environment(every, on_cpu=on_cpu)
    of_engine = threading.local()
    if on_cpu:
        preload_vllm()
        from vllm.v1.engine import utils

        def context() -> EngineContext:
            """Of the engine that this thread starts. vLLM knows "spawn" and "fork" only."""
            return EngineContext(partial(prepare, of_engine.threads, has_adapter=of_engine.has_adapter))

        utils.get_mp_context = context  # pyright: ignore[reportPrivateImportUsage]

    def start(settings: EngineSettings) -> VllmEngine:
        of_engine.threads, of_engine.has_adapter = compute_threads(settings), settings.adapter is not None
        return _start(settings, on_cpu=on_cpu)

    with ThreadPoolExecutor(max_workers=len(every) if on_cpu or are_apart(every) else 1) as pool:
        starting = [pool.submit(start, settings) for settings in every]
    errors = [error for future in starting if (error := future.exception()) is not None]
    if errors:
        for future in starting:
            if future.exception() is None:
                future.result().stop()
        raise errors[0]
    spare_the_collector()
    return [future.result() for future in starting]


def engine_arguments(settings: EngineSettings, *, on_cpu: bool) -> dict[str, Any]:
    """What vLLM is told, as its `AsyncEngineArgs` spells it."""
    kv_mib = settings.kv_cache_mib or (CPU_KV_CACHE_MIB if on_cpu else None)
    optional: dict[str, Any] = {
        "max_model_len": settings.max_model_len,
        "block_size": CPU_BLOCK_TOKENS if on_cpu else None,
        "kv_cache_memory_bytes": kv_mib * 2**20 if kv_mib else None,
        # Not by CUDA_VISIBLE_DEVICES: it would have to be another one for each engine that this process starts.
        "device_ids": None if settings.devices is None else [*settings.devices],
        "quantization": settings.quantization,
        "gpu_memory_utilization": settings.memory_utilization,
        **head_arguments(settings),
        **({} if settings.adapter is None else adapter_arguments(find_adapter(settings.adapter))),
    }
    return {
        "model": settings.model,
        "served_model_name": settings.role,
        "dtype": settings.dtype,
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enforce_eager": is_eager(settings, on_cpu=on_cpu),
        "trust_remote_code": settings.trust_remote_code,
        "limit_mm_per_prompt": {"image": settings.max_images, "video": 0},
        "enable_prefix_caching": True,
        "generation_config": "vllm",
        "scheduling_policy": "priority",
        # The memory of the KV cache is given on CPU: nothing is to be learnt from the largest picture.
        "skip_mm_profiling": on_cpu,
        "use_tqdm_on_load": False,
        "enable_log_requests": False,
        **{name: value for name, value in optional.items() if value is not None},
        **engine_overrides(settings.model, trust_remote_code=settings.trust_remote_code),
    }


def _start(settings: EngineSettings, *, on_cpu: bool) -> VllmEngine:
    check_model(settings)
    quantization = check_quantization(settings, on_cpu=on_cpu)
    register()
    register_configs()
    from vllm import AsyncEngineArgs
    from vllm.config import PoolerConfig, StructuredOutputsConfig
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    registry, load = CollectorRegistry(), Load()
    try:
        args = AsyncEngineArgs(
            **engine_arguments(settings, on_cpu=on_cpu),
            # A small model may write white space without end where a schema allows it.
            structured_outputs_config=StructuredOutputsConfig(backend="xgrammar", disable_any_whitespace=True),
        )
        config = args.create_engine_config(UsageContext.ENGINE_CONTEXT)
        dtype = settings.dtype
        if quantization is not None:
            dtype = quantization.fitting_dtype(settings)
        elif not config.model_config.quantization:
            dtype = fitting_dtype(settings, on_cpu=on_cpu)
        if dtype != settings.dtype:
            args.dtype = cast("Any", dtype)
            config = args.create_engine_config(UsageContext.ENGINE_CONTEXT)
        pooler = config.model_config.pooler_config
        if pooler is not None and pooler.tok_pooling_type == "STEP":
            # Else vLLM reads a head at all tags of a prompt, and each prompt from its beginning: no prefix is kept.
            args.pooler_config = PoolerConfig(tok_pooling_type="ALL")
            config = args.create_engine_config(UsageContext.ENGINE_CONTEXT)
        if on_cpu and settings.tensor_parallel_size == 1:
            # vLLM takes a worker process of its own for this on CPU, to pin its threads, which we do not want pinned:
            # without it a start imports vLLM once less per engine, and a step makes one hop less.
            config.parallel_config.distributed_executor_backend = "uni"
        with without_interrupts():
            llm = AsyncLLM.from_vllm_config(config, stat_loggers=[_stat_logger(registry, load)])
    except (ValueError, OSError, RuntimeError) as error:
        hint = "" if settings.adapter is None else f"; if its log says that the model does not support LoRA, {MERGE}"
        raise InputError(
            f"the {settings.role} {settings.model!r} could not be started: {error}{hint}", settings.role
        ) from error
    vocabulary = HfVocabulary(cast("Any", llm.renderer.get_tokenizer()))
    prompt = ChatPrompt(vocabulary, templater(settings, llm.renderer.get_tokenizer()), settings.role)
    processor: Any = llm.renderer.mm_processor
    most_pictures = 0 if processor is None else processor.info.allowed_mm_limits.get("image", 0)
    return VllmEngine(settings, llm, prompt, vocabulary, registry, load, most_pictures=most_pictures)


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
