"""vLLM in process. This file and those beside it whose names begin with ``vllm_`` alone import vLLM; pinned to 0.32.

A prompt is rendered once: chat template, image preprocessing and hashing happen in `VllmEngine.open`. Every later
request extends those token ids and keeps hashes and placeholders, so the prefix cache holds and nothing is tokenised or
preprocessed again; the pixels travel with the first one only. A label read is one generated token some of whose
log-probabilities are asked for, as vLLM's own label reads do (vllm/entrypoints/generate/label_reads.py): prefix caching
stays on.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, cast

from prometheus_client import CollectorRegistry

from cos.engines.chat import ChatPrompt
from cos.engines.checkpoint import config_of, files_of
from cos.engines.environment import is_cpu_build
from cos.engines.heads import WIDTHS
from cos.engines.known_model import KnownModel
from cos.engines.load import Load
from cos.engines.settings import EngineSettings
from cos.engines.vocabulary import HfVocabulary
from cos.engines.written import as_drawn
from cos.search.errors import ChainTooLong, EngineDead, EngineError, InputError
from cos.search.ports import Ability, Draw, Drawn, HeadRead, LabelRead
from cos.search.prompt import Prompt
from cos.search.types import Prefix

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 20.0
"""An engine process that has not ended by then is killed. It takes some 2 s, most of it Python's own end: more than
vLLM's 5 s on a busy machine."""
PROBE = "How much is it?"
"""What a probe reads. On CPU a prompt of one token may end vLLM's process."""
PROBE_PRIORITY = -1_000_000
"""Before whatever a search wants."""


