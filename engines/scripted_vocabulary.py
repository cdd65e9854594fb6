"""A vocabulary without a model: control tokens, and the bytes of UTF-8."""

import re
from collections.abc import Sequence
from functools import lru_cache

from cos.search.grammars.cos import CosGrammar

TURN_END = "<|im_end|>"
"""What a model writes when it is done and nothing stopped it before."""


class ScriptedVocabulary:
    """Control tokens first, then the 256 bytes of UTF-8: plain text can never spell a control token."""

    def __init__(self, controls: Sequence[str] = CosGrammar.control_tokens) -> None:
        self._tokens = [*controls, TURN_END]
        self._first_byte = len(self._tokens)
        self._pieces = [*(token.encode() for token in self._tokens), *(bytes([byte]) for byte in range(256))]
        self._controls = {token: index for index, token in enumerate(self._tokens)}
        self._encoded = lru_cache(maxsize=1024)(self._encode_markup)
        self._decoded = lru_cache(maxsize=1024)(self._decode)
        self._pattern = _any_of(self._tokens)

    @property
    def fingerprint(self) -> str:
        return f"scripted: {' '.join(self._tokens)}"

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(self._first_byte.__add__, text.encode()))

    def encode_markup(self, text: str) -> tuple[int, ...]:
        """Text whose control tokens are meant."""
        return self._encoded(text)

    def _encode_markup(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        end = 0
        for match in self._pattern.finditer(text):
            ids += self.encode(text[end : match.start()])
            ids.append(self._controls[match.group()])
            end = match.end()
        return (*ids, *self.encode(text[end:]))

    def decode(self, token_ids: Sequence[int]) -> str:
        # A copy is kept, so that the cache holds on to nothing of the caller's.
        return self._decoded((*token_ids,))

    def _decode(self, token_ids: tuple[int, ...]) -> str:
        return b"".join(map(self._pieces.__getitem__, token_ids)).decode(errors="replace")

    def control_id(self, token: str) -> int | None:
        return self._controls.get(token)

    def reach(self, token_ids: Sequence[int], characters: int) -> int:
        """How many of the tokens it takes to write so many characters of their text."""
        size, wanted = 0, len(self.decode(token_ids)[:characters].encode())
        for number, token in enumerate(token_ids, 1):
            size += len(self._pieces[token])
            if size >= wanted:
                return number
        return len(token_ids)


class OpenVocabulary(ScriptedVocabulary):
    """One that has every token it is asked for, such as a grammar's mark or a PRM format's label of a whole word: it
    stands in for the tokenizer of a checkpoint that nobody has named."""

    def control_id(self, token: str) -> int | None:
        known = super().control_id(token)
        if known is not None or not token:
            return known
        # Behind all others, so that those keep their ids.
        self._controls[token] = len(self._pieces)
        self._pieces.append(token.encode())
        self._tokens.append(token)
        self._pattern = _any_of(self._tokens)
        self._encoded.cache_clear()
        return self._controls[token]


def _any_of(tokens: Sequence[str]) -> re.Pattern[str]:
    """Finds the longest token that stands anywhere."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
