"""How vLLM's server is asked for tokens: its routes that take token ids and give token ids.

``/inference/v1/generate`` (``vllm serve --enable-scale-out``) takes pictures beside the ids; ``/v1/completions`` is
always there, and takes none; ``/pooling`` reads a head. So a prompt is, token for token, what it would be in process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from msgspec import Struct, field

from cos.engines.remote_errors import RemoteError
from cos.engines.remote_http import Peer
from cos.search.ports import Draw

LEAST_LOGPROB = -9999.0
"""What vLLM sends for a log-probability that is no number, or minus infinity."""

Choice = TypeVar("Choice")

GENERATE, COMPLETIONS, POOLING = "/inference/v1/generate", "/v1/completions", "/pooling"


Place = tuple[int, int]
"""The first of a picture's tokens in a prompt, and how many there are."""


class Asking(Struct, frozen=True, kw_only=True, gc=False):
    """One request for tokens."""

    token_ids: Sequence[int]
    pictures: Sequence[Mapping[str, Any]] = ()
    """As vLLM takes parts of a message: an address that holds the picture, or none, and a name to know it by."""
    places: Sequence[Place] = ()
    """Where they stand in ``token_ids``, which are then those of the prompt as the model reads it."""
    draw: Draw
    labels: tuple[int, ...] = ()
    """Tokens whose log-probabilities are wanted at the first token that is written."""
    tells_prompt: bool = False
    """Whether the prompt is wanted back, as the model reads it."""


class Answer(Struct, frozen=True, kw_only=True, gc=False):
    """What came of it."""

    token_ids: tuple[int, ...]
    finish: str
    stop: int | str | None
    logprob: float | None
    """Of all that was written."""
    labels: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int | None
    """None where it is not told."""
    prompt: tuple[int, ...] = ()
    places: tuple[Place, ...] = ()
    """Where the pictures stand in it, with what a template writes around one."""


class Route(Protocol):
    """A way to ask for tokens."""

    path: str
    takes_pictures: bool

    async def ask(self, peer: Peer, model: str, asking: Asking) -> Answer:
        """Errors: as `cos.engines.remote_http.Peer.post`."""
        ...


