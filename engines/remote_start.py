"""Finds out what a vLLM elsewhere serves and what it can carry, and makes a runtime of it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from msgspec import Struct

from cos.engines.architectures import register_configs
from cos.engines.chat import ChatPrompt
from cos.engines.checkpoint import config_of, files_of, templater
from cos.engines.remote import PROBE, RemoteEngine, Served
from cos.engines.remote_errors import RemoteError, RemoteRefusal
from cos.engines.remote_http import Address, Peer
from cos.engines.remote_pictures import EncodedPictures
from cos.engines.remote_wire import Answer, Asking, Completions, Generate, Route, ask_head
from cos.engines.settings import EngineSettings
from cos.engines.vocabulary import HfVocabulary
from cos.search.errors import InputError
from cos.search.ports import Draw, Stops

logger = logging.getLogger(__name__)

UNKNOWN_ROUTE = (403, 404, 405, 501)
"""What a server answers to a route that it does not have, or was started without."""
HEADS = ("token_classify", "classify")
"""vLLM's words for the kinds of heads that speak of a token, the surest first."""
HEAD_PROBES = 40
"""So often a head is shown the question that is a probe, so that there is more to keep than a block of the cache."""
READS_ALL = """--pooler-config '{"tok_pooling_type": "ALL"}'"""
"""Has vLLM read a head at every token. That of a Qwen2.5-Math-PRM it reads at the tags of steps alone."""
NO_PRIORITIES = (
    "takes requests in their order, so that reads wait behind draws; start it with --scheduling-policy priority"
)
MOST_CONTROLS = 64
"""Of so many control tokens it is compared how they are written."""
SAME = 1e-2
"""How far log-probabilities of the same prompt may differ, as batches do."""


class _Card(Struct):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Cards(Struct):
    data: list[_Card]


class _Tokens(Struct):
    tokens: list[int]


async def connect(wanted: Sequence[EngineSettings]) -> list[RemoteEngine]:
    """Connects to models elsewhere, side by side.

    Errors: InputError for an address where no such model is served, or a tokenizer that is not the model's; the
    connections that were made are closed again.
    """
    await asyncio.to_thread(_load_transformers)
    pictures = EncodedPictures()
    done = await asyncio.gather(*(_connect(settings, pictures) for settings in wanted), return_exceptions=True)
    engines = [each for each in done if isinstance(each, RemoteEngine)]
    for each in done:
        if isinstance(each, BaseException):
            await asyncio.gather(*(engine.close() for engine in engines))
            raise each
    return engines


async def _connect(settings: EngineSettings, pictures: EncodedPictures) -> RemoteEngine:
    if settings.url is None:
        raise InputError(f"--{settings.role}-url is missing; give the address of its vLLM", settings.role)
    peer = Peer(
        Address(
            url=settings.url,
            role=settings.role,
            api_key=settings.api_key,
            timeout_s=settings.timeout_s,
            retries=settings.retries,
        )
    )
    try:
        card = _chosen(settings, (await peer.get("/v1/models", _Cards)).data)
        tokenizer = await asyncio.to_thread(_tokenizer, settings, card)
        vocabulary = HfVocabulary(tokenizer)
        await _check_tokenizer(settings, peer, card, tokenizer)
        served = await _served(settings, peer, card, vocabulary)
        config, files = await asyncio.to_thread(_checkpoint, settings)
        served = replace(served, config=config, files=files)
        prompt = ChatPrompt(vocabulary, await asyncio.to_thread(templater, settings, tokenizer), settings.role)
    except RemoteError as error:
        await peer.close()
        raise InputError(str(error), settings.role) from error
    except BaseException:
        await peer.close()
        raise
    logger.info("the %s is %r at %s, by %s", settings.role, card.id, settings.url, _how(served))
    if served.lacks:
        # Nobody need be warned of what nobody can change.
        level = logging.WARNING if any("start it" in lack for lack in served.lacks) else logging.INFO
        logger.log(level, "the %s at %s: it %s", settings.role, settings.url, "; it ".join(served.lacks))
    peer.look_after()
    return RemoteEngine(settings, peer, served, prompt, vocabulary, pictures)