class VllmEngine(KnownModel):
    """A running engine: satisfies `cos.engines.ports.Runtime`, with metrics, caches and load of its own."""

    def __init__(
        self,
        settings: EngineSettings,
        llm: Any,
        prompt: ChatPrompt,
        vocabulary: HfVocabulary,
        registry: CollectorRegistry,
        load: Load,
        *,
        most_pictures: int | None = None,
    ) -> None:
        """``most_pictures``: those that a prompt may hold; as many as the settings say unless given."""
        super().__init__(settings, vocabulary, prompt)
        self.most_pictures = settings.max_images if most_pictures is None else most_pictures
        self.registry = registry
        self._load = load
        self._llm = llm
        self._numbers = count()
        self._lora: Any = None
        """vLLM's name of the adapter that requests are run with; None is the model's own weights."""

    @property
    def context_tokens(self) -> int:
        return int(self._llm.model_config.max_model_len)

    @property
    def abilities(self) -> frozenset[Ability]:
        """A model writes, or has a head instead."""
        return frozenset(("head",)) if self.has_head else frozenset(("labels", "text"))

    @property
    def config(self) -> Mapping[str, Any]:
        return config_of(self.model, trust_remote_code=self.settings.trust_remote_code)

    @property
    def files(self) -> frozenset[str]:
        return files_of(self.model)

    @property
    def places_pictures(self) -> bool:
        """See `cos.search.ports.PlacesPictures`."""
        return self._prompt.places_pictures

    @property
    def has_head(self) -> bool:
        """Whether it runs a reward model or a classifier, which cannot write: vLLM tells by its architecture."""
        return self._llm.model_config.runner_type == "pooling"

    @property
    def head_width(self) -> int | None:
        """See `cos.prm.ports.HasHead`."""
        if not self.has_head:
            return None
        config = self._llm.model_config.hf_config
        return next((WIDTHS[name] for name in config.architectures or () if name in WIDTHS), int(config.num_labels))

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
        """See `cos.engines.ports.Runtime`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind as Kind

        params: Any = SamplingParams(temperature=0.0, max_tokens=1, detokenize=False, output_kind=Kind.FINAL_ONLY)
        if self.has_head:
            params = await self.head_params()
        base = {"type": "token", "prompt_token_ids": list(self.vocabulary.encode(PROBE))}
        await self.generate(base, (), params, PROBE_PRIORITY, [])

    async def open(self, prompt: Prompt) -> VllmSession:
        """Renders a prompt. Errors: InputError when it cannot be rendered or does not fit the context, EngineDead."""
        self._raise_if_dead(None)  # rendering takes no engine process, and would find out nothing
        session = VllmSession(self, prompt, await self.render(prompt))
        self._check_fits(session.prompt_tokens)
        return session

    def _check_fits(self, prompt_tokens: int) -> None:
        if prompt_tokens + 1 > self.context_tokens:
            raise InputError(
                f"question and image take {prompt_tokens} tokens of the {self.settings.role}'s "
                f"{self.context_tokens}; ask a shorter question or raise --max-model-len",
                "question",
            )

    def _check_takes(self, pictures: int) -> None:
        if pictures > self.most_pictures:
            model = f"the {self.settings.role} {self.settings.model}"
            if not self.most_pictures:
                raise InputError(f"{model} reads text alone; ask without a picture", "images")
            raise InputError(f"{pictures} pictures; {model} takes {self.most_pictures}; send fewer", "images")

    async def render(self, prompt: Prompt) -> dict[str, Any]:
        """Token ids and image tensors of a prompt, as vLLM's engine input. Errors: InputError, EngineDead."""
        from vllm.inputs import TokensPrompt

        self._check_takes(len(pictures := prompt.pictures))
        token_ids = self._prompt.render(prompt)
        self._check_fits(len(token_ids))
        request = TokensPrompt(prompt_token_ids=token_ids)
        if pictures:
            request["multi_modal_data"] = {"image": [picture.image for picture in pictures]}
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

    async def head_params(self) -> Any:
        """How vLLM is asked for the head's values at the last token, as they are. Errors: EngineError for a model whose
        head says nothing of tokens."""
        from vllm import PoolingParams

        tasks = await self._llm.get_supported_tasks()
        is_of_last = self._llm.model_config.pooler_config.seq_pooling_type == "LAST"
        task = "classify" if "classify" in tasks and is_of_last else "token_classify"
        if task not in tasks:
            raise EngineError(
                f"the {self.settings.role}'s head gives no values of a token; vLLM offers {sorted(tasks)}"
            )
        # vLLM reads a whole prompt anew where the values of all its tokens may be wanted. Only the last one's are.
        return PoolingParams(task=task, use_activation=False, skip_reading_prefix_cache=False)

    async def generate(
        self,
        base: dict[str, Any],
        prefix: Sequence[int],
        params: Any,
        priority: int,
        aborted: list[int],
    ) -> Any:
        """One request after ``base`` + ``prefix``; cancelling the task aborts it, and ``aborted`` is given the
        number of tokens it had written. None when it ended without a result. Errors: EngineError, EngineDead."""
        ids = [*base["prompt_token_ids"], *prefix]
        if len(ids) == 1 and not self.has_head and is_cpu_build():
            # vLLM's process may end without a word, and does where this is the first that it is asked.
            raise EngineError(
                f"the {self.settings.role} engine cannot read a prompt of a single token on CPU; ask a longer question"
            )
        from vllm.inputs import mm_input, tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        if base["type"] == "multimodal":
            request = mm_input(ids, base["mm_kwargs"], base["mm_hashes"], base["mm_placeholders"])
        else:
            request = tokens_input(ids)
        try:
            number = str(next(self._numbers))
            queue = await self._llm.add_request(number, request, params, lora_request=self._lora, priority=priority)
            output = await self._finished(queue, aborted)
        except EngineDeadError as error:
            raise EngineDead(f"the {self.settings.role} engine has died") from error
        except Exception as error:
            self._raise_if_dead(error)
            raise EngineError(f"the {self.settings.role} engine refused a request: {error}") from error
        if self.has_head:
            return None if output.error is not None or output.outputs.data.numel() == 0 else output
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
            if not self.has_head:
                aborted += [len(output.token_ids) for output in getattr(ended, "outputs", ())]
            raise
        return output

    def _raise_if_dead(self, cause: Exception | None) -> None:
        if not self.is_alive:
            raise EngineDead(f"the {self.settings.role} engine has died") from cause

    async def forget(self, *, prefixes_only: bool = False) -> None:
        """See `cos.engines.ports.HasCaches`."""
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
    """One rendered prompt on one engine."""

    def __init__(self, engine: VllmEngine, prompt: Prompt, base: dict[str, Any]) -> None:
        self._engine = engine
        self._prompt = prompt
        self._base = base
        self._aborted: list[int] = []

    @property
    def prompt_tokens(self) -> int:
        return len(self._base["prompt_token_ids"])

    @property
    def tokens_aborted(self) -> int:
        return sum(self._aborted)

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        """One sample; see `cos.search.ports.PolicySession`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        schema = draw.json_schema
        params = SamplingParams(
            temperature=draw.temperature,
            top_p=draw.top_p,
            max_tokens=draw.max_tokens,
            seed=draw.seed,
            stop_token_ids=list(draw.stops.token_ids),
            stop=list(draw.stops.strings),
            logprobs=0 if draw.logprobs else None,
            structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
            # vLLM looks for strings in text that it writes token by token. Without strings it need not.
            detokenize=bool(draw.stops.strings),
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            skip_clone=True,  # nobody else has them
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._generate(prefix, params, draw.priority)
        sampled = output.outputs[0]
        return as_drawn(
            self._engine.vocabulary,
            draw.stops,
            tuple(sampled.token_ids),
            is_cut=sampled.finish_reason == "length",
            stop=sampled.stop_reason,
            logprob=float(sampled.cumulative_logprob) if draw.logprobs else None,
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens or 0,
        )

    async def read_labels(self, prefix: Prefix, labels: tuple[int, ...], priority: int) -> LabelRead:
        """Log-probabilities of labels; see `cos.prm.ports.ReaderSession`."""
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
        output = await self._generate(prefix, params, priority)
        found = output.outputs[0].logprobs[0]
        logprobs = tuple(float(found[label].logprob) if label in found else math.nan for label in labels)
        return LabelRead(logprobs, len(output.prompt_token_ids), output.num_cached_tokens or 0)

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        """What the head says before any activation; see `cos.prm.ports.ReaderSession`."""
        if not self._engine.has_head:
            raise self._cannot("its model writes, and has no head to read")
        output = await self._request(prefix, await self._engine.head_params(), priority)
        # One row, or one row for each token that was not in the cache.
        values = output.outputs.data.reshape(-1, output.outputs.data.shape[-1])[-1]
        return HeadRead(tuple(map(float, values)), len(output.prompt_token_ids), output.num_cached_tokens or 0)

    async def _generate(self, prefix: Prefix, params: Any, priority: int) -> Any:
        if self._engine.has_head:
            raise self._cannot("its model has a head, and does not write")
        return await self._request(prefix, params, priority)

    def _cannot(self, why: str) -> EngineError:
        return EngineError(f"the {self._engine.settings.role} engine cannot do this: {why}")

    async def _request(self, prefix: Prefix, params: Any, priority: int) -> Any:
        ids = cast("tuple[int, ...]", prefix)
        if self.prompt_tokens + len(ids) + 1 > self._engine.context_tokens:
            raise ChainTooLong(
                f"a chain of {len(ids)} tokens is longer than the {self._engine.settings.role}'s context of "
                f"{self._engine.context_tokens} has room for"
            )
        output = await self._engine.generate(self._take_base(), ids, params, priority, self._aborted)
        if output is None and self._prompt.pictures:
            # vLLM's front and its engine each cache images; when the engine has dropped one that the front believes to
            # be there, it ends the request and has the front forget it, so that rendering again sends the pixels.
            self._base = await self._engine.render(self._prompt)
            output = await self._engine.generate(self._take_base(), ids, params, priority, self._aborted)
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