class _CachedTokens(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int
    prompt_tokens_details: _CachedTokens | None = None

    @property
    def cached(self) -> int | None:
        return None if self.prompt_tokens_details is None else self.prompt_tokens_details.cached_tokens


class _Logprob(Struct):
    token_id: int
    logprob: float | None = None


class _Written(_Logprob):
    top_logprobs: list[_Logprob] = field(default_factory=list[_Logprob])


class _AllWritten(Struct):
    content: list[_Written] | None = None


class _GenerateChoice(Struct):
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: _AllWritten | None = None


class _Placeholder(Struct):
    offset: int
    length: int


class _GenerateReply(Struct):
    choices: list[_GenerateChoice]
    usage: _Usage
    prompt_token_ids: list[int] | None = None
    mm_placeholders: dict[str, list[_Placeholder]] | None = None


class Generate:
    """``/inference/v1/generate``."""

    path = GENERATE
    takes_pictures = True

    async def ask(self, peer: Peer, model: str, asking: Asking) -> Answer:
        body: dict[str, Any] = {
            "model": model,
            "token_ids": asking.token_ids,
            "sampling_params": {**_sampling(asking), "detokenize": bool(asking.draw.stops.strings)},
            "priority": asking.draw.priority,
        }
        if asking.places:
            # What vLLM has made of the pictures is asked for by their names: it need not render the prompt again.
            body["features"] = {
                "mm_hashes": {"image": [picture["uuid"] for picture in asking.pictures]},
                "mm_placeholders": {"image": [{"offset": start, "length": size} for start, size in asking.places]},
                "kwargs_data": {"image": [None] * len(asking.pictures)},
            }
        elif asking.pictures:
            body["content_parts"] = [{"type": "image_url", **picture} for picture in asking.pictures]
        if asking.tells_prompt:
            body["return_token_ids"] = True
        if asking.labels:
            body["sampling_params"] |= _labelled(asking.labels)
        elif asking.draw.logprobs:
            body["sampling_params"]["logprobs"] = 0
        reply = await peer.post(self.path, body, _GenerateReply)
        choice = _only(peer, self.path, reply.choices)
        content = (choice.logprobs and choice.logprobs.content) or []
        found = {each.token_id: each.logprob for each in (content[0].top_logprobs if content else ())}
        return Answer(
            token_ids=tuple(choice.token_ids),
            finish=choice.finish_reason or "",
            stop=choice.stop_reason,
            logprob=_sum([each.logprob for each in content]) if asking.draw.logprobs else None,
            labels=usable([found.get(label) for label in asking.labels]),
            prompt_tokens=reply.usage.prompt_tokens,
            cached_tokens=reply.usage.cached,
            prompt=tuple(reply.prompt_token_ids or ()),
            places=tuple((each.offset, each.length) for each in (reply.mm_placeholders or {}).get("image", ())),
        )


class _CompletionLogprobs(Struct):
    token_logprobs: list[float | None] = field(default_factory=list[float | None])
    top_logprobs: list[dict[str, float | None] | None] = field(default_factory=list[dict[str, float | None] | None])


class _CompletionChoice(Struct):
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: _CompletionLogprobs | None = None


class _CompletionReply(Struct):
    choices: list[_CompletionChoice]
    usage: _Usage


class Completions:
    """``/v1/completions``."""

    path = COMPLETIONS
    takes_pictures = False

    async def ask(self, peer: Peer, model: str, asking: Asking) -> Answer:
        body: dict[str, Any] = {
            "model": model,
            "prompt": asking.token_ids,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "priority": asking.draw.priority,
            **_sampling(asking),
        }
        if asking.labels:
            body |= _labelled(asking.labels)
        elif asking.draw.logprobs:
            body["logprobs"] = 0
        reply = await peer.post(self.path, body, _CompletionReply)
        choice = _only(peer, self.path, reply.choices)
        told = choice.logprobs or _CompletionLogprobs()
        found = (told.top_logprobs[0] if told.top_logprobs else None) or {}
        return Answer(
            token_ids=tuple(choice.token_ids),
            finish=choice.finish_reason or "",
            stop=choice.stop_reason,
            logprob=_sum(told.token_logprobs) if asking.draw.logprobs else None,
            labels=usable([found.get(f"token_id:{label}") for label in asking.labels]),
            prompt_tokens=reply.usage.prompt_tokens,
            cached_tokens=reply.usage.cached,
        )


class _Pooled(Struct):
    data: list[list[float | None] | float | None]


class _PoolingReply(Struct):
    data: list[_Pooled]
    usage: _Usage


class HeadAnswer(Struct, frozen=True, gc=False):
    """What a head said at the last token."""

    values: tuple[float, ...]
    """Empty where it said nothing of any token."""
    tokens_read: int | None
    """Of how many tokens it said something; None where it said something of the last one alone."""
    prompt_tokens: int
    cached_tokens: int | None


async def ask_head(peer: Peer, model: str, task: str, token_ids: Sequence[int], priority: int) -> HeadAnswer:
    """The values of a head at the last token, before any activation. ``task`` is vLLM's word for the kind of head.

    Errors: as `cos.engines.remote_http.Peer.post`.
    """
    body = {"model": model, "input": token_ids, "task": task, "use_activation": False, "priority": priority}
    reply = await peer.post(POOLING, body, _PoolingReply)
    rows: Any = _only(peer, POOLING, reply.data).data
    # The values, or a row of them for each token.
    is_by_token = not rows or isinstance(rows[-1], list)
    last: Sequence[float | None] = rows[-1] if rows and is_by_token else rows
    values = tuple(math.nan if value is None else value for value in last)
    return HeadAnswer(values, len(rows) if is_by_token else None, reply.usage.prompt_tokens, reply.usage.cached)


def are_plain(prompt: Sequence[int], places: Sequence[Place], token: int | None) -> bool:
    """Whether pictures are nothing but ``token`` in a prompt. Where a template writes something around one, vLLM has to
    be asked which tokens are the picture's: their places are part of what its prefix cache goes by."""
    return bool(places) and all(all(each == token for each in prompt[start : start + size]) for start, size in places)


def usable(logprobs: Sequence[float | None]) -> tuple[float, ...]:
    """Log-probabilities of labels, NaN for one that was not told. Where vLLM has no number it sends its least: of one
    label that is minus infinity, of all of them it means that there was none."""
    values = [math.nan if value is None else value for value in logprobs]
    if all(not value > LEAST_LOGPROB for value in values):
        return (math.nan,) * len(values)
    return tuple(-math.inf if value <= LEAST_LOGPROB else value for value in values)


def _sampling(asking: Asking) -> dict[str, Any]:
    """All that changes what is written, so that no default of the other side's does."""
    draw = asking.draw
    return {
        "temperature": draw.temperature,
        "top_p": draw.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": draw.max_tokens,
        "seed": draw.seed,
        "stop_token_ids": draw.stops.token_ids,
        "stop": draw.stops.strings,
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        **({} if draw.json_schema is None else {"structured_outputs": {"json": draw.json_schema}}),
    }


def _labelled(labels: tuple[int, ...]) -> dict[str, Any]:
    # As many log-probabilities come back as are asked for, the written token's among them: one is asked for twice.
    wanted = (*labels, labels[0])
    return {"logprob_token_ids": wanted, "logprobs": len(wanted)}


def _sum(logprobs: Sequence[float | None]) -> float:
    return math.fsum(math.nan if value is None or value <= LEAST_LOGPROB else value for value in logprobs)


def _only(peer: Peer, path: str, choices: Sequence[Choice]) -> Choice:
    if len(choices) != 1:
        raise RemoteError(f"{peer.name} gave {len(choices)} answers to one question at {path}; it must be vLLM 0.32")
    return choices[0]
