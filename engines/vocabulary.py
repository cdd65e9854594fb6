"""A Hugging Face tokenizer as the search sees it, and the chat prompt around a question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cos.search.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTION = "\u2400question\u2400"
"""Stands for the question while the chat template is rendered."""


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
        split = [token for token in added if len(token) > 1]
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

    def decode(self, token_ids: Sequence[int]) -> str:
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


class ChatPrompt:
    """Renders the prompt of a question through a model's chat template, tokenising the question as plain text.

    Serving and training both do it here. The chat template alone says which control tokens stand in a prompt: a
    tokenizer that begins texts with a token of its own adds none, as in ``vllm serve``.
    """

    def __init__(self, vocabulary: HfVocabulary, templater: Any, suffix: str = "") -> None:
        """``templater``: a tokenizer or processor with ``apply_chat_template``. ``suffix``: put on a line of its own
        behind every question (the trigger sentence that some CoS checkpoints were trained with)."""
        self._vocabulary = vocabulary
        self._suffix = suffix
        self._with_image = self._render(templater, image=True)
        self._without = self._render(templater, image=False)
        self._picture_first = self._with_image[0] != self._without[0]

    @staticmethod
    def _render(templater: Any, *, image: bool) -> tuple[str, str]:
        parts = [{"type": "image"}] if image else []
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": _QUESTION}]}]
        text: str = templater.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if text.count(_QUESTION) != 1 or "'type'" in text:
            messages = [{"role": "user", "content": f"<image>\n{_QUESTION}" if image else _QUESTION}]
            text = templater.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if text.count(_QUESTION) != 1:
            raise InputError("the model's chat template does not put the question into the prompt once", "policy")
        head, tail = text.split(_QUESTION)
        return head, tail

    @property
    def picture(self) -> str:
        """The markup on that side of the question where the picture is shown, by a placeholder that the checkpoint's
        processor expands."""
        head, tail = self._with_image
        return head if self._picture_first else tail

    def around_picture(self, question: str, *, bare: bool = False) -> tuple[list[int], list[int]]:
        """Token ids before and behind `picture`. ``bare``: without the suffix."""
        head, tail = self._with_image
        asked = self._asked(question, bare=bare)
        if self._picture_first:
            return [], [*asked, *self._vocabulary.encode_markup(tail)]
        return [*self._vocabulary.encode_markup(head), *asked], []

    def token_ids(self, question: str, *, image: bool, bare: bool = False) -> list[int]:
        """The prompt with an unexpanded image placeholder. ``bare``: without the suffix."""
        if image:
            before, behind = self.around_picture(question, bare=bare)
            return [*before, *self._vocabulary.encode_markup(self.picture), *behind]
        head, tail = map(self._vocabulary.encode_markup, self._without)
        return [*head, *self._asked(question, bare=bare), *tail]

    def _asked(self, question: str, *, bare: bool) -> tuple[int, ...]:
        return self._vocabulary.encode(f"{question}\n{self._suffix}" if self._suffix and not bare else question)


def templater_of(processor: Any) -> Any:
    """What renders a checkpoint's chat template: its processor when that has one, else the processor's tokenizer."""
    return processor if getattr(processor, "chat_template", None) else getattr(processor, "tokenizer", processor)
