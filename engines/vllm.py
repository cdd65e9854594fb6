"""vLLM in process: one `AsyncLLM` per role. This file and `vllm_process` alone import vLLM; pinned to 0.32.

A question is rendered once: chat template, image preprocessing and hashing happen in `VllmEngine.open`. Every later
request extends those token ids and keeps hashes and placeholders, so the prefix cache holds and nothing is tokenised or
preprocessed again; the pixels travel with the first one only. A PRM read is one generated token whose two label
log-probabilities are asked for, as vLLM's own label reads do (vllm/entrypoints/generate/label_reads.py): prefix caching
stays on.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cos.engines.checkpoint import check_model, templater
from cos.engines.collector import spare_the_collector
from cos.engines.environment import fitting_dtype, is_cpu_build, is_eager, set_environment
from cos.engines.load import Load
from cos.engines.processes import EngineContext, preload, without_interrupts
from cos.engines.settings import EngineSettings
from cos.engines.vllm_process import draw_ahead
from cos.engines.vocabulary import ChatPrompt, HfVocabulary
from cos.search.errors import EngineDead, EngineError, InputError
from cos.search.ports import Draw, Drawn, LabelRead
from cos.search.types import Question

logger = logging.getLogger(__name__)

CPU_BLOCK_TOKENS = 32
"""The CPU attention takes multiples of 32 only; the smallest wastes least of a step's remainder."""
CPU_KV_CACHE_MIB = 256
PRELOADED = ("vllm.v1.engine.async_llm", "vllm.v1.worker.cpu_worker", "transformers.models.auto")
"""What an engine process on CPU imports for most of its start."""
STOP_TIMEOUT_S = 20.0
"""An engine process that has not ended by then is killed. It takes some 2 s, most of it Python's own end: more than
vLLM's 5 s on a busy machine."""
PROBE_PRIORITY = -1_000_000
"""Before whatever a search wants."""