def _how(served: Served) -> str:
    return served.route.path if served.route else "/pooling"


def _chosen(settings: EngineSettings, cards: Sequence[_Card]) -> _Card:
    """Of what is served: the model of that name, or of that checkpoint, or the only one; or the adapter."""
    if settings.adapter is not None:
        return _adapter(settings, settings.adapter, cards)
    for card in cards:
        if settings.model in (card.id, card.root):
            return card
    own = [card for card in cards if card.parent is None]
    if len(own) == 1:
        return own[0]
    raise InputError(
        f"--{settings.role} {settings.model}: {settings.url} serves "
        f"{', '.join(repr(card.id) for card in cards) or 'nothing'}; give one of these names",
        settings.role,
    )


def _adapter(settings: EngineSettings, name: str, cards: Sequence[_Card]) -> _Card:
    """The adapter of that name, or of that folder, with the context of what it is an adapter over."""
    for card in cards:
        if name in (card.id, card.root) and card.parent is not None:
            base = next((other for other in cards if other.id == card.parent), card)
            return _Card(card.id, card.root, card.parent, base.max_model_len)
    own = [card.id for card in cards if card.parent is not None]
    raise InputError(
        f"--prm-lora {name}: {settings.url} serves {', '.join(map(repr, own)) or 'no adapter'}; give one of these "
        f"names, or start it as vllm serve MODEL --enable-lora --lora-modules NAME={name}",
        "prm_lora",
    )


def _load_transformers() -> None:
    """Two threads that import a part of it at once may find it half there."""
    from transformers import AutoProcessor, AutoTokenizer

    del AutoProcessor, AutoTokenizer
    register_configs()


def _tokenizer(settings: EngineSettings, card: _Card) -> Any:
    """Errors: InputError when there is none by the model's name."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(settings.model, trust_remote_code=settings.trust_remote_code)
    except (ValueError, OSError) as error:
        raise InputError(
            f"--{settings.role} {settings.model}: its tokenizer is needed here, too, and cannot be loaded ({error}); "
            f"give the folder or hub name of what {settings.url} serves as {card.id!r}, or --trust-remote-code for a "
            "tokenizer that comes with code of its own",
            settings.role,
        ) from error


def _checkpoint(settings: EngineSettings) -> tuple[Mapping[str, Any], frozenset[str]]:
    """What a checkpoint's files say of it. A policy may do without. Errors: InputError for a PRM that has none."""
    try:
        return config_of(settings.model, trust_remote_code=settings.trust_remote_code), files_of(settings.model)
    except OSError as error:
        if settings.role == "policy":
            return {}, frozenset()
        raise InputError(
            f"--{settings.role} {settings.model}: its config.json is needed here, too, to know its format ({error}); "
            "give a folder or hub name that has one",
            settings.role,
        ) from error


async def _check_tokenizer(settings: EngineSettings, peer: Peer, card: _Card, tokenizer: Any) -> None:
    """Errors: InputError for a tokenizer that gives other ids than the model's own."""
    text = "3 + 4 = 7, Ünïcode 字 \n\n" + "".join([*tokenizer.get_added_vocab()][:MOST_CONTROLS])
    ask = {"model": card.id, "prompt": text, "add_special_tokens": False}
    try:
        theirs = (await peer.post("/tokenize", ask, _Tokens)).tokens
    except RemoteRefusal as error:
        if error.status not in UNKNOWN_ROUTE:
            raise
        logger.warning(
            "%s does not tell how it tokenises; that --%s has its tokenizer is taken on trust", peer.name, settings.role
        )
        return
    if theirs != tokenizer.encode(text, add_special_tokens=False):
        raise InputError(
            f"--{settings.role} {settings.model} has another tokenizer than {card.id!r} at {settings.url}; "
            "give the folder or hub name of the model that is served there",
            settings.role,
        )


