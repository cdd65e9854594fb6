"""A model on a vLLM elsewhere, over HTTP. Nothing is asked of it but ``vllm serve``.

Prompts are rendered here, by the same template and tokenizer as in process, and go over as token ids; what comes back
are token ids. A picture goes over once for a session, and by its name from then on: vLLM keeps what it made of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from msgspec.structs import replace as with_changes

from cos.engines.chat import ChatPrompt
from cos.engines.known_model import KnownModel
from cos.engines.load import Load
from cos.engines.remote_errors import RemoteDead, RemoteError, RemoteRefusal
from cos.engines.remote_http import Peer
from cos.engines.remote_pictures import EncodedPictures
from cos.engines.remote_wire import Answer, Asking, Place, Route, are_plain, ask_head
from cos.engines.settings import EngineSettings
from cos.engines.vocabulary import HfVocabulary
from cos.engines.written import as_drawn
from cos.search.errors import ChainTooLong, InputError
from cos.search.ports import Ability, Draw, Drawn, HeadRead, LabelRead, Stops
from cos.search.prompt import Prompt
from cos.search.types import Picture, Prefix

logger = logging.getLogger(__name__)

PROBE = "How much is it?"
"""What a probe reads."""
FIRST = -1_000_000
"""The priority of what goes before all that a search wants."""
INTERNVL_PICTURE = "<IMG_CONTEXT>"
"""What InternVL's own checkpoints make a picture of; their config.json does not say."""
MOST_MISSES = 2
"""A picture that the other side has forgotten so often goes over with every request of its session: several processes
there may share the requests, each with a memory of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a vLLM elsewhere serves, and what it can carry."""

    model: str
    """As its server calls it."""
    context_tokens: int
    route: Route | None = None
    """How tokens are asked for; None for a model with a head, which does not write."""
    head: str | None = None
    """vLLM's word for the kind of head that it has."""
    has_priorities: bool = False
    tells_cached: bool = False
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the checkpoint's config.json on this side holds."""
    files: frozenset[str] = frozenset()
    """The names of its files on this side."""
    lacks: tuple[str, ...] = ()
    """What it cannot carry, a sentence each that says what to do."""