class VllmEngine:
    """A running engine: satisfies `cos.search.ports.Policy` and `cos.prm.ports.Reader`."""

    def __init__(
        self,
        settings: EngineSettings,
        llm: Any,
        prompt: ChatPrompt,
        vocabulary: HfVocabulary,
        registry: CollectorRegistry,
        load: Load,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self._load = load
        self._llm = llm
        self._prompt = prompt
        self._vocabulary = vocabulary
        self._numbers = count()

    @property
    def vocabulary(self) -> HfVocabulary:
        return self._vocabulary

    @property
    def context_tokens(self) -> int:
        return int(self._llm.model_config.max_model_len)

    @property
    def is_saturated(self) -> bool:
        return self._load.is_high(self.settings.max_num_seqs)

    @property
    def is_alive(self) -> bool:
        """False once the engine process has died or was shut down."""
        return not self._llm.errored

    @property
    def steps(self) -> int:
        return self._load.steps

    async def probe(self) -> None:
        """See `cos.engines.ports.Engine`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind as Kind

        params = SamplingParams(temperature=0.0, max_tokens=1, detokenize=False, output_kind=Kind.FINAL_ONLY)
        base = {"type": "token", "prompt_token_ids": self._prompt.token_ids("?", image=False)}
        await self.generate(base, (), params, PROBE_PRIORITY, [])

    async def open(self, question: Question) -> VllmSession:
        """Renders a question. Errors: InputError when it does not fit the context, EngineDead."""
        self._raise_if_dead(None)  # rendering takes no engine process, and would find out nothing
        session = VllmSession(self, question, await self.render(question))
        self._check_fits(session.prompt_tokens)
        return session

    def _check_fits(self, prompt_tokens: int) -> None:
        if prompt_tokens + 1 > self.context_tokens:
            raise InputError(
                f"question and image take {prompt_tokens} tokens of the {self.settings.role}'s "
                f"{self.context_tokens}; ask a shorter question or raise --max-model-len",
                "question",
            )

    async def render(self, question: Question) -> dict[str, Any]:
        """Prompt ids and image tensors of a question, as vLLM's engine input. Errors: InputError, EngineDead."""
        from vllm.inputs import TokensPrompt

        picture = question.picture
        token_ids = self._prompt.token_ids(question.text, image=picture is not None, bare=question.is_bare)
        self._check_fits(len(token_ids))
        request = TokensPrompt(prompt_token_ids=token_ids)
        if picture is not None:
            request["multi_modal_data"] = {"image": picture.image}
        renderer = self._llm.renderer
        try:
            return (await renderer.render_cmpl_async([request], renderer.default_cmpl_tok_params))[0]
        except Exception as error:
            self._raise_if_dead(error)
            # What vLLM says of it is for whoever runs the server.
            logger.warning("the %s engine cannot render a question: %s", self.settings.role, error)
            raise InputError(
                f"the {self.settings.role} engine cannot render this question; ask a shorter one or send another image",
                "question",
            ) from error

    async def generate(
        self,
        base: dict[str, Any],
        continuation: Sequence[int],
        params: Any,
        priority: int,
        aborted: list[int],
    ) -> Any:
        """One request after ``base`` + ``continuation``; cancelling the task aborts it, and ``aborted`` is given the
        number of tokens it had written. None when it ended without a result. Errors: EngineError, EngineDead."""
        from vllm.inputs import mm_input, tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        ids = [*base["prompt_token_ids"], *continuation]
        if base["type"] == "multimodal":
            request = mm_input(ids, base["mm_kwargs"], base["mm_hashes"], base["mm_placeholders"])
        else:
            request = tokens_input(ids)
        try:
            output = await self._finished(
                await self._llm.add_request(str(next(self._numbers)), request, params, priority=priority), aborted
            )
        except EngineDeadError as error:
            raise EngineDead(f"the {self.settings.role} engine has died") from error
        except Exception as error:
            self._raise_if_dead(error)
            raise EngineError(f"the {self.settings.role} engine refused a request: {error}") from error
        if not output.outputs or output.outputs[0].finish_reason in ("error", "abort"):
            return None
        return output

    async def _finished(self, queue: Any, aborted: list[int]) -> Any:
        """The last output of a request's queue, as in ``AsyncLLM.generate``, which does not tell what an aborted
        request had written."""
        try:
            while not (output := queue.get_nowait() or await queue.get()).finished:
                pass
        except asyncio.CancelledError:
            await self._llm.abort(queue.request_id, internal=True)
            ended = queue.output
            aborted += [len(output.token_ids) for output in getattr(ended, "outputs", ())]
            raise
        return output

    def _raise_if_dead(self, cause: Exception | None) -> None:
        if not self.is_alive:
            raise EngineDead(f"the {self.settings.role} engine has died") from cause

    async def forget(self, *, prefixes_only: bool = False) -> None:
        """See `cos.engines.ports.Engine`."""
        if not await self._llm.reset_prefix_cache():
            raise EngineError(f"the {self.settings.role} engine keeps its caches while requests run; wait for them")
        if not prefixes_only:
            await self._llm.reset_mm_cache()
            await self._llm.reset_encoder_cache()

    async def close(self) -> None:
        """Stops the engine process. Requests under way find the engine dead."""
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._llm.output_handler is not None:
            # Left running, it would log the end of its engine as a failure.
            self._llm.output_handler.cancel()
        self._llm.output_processor.propagate_error(EngineDeadError())
        await asyncio.to_thread(self._llm.shutdown, STOP_TIMEOUT_S)
        self._llm.engine_core.resources.ctx.term()

    def stop(self) -> None:
        """Stops an engine that has served no request yet, blocking until its process is gone."""
        self._llm.shutdown(STOP_TIMEOUT_S)
        self._llm.engine_core.resources.ctx.term()


class VllmSession:
    """One rendered question on one engine."""

    def __init__(self, engine: VllmEngine, question: Question, base: dict[str, Any]) -> None:
        self._engine = engine
        self._question = question
        self._base = base
        self._aborted: list[int] = []

    @property
    def prompt_tokens(self) -> int:
        return len(self._base["prompt_token_ids"])

    @property
    def tokens_aborted(self) -> int:
        return sum(self._aborted)

    async def draw(self, continuation: Sequence[int], draw: Draw) -> Drawn:
        """One sample; see `cos.search.ports.PolicySession`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=draw.temperature,
            top_p=draw.top_p,
            max_tokens=draw.max_tokens,
            seed=draw.seed,
            stop_token_ids=list(draw.stop_ids),
            logprobs=0 if draw.logprobs else None,
            detokenize=False,
            skip_clone=True,  # nobody else has them
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._generate(continuation, params, draw.priority)
        sampled = output.outputs[0]
        return Drawn(
            token_ids=tuple(sampled.token_ids),
            finish="length" if sampled.finish_reason == "length" else "stop",
            logprob=float(sampled.cumulative_logprob) if draw.logprobs else None,
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens or 0,
        )

    async def read_labels(self, continuation: Sequence[int], labels: tuple[int, int], priority: int) -> LabelRead:
        """One label read; see `cos.prm.ports.ReaderSession`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprob_token_ids=list(labels),
            detokenize=False,
            skip_clone=True,  # nobody else has them
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._generate(continuation, params, priority)
        found = output.outputs[0].logprobs[0]
        good, bad = (float(found[label].logprob) if label in found else math.nan for label in labels)
        return LabelRead(good, bad, len(output.prompt_token_ids), output.num_cached_tokens or 0)

    async def _generate(self, continuation: Sequence[int], params: Any, priority: int) -> Any:
        if self.prompt_tokens + len(continuation) + 1 > self._engine.context_tokens:
            raise EngineError(
                f"a chain of {len(continuation)} tokens is longer than the {self._engine.settings.role}'s context of "
                f"{self._engine.context_tokens} has room for"
            )
        output = await self._engine.generate(self._take_base(), continuation, params, priority, self._aborted)
        if output is None and self._question.picture is not None:
            # vLLM's front and its engine each cache images; when the engine has dropped one that the front believes to
            # be there, it ends the request and has the front forget it, so that rendering again sends the pixels.
            self._base = await self._engine.render(self._question)
            output = await self._engine.generate(self._take_base(), continuation, params, priority, self._aborted)
        if output is None:
            raise EngineError(f"the {self._engine.settings.role} engine ended a request without a result")
        return output

    def _take_base(self) -> dict[str, Any]:
        """What the next request is to begin with: only the first brings the pixels, the engine keeps them."""
        base = self._base
        if base["type"] == "multimodal":
            self._base = {**base, "mm_kwargs": _without_pixels(base["mm_kwargs"])}
        return base


def _without_pixels(items: Mapping[str, Sequence[Any]]) -> Any:
    from vllm.multimodal.inputs import MultiModalKwargsItems

    return MultiModalKwargsItems({modality: [None] * len(those) for modality, those in items.items()})


def start_engines(every: Iterable[EngineSettings]) -> list[VllmEngine]:
    """Starts engines, blocking until all are ready (call it in a thread).

    On CPU they start side by side; on GPU one after the other, because each measures the memory that is left to it.
    Errors: InputError for a model that cannot be found or loaded; the engines that did start are stopped again.
    """
    every = list(every)
    on_cpu = is_cpu_build()
    set_environment(every, on_cpu=on_cpu)
    if on_cpu:
        preload(PRELOADED)
        from vllm.v1.engine import utils

        # vLLM knows "spawn" and "fork" only.
        utils.get_mp_context = partial(EngineContext, draw_ahead)  # pyright: ignore[reportPrivateImportUsage]
    with ThreadPoolExecutor(max_workers=len(every) if on_cpu else 1) as pool:
        starting = [pool.submit(_start, settings, on_cpu=on_cpu) for settings in every]
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
    prompt = ChatPrompt(vocabulary, templater(settings, llm.renderer.get_tokenizer()), settings.question_suffix)
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
