"""A runtime without a model that counts tokens as vLLM does: whole words for tokens, and a cache of prefixes in blocks.

It tells what a PRM format asks for, request by request. What it replies means nothing.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cos.search.ports import Ability, Draw, Drawn, HeadRead, LabelRead
from cos.search.prompt import Prompt, TurnMarks
from cos.search.types import Prefix

PICTURE_TOKENS = 256
"""Of one tile of InternVL."""
_WORDS = re.compile(r" ?[^\W\d_]+|\d| ?[^\w\s]+[\r\n]*|_|\s*[\r\n]+|\s+(?!\S)|\s+")
"""As byte-level tokenizers cut text before they look words up. Common words are one token each."""

Ids = tuple[int, ...]


class WordVocabulary:
    """Every word is a token, and so is whatever a format asks for; see `cos.search.ports.Vocabulary`."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._ids: dict[tuple[str, bool], int] = {}
        self._texts: list[str] = []

    def encode(self, text: str) -> Ids:
        """A token for each word, digit, sign and run of white space."""
        return tuple(self._id(word, is_control=False) for word in _WORDS.findall(text))

    def control_id(self, token: str) -> int:
        """Of any text there is a token."""
        return self._id(token, is_control=True)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text."""
        return "".join(self._texts[its_id] for its_id in token_ids)

    def _id(self, text: str, *, is_control: bool) -> int:
        found = self._ids.setdefault((text, is_control), len(self._texts))
        if found == len(self._texts):
            self._texts.append(text)
        return found


class PrefixCache:
    """Which tokens of a prompt vLLM need not compute: whole blocks that an earlier request has computed, in the same
    place behind the same tokens; never the last token, behind which something is to be read."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._blocks: set[Ids] = set()
        """Each by all tokens up to its end."""

    def cached(self, prompt: Ids) -> int:
        """How many tokens of a prompt are there."""
        size, found = self._block_tokens, 0
        while found + size < len(prompt) and prompt[: found + size] in self._blocks:
            found += size
        return found

    def keep(self, computed: Ids) -> None:
        """Keeps what a request has computed: its prompt, and what it has written but for the last token."""
        size = self._block_tokens
        self._blocks.update(computed[:end] for end in range(size, len(computed) + 1, size))


class CountingRuntime:
    """Satisfies `cos.prm.ports.Reader`."""

    abilities: frozenset[Ability] = frozenset(("labels", "head", "text"))
    model = "counting"
    files: frozenset[str] = frozenset()

    def __init__(self, vocabulary: WordVocabulary, cache: PrefixCache, verdict_words: int) -> None:
        self.vocabulary = vocabulary
        self.cache = cache
        self.verdict_words = verdict_words
        self.head_values = 1
        self.requests = 0
        self.longest = 0
        """Tokens of the longest request, prompt and what was written."""

    @property
    def config(self) -> Mapping[str, Any]:
        return {}

    def turn_marks(self) -> TurnMarks:
        """ChatML."""
        return TurnMarks(
            (*self._ended(), *self._begun("assistant")),
            (*self._ended(), *self._begun("user")),
        )

    def reply_marks(self) -> TurnMarks:
        """As between all turns."""
        return self.turn_marks()

    async def open(self, prompt: Prompt) -> "CountingSession":
        """Renders a prompt in ChatML, each picture as one tile."""
        return CountingSession(self, self.render(prompt))

    def render(self, prompt: Prompt) -> Ids:
        """Token ids of a prompt."""
        encode, ids = self.vocabulary.encode, list[int]()
        if prompt.rendering in ("raw", "raw_with_bos"):
            return tuple(its_id for turn in prompt.turns for its_id in encode(turn.text))
        for number, turn in enumerate(prompt.turns, 1):
            ids += self._begun(turn.role)
            for part in turn.parts:
                ids += (
                    encode(part) if isinstance(part, str) else [self.vocabulary.control_id("picture")] * PICTURE_TOKENS
                )
            is_left_open = turn.role == "assistant" and prompt.rendering != "ended"
            if number < len(prompt.turns) or not (
                is_left_open or (turn.role == "user" and prompt.rendering == "open_turn")
            ):
                ids += self._ended()
        if prompt.turns[-1].role == "user" and prompt.rendering != "open_turn":
            ids += self._begun("assistant")
        return tuple(ids)

    def _begun(self, role: str) -> Ids:
        return (self.vocabulary.control_id("<|im_start|>"), *self.vocabulary.encode(f"{role}\n"))

    def _ended(self) -> Ids:
        return (self.vocabulary.control_id("<|im_end|>"), *self.vocabulary.encode("\n"))


class CountingSession:
    """One prompt."""

    tokens_aborted = 0

    def __init__(self, runtime: CountingRuntime, ids: Ids) -> None:
        self.ids = ids
        self._runtime = runtime

    @property
    def prompt_tokens(self) -> int:
        return len(self.ids)

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        """A verdict of as many words as the runtime says, that keeps to any format: it calls a step right, and ends as
        the format wants. Where JSON is asked for, it is that alone."""
        vocabulary = self._runtime.vocabulary
        stop = draw.stops.strings[0] if draw.stops.strings else None
        text = f"{' so' * self._runtime.verdict_words} \\boxed{{correct}} {stop}"
        if draw.json_schema is not None:
            text = '{"right": true}'
        written = vocabulary.encode(text)
        prompt, cached = self._request(prefix, written)
        return Drawn(
            written=written,
            text=text,
            tokens=len(written),
            finish="stop",
            stop=stop,
            logprob=None,
            prompt_tokens=prompt,
            cached_tokens=cached,
        )

    async def read_labels(self, prefix: Prefix, labels: Ids, priority: int) -> LabelRead:
        """All alike."""
        del priority
        return LabelRead((math.log(1 / len(labels)),) * len(labels), *self._request(prefix))

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        """As many values as the runtime says."""
        del priority
        return HeadRead((0.0,) * self._runtime.head_values, *self._request(prefix))

    def _request(self, prefix: Prefix, written: Ids = ()) -> tuple[int, int]:
        """Tokens of the prompt, and how many of them were cached."""
        if not isinstance(prefix, tuple):
            raise TypeError("this runtime continues token ids")
        prompt: Ids = (*self.ids, *prefix)
        cached = self._runtime.cache.cached(prompt)
        self._runtime.cache.keep((*prompt, *written[:-1]))
        self._runtime.requests += 1
        self._runtime.longest = max(self._runtime.longest, len(prompt) + len(written))
        return len(prompt), cached