class RemoteEngine(KnownModel):
    """A model elsewhere: satisfies `cos.engines.ports.Runtime` and `ComesBack`."""

    def __init__(
        self,
        settings: EngineSettings,
        peer: Peer,
        served: Served,
        prompt: ChatPrompt,
        vocabulary: HfVocabulary,
        pictures: EncodedPictures,
    ) -> None:
        super().__init__(settings, vocabulary, prompt)
        self.served = served
        self.config, self.files = served.config, served.files
        self.pictures = pictures
        self._peer = peer

    @property
    def context_tokens(self) -> int:
        """As long as the other side's, or shorter where the settings say so."""
        return min(self.served.context_tokens, self.settings.max_model_len or self.served.context_tokens)

    @property
    def abilities(self) -> frozenset[Ability]:
        return frozenset(("labels", "text")) if self.served.route is not None else frozenset(("head",))

    @cached_property
    def picture_token(self) -> int | None:
        """The token that a picture is made of in a prompt, as its checkpoint says; None where it says nothing."""
        named = [self.config.get(key) for key in ("image_token_id", "image_token_index")]
        return next((each for each in named if isinstance(each, int)), self.vocabulary.control_id(INTERNVL_PICTURE))

    @property
    def places_pictures(self) -> bool:
        """See `cos.search.ports.PlacesPictures`."""
        return self._prompt.places_pictures

    @property
    def most_pictures(self) -> int:
        """See `cos.search.ports.CountsPictures`. Fewer where the other side says so of a question."""
        route = self.served.route
        return self.settings.max_images if route is not None and route.takes_pictures else 0

    @property
    def lacks(self) -> tuple[str, ...]:
        """See `cos.engines.ports.ComesBack`."""
        return self.served.lacks

    @property
    def loss(self) -> RemoteDead:
        """See `cos.engines.ports.ComesBack`."""
        return self._peer.gone()

    @property
    def is_alive(self) -> bool:
        """False while it cannot be reached."""
        return self._peer.is_there

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._peer.in_flight

    @property
    def is_saturated(self) -> bool:
        """As far as this server's own requests tell; others may use the same model."""
        return Load(running=self.in_flight).is_high(self.settings.max_num_seqs)

    @property
    def steps(self) -> int:
        return self._peer.answers

    async def probe(self) -> None:
        """See `cos.engines.ports.Runtime`."""
        ids = self.vocabulary.encode(PROBE)
        if self.served.route is None:
            await self.ask_head(ids, FIRST)
        else:
            draw = Draw(max_tokens=1, stops=Stops(), seed=0, temperature=0.0, priority=FIRST)
            await self.ask(Asking(token_ids=ids, draw=draw))

    async def open(self, prompt: Prompt) -> RemoteSession:
        """Renders a prompt here, and has its pictures read there. Errors: InputError when it cannot be rendered or does
        not fit the context, RemoteDead, RemoteError."""
        self._peer.raise_if_gone()
        ids = self.render(prompt)
        session = RemoteSession(self, ids, prompt.pictures)
        if prompt.pictures:
            await session.show()
            self._check_fits(session.prompt_tokens)
        return session

    def render(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, with an unexpanded placeholder for each picture. Errors: InputError."""
        ids = self._prompt.render(prompt)
        self._check_fits(len(ids))
        return ids

    def _check_fits(self, prompt_tokens: int) -> None:
        if prompt_tokens + 1 > self.context_tokens:
            raise InputError(
                f"question and image take {prompt_tokens} tokens of the {self.settings.role}'s "
                f"{self.context_tokens}; ask a shorter question or start its vLLM with a longer --max-model-len",
                "question",
            )

    async def ask(self, asking: Asking) -> Answer:
        """Errors: as `cos.engines.remote_http.Peer.post`."""
        route = self.served.route
        if route is None:
            raise self.cannot("its model has a head, and does not write")
        if not self.served.has_priorities and asking.draw.priority:
            asking = with_changes(asking, draw=with_changes(asking.draw, priority=0))
        return await route.ask(self._peer, self.served.model, asking)

    async def ask_head(self, token_ids: Sequence[int], priority: int) -> HeadRead:
        """Errors: as `cos.engines.remote_http.Peer.post`."""
        if self.served.head is None:
            raise self.cannot("its model writes, and has no head to read")
        if not self.served.has_priorities:
            priority = 0
        read = await ask_head(self._peer, self.served.model, self.served.head, token_ids, priority)
        return HeadRead(read.values, read.prompt_tokens, read.cached_tokens or 0)

    def cannot(self, why: str) -> RemoteError:
        """The error of what its model cannot do."""
        return RemoteError(f"{self._peer.name} cannot do this: {why}")

    async def close(self) -> None:
        """Ends the connection. The other side goes on."""
        await self._peer.close()


class RemoteSession:
    """One rendered prompt on a model elsewhere."""

    def __init__(self, engine: RemoteEngine, ids: list[int], pictures: tuple[Picture, ...]) -> None:
        self._engine = engine
        self._ids = ids
        self._pictures = pictures
        self._prompt_tokens = len(ids)
        self._read: tuple[int, ...] = ()
        """The prompt as the model reads it, where it can be sent so."""
        self._places: tuple[Place, ...] = ()
        # A name of ours: others may name pictures on the same server, and a name is all that it tells them apart by.
        self._named = [{"uuid": f"cos-{picture.digest}"} for picture in pictures]
        self._shows = 0
        """How often the pictures have gone over."""
        self._misses = 0
        self._missed = 0
        """After how many shows they were last forgotten."""

    @property
    def prompt_tokens(self) -> int:
        return self._prompt_tokens

    @property
    def tokens_aborted(self) -> int:
        """None that is known: an answer comes whole or not at all."""
        return 0

    async def show(self) -> None:
        """Has the pictures read, and learns how many tokens they are. What the prompt is made into then serves every
        request after it.

        Errors: InputError for what the other side cannot render, RemoteDead, RemoteError.
        """
        engine = self._engine
        route = engine.served.route
        if route is None:
            raise engine.cannot("its model has a head, and vLLM takes no pictures beside token ids for one")
        if not route.takes_pictures:
            raise engine.cannot("it is not shown pictures; start it as vllm serve MODEL --enable-scale-out")
        draw = Draw(max_tokens=1, stops=Stops(), seed=0, temperature=0.0, priority=FIRST)
        try:
            answer = await self._asked((), draw, tells_prompt=True)
        except RemoteRefusal as error:
            if error.status != 400:
                raise
            # What vLLM says of it is for whoever runs the server.
            logger.warning("%s", error)
            raise InputError(
                f"the {engine.settings.role} cannot render this question; ask a shorter one or send another image",
                "question",
            ) from error
        if len(answer.places) != len(self._pictures):
            raise engine.cannot(
                f"of {len(self._pictures)} pictures its prompt holds {len(answer.places)}; "
                "it must be vLLM 0.32 or newer"
            )
        self._prompt_tokens = answer.prompt_tokens
        if are_plain(answer.prompt, answer.places, engine.picture_token):
            self._places = answer.places
        self._read = answer.prompt if self._places else tuple(self._ids)

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        """One sample; see `cos.search.ports.PolicySession`."""
        answer = await self._continued(prefix, draw)
        if answer.finish not in ("stop", "length"):
            raise self._engine.cannot(f"it ended a request without a result ({answer.finish or 'no finish_reason'})")
        return as_drawn(
            self._engine.vocabulary,
            draw.stops,
            answer.token_ids,
            is_cut=answer.finish == "length",
            stop=answer.stop,
            logprob=answer.logprob,
            prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.cached_tokens or 0,
        )

    async def read_labels(self, prefix: Prefix, labels: tuple[int, ...], priority: int) -> LabelRead:
        """Log-probabilities of labels; see `cos.prm.ports.ReaderSession`."""
        draw = Draw(max_tokens=1, stops=Stops(), seed=0, temperature=0.0, priority=priority)
        answer = await self._continued(prefix, draw, labels)
        return LabelRead(answer.labels, answer.prompt_tokens, answer.cached_tokens or 0)

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        """What the head says before any activation; see `cos.prm.ports.ReaderSession`."""
        return await self._engine.ask_head([*self._ids, *self._checked(prefix)], priority)

    def _checked(self, prefix: Prefix) -> tuple[int, ...]:
        """The prefix. Errors: ChainTooLong."""
        ids = cast("tuple[int, ...]", prefix)
        if self.prompt_tokens + len(ids) + 1 > self._engine.context_tokens:
            raise ChainTooLong(
                f"a chain of {len(ids)} tokens is longer than the {self._engine.settings.role}'s context of "
                f"{self._engine.context_tokens} has room for"
            )
        return ids

    async def _continued(self, prefix: Prefix, draw: Draw, labels: tuple[int, ...] = ()) -> Answer:
        ids = self._checked(prefix)
        answer = await self._asked(ids, draw, labels)
        if answer.prompt_tokens != self.prompt_tokens + len(ids):
            # Some processors find no placeholder among the ids, and write the prompt as text and tokenise it again.
            raise self._engine.cannot(
                f"it read a prompt of {self.prompt_tokens + len(ids)} tokens as {answer.prompt_tokens} others; "
                "run this model in process"
            )
        return answer

    async def _asked(
        self, prefix: tuple[int, ...], draw: Draw, labels: tuple[int, ...] = (), *, tells_prompt: bool = False
    ) -> Answer:
        """Sends the pictures along where the other side may not have them."""
        asking = Asking(token_ids=[*self._ids, *prefix], draw=draw, labels=labels, tells_prompt=tells_prompt)
        if not self._pictures:
            return await self._engine.ask(asking)
        if (shows := self._shows) and self._misses < MOST_MISSES:
            ids = [*self._read, *prefix]
            try:
                return await self._engine.ask(
                    with_changes(asking, token_ids=ids, pictures=self._named, places=self._places)
                )
            except RemoteRefusal as error:
                if error.status not in (400, 500):
                    raise
                # It has forgotten a picture, or cannot do what it is asked: with the pictures it says which. All
                # requests that were under way find out, and it was forgotten once.
                if shows > self._missed:
                    self._missed = shows
                    self._misses += 1
        addresses = await asyncio.gather(*(self._engine.pictures.address(picture) for picture in self._pictures))
        shown = [{**named, "url": address} for named, address in zip(self._named, addresses, strict=True)]
        answer = await self._engine.ask(with_changes(asking, pictures=shown))
        self._shows += 1
        return answer