async def _served(settings: EngineSettings, peer: Peer, card: _Card, vocabulary: HfVocabulary) -> Served:
    """What it can carry, found out by small requests."""
    if card.max_model_len is None:
        raise InputError(
            f"{settings.url} does not tell the longest prompt of {card.id!r}; it must be vLLM 0.32 or newer",
            settings.role,
        )
    ids = vocabulary.encode(PROBE)
    lacks: list[str] = []
    for route in (Generate(), Completions()):
        try:
            answer = await _tried(peer, card, route, ids)
        except RemoteRefusal as error:
            if error.status not in UNKNOWN_ROUTE:
                raise
            continue
        if not route.takes_pictures:
            lacks.append("is not shown pictures; start it as vllm serve MODEL --enable-scale-out")
        if not all(map(math.isfinite, answer.labels)):
            raise InputError(
                f"{settings.url} gives no log-probabilities of tokens; it must be vLLM 0.32", settings.role
            )
        has_priorities = await _has_priorities(peer, card, route, ids)
        warm = await _tried(peer, card, route, ids, temperature=0.25)
        if any(abs(one - other) > SAME for one, other in zip(answer.labels, warm.labels, strict=True)):
            raise InputError(
                f"{settings.url} gives log-probabilities after temperature; start it without --logprobs-mode",
                settings.role,
            )
        if not has_priorities:
            lacks.append(NO_PRIORITIES)
        if answer.cached_tokens is None:
            lacks.append("does not tell what its cache has spared it; start it with --enable-prompt-tokens-details")
        lacks.append("does not tell how many tokens a request had written that was broken off; they count as none")
        return Served(
            model=card.id,
            context_tokens=card.max_model_len,
            route=route,
            has_priorities=has_priorities,
            tells_cached=answer.cached_tokens is not None,
            lacks=tuple(lacks),
        )
    return await _served_head(settings, peer, card, vocabulary)


async def _served_head(settings: EngineSettings, peer: Peer, card: _Card, vocabulary: HfVocabulary) -> Served:
    ids = vocabulary.encode(" ".join([PROBE] * HEAD_PROBES))[: (card.max_model_len or 0) - 1]
    for task in HEADS:
        try:
            read = await ask_head(peer, card.id, task, ids, 0)
        except RemoteRefusal as error:
            if error.status in (400, *UNKNOWN_ROUTE):
                continue
            raise
        if read.tokens_read not in (None, read.prompt_tokens):
            raise InputError(
                f"{settings.url} gives the values of its head at {read.tokens_read} of {read.prompt_tokens} tokens; "
                f"start it with {READS_ALL}",
                settings.role,
            )
        try:
            again = await ask_head(peer, card.id, task, ids, -1)
            has_priorities = True
        except RemoteRefusal:
            again = await ask_head(peer, card.id, task, ids, 0)
            has_priorities = False
        lacks = ["is not shown pictures: vLLM takes none beside token ids for a head"]
        if not has_priorities:
            lacks.append(NO_PRIORITIES)
        # vLLM leaves its prefix cache aside where it is to say something of every token, and does not tell at /pooling.
        if again.cached_tokens == 0 or (again.cached_tokens is None and again.tokens_read is not None):
            lacks.append("computes every chain from its beginning, as vLLM has no prefix cache for such a head")
        elif again.cached_tokens is None:
            lacks.append("does not tell what its cache has spared it")
        return Served(
            model=card.id,
            context_tokens=card.max_model_len or 0,
            head=task,
            has_priorities=has_priorities,
            tells_cached=again.cached_tokens is not None,
            lacks=tuple(lacks),
        )
    raise InputError(
        f"{card.id!r} at {settings.url} can neither be asked for tokens nor for the values of a head; "
        "start it as vllm serve MODEL --enable-scale-out",
        settings.role,
    )


async def _tried(
    peer: Peer, card: _Card, route: Route, ids: tuple[int, ...], *, temperature: float = 1.0, priority: int = 0
) -> Answer:
    draw = Draw(max_tokens=1, stops=Stops(), seed=0, temperature=temperature, priority=priority)
    return await route.ask(peer, card.id, Asking(token_ids=ids, draw=draw, labels=ids[:2]))


async def _has_priorities(peer: Peer, card: _Card, route: Route, ids: tuple[int, ...]) -> bool:
    try:
        await _tried(peer, card, route, ids, priority=-1)
    except RemoteRefusal as error:
        if error.status != 400:
            raise
        return False
    return True
