"""A Hugging Face tokenizer as the search sees it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def neutral_pieces(text: str, controls: Sequence[str]) -> list[str]:
    """``text`` cut so that no piece holds a control token beside other text: each occurrence is split behind its first
    character, and one of a single character is a piece of its own."""
    pieces = [text]
    for control in controls:
        split: list[str] = []
        for piece in pieces:
            start = 0
            while (found := piece.find(control, start)) >= 0:
                if len(control) == 1:
                    split.append(piece[start:found])
                    start = found
                split.append(piece[start : found + 1])
                start = found + 1
            split.append(piece[start:])
        pieces = split
    return [piece for piece in pieces if piece]


class HfVocabulary:
    """A tokenizer; see `cos.search.ports.Vocabulary`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer: Any = tokenizer
        added: dict[str, int] = self._tokenizer.get_added_vocab()
        self._controls = dict(added)
        self._spelt = {its_id: token for token, its_id in added.items()}
        table: dict[str, int] = self._tokenizer.get_vocab()
        merges = (
            json.loads(self._tokenizer.backend_tokenizer.to_str())["model"].get("merges", [])
            if tokenizer.is_fast
            else []
        )
        digest = hashlib.sha256(json.dumps([sorted(table.items()), merges]).encode())
        self._fingerprint = digest.hexdigest()
        self._plain = _plain_ids(self._tokenizer, {token: its_id for token, its_id in added.items() if len(token) == 1})
        # Longest first: a control token inside another one is met after the longer one has been split.
        # Runs of blanks and line ends are ordinary text, even where a tokenizer lists them (Gemma's).
        split = [token for token in added if len(token) > 1 and not token.isspace()]
        self._spellings = [*sorted(split, key=len, reverse=True), *self._plain]

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def encode(self, text: str) -> tuple[int, ...]:
        """Plain text only: control tokens spelt in it stay text."""
        ids: list[int] = []
        for piece in neutral_pieces(text, self._spellings):
            plain = self._plain.get(piece)
            ids += self._tokenizer.encode(piece, add_special_tokens=False) if plain is None else plain
        return tuple(ids)

    def encode_markup(self, text: str) -> tuple[int, ...]:
        """Our own text, whose control tokens are meant."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def opening(self) -> tuple[int, ...]:
        """The tokens of its own that the tokenizer puts before a text that has no chat template."""
        bare, whole = (self._tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
        begins = (place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
        return tuple(whole[: next(begins, 0)])

    @property
    def bos(self) -> tuple[int, ...]:
        """The beginning-of-sequence token; empty for a tokenizer that has none."""
        its_id: int | None = self._tokenizer.bos_token_id
        return () if its_id is None else (its_id,)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Control tokens as they are spelt. A tokenizer in Python puts spaces around them: it is given what stands
        between them."""
        if self._tokenizer.is_fast:
            return self._decoded(token_ids)
        runs = groupby(token_ids, key=self._spelt.get)
        return "".join(self._decoded(run) if spelt is None else spelt * len([*run]) for spelt, run in runs)

    def _decoded(self, token_ids: Iterable[int]) -> str:
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def control_id(self, token: str) -> int | None:
        return self._controls.get(token)


def _plain_ids(tokenizer: Any, controls: Mapping[str, int]) -> dict[str, list[int]]:
    """Control tokens of one character as plain text: the ids that the tokenizer gives when it does not know them as
    tokens. One that has its own id even then (a newline that is listed among the added tokens, a padding token that is
    "!") is left out: text has always had that id."""
    if not controls:
        return {}
    if tokenizer.is_fast:
        from tokenizers import Tokenizer

        # A copy: the tokenizer's own switch for this would be turned for all who share it.
        described = json.loads(tokenizer.backend_tokenizer.to_str())
        bare = Tokenizer.from_str(json.dumps({**described, "added_tokens": [], "truncation": None, "padding": None}))
        found = {token: bare.encode(token, add_special_tokens=False).ids for token in controls}
    else:
        found = {
            token: tokenizer.encode(token, add_special_tokens=False, split_special_tokens=True) for token in controls
        }
    return {token: ids for token, ids in found.items() if controls[token] not in ids}
