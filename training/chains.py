"""Chains as token ids: prompt, segments, tags, and the masks that say which token teaches what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cos.search.grammar import STEP_TAG, render_segments
from cos.training.ledger import Derivation


class Encodes(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def get_vocab(self) -> dict[str, int]: ...


def segments_of(derivation: Derivation) -> list[str]:
    """The segments of a written-out chain: its steps, then its answer."""
    return render_segments(derivation.steps, derivation.answer)


def chain_text(derivation: Derivation, *, tagged: bool) -> str:
    """The chain as the policy writes it, or ``tagged`` as the PRM reads it."""
    return "".join(segment + (STEP_TAG if tagged else "") for segment in segments_of(derivation))


def prompt_text(question: str, image_tokens: int) -> str:
    """The expanded chat prompt up to where the policy begins."""
    image = "<img>" + "<IMG_CONTEXT>" * image_tokens + "</img>\n"
    return f"<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True, slots=True)
class Encoded:
    """One chain for training. All sequences have the length of ``ids``."""

    ids: list[int]
    teaches_next: list[bool]
    """Whether the token *at* this place is a target of the language-model loss."""
    verdict: list[float]
    """1 good, 0 bad, -1 none: the target of the label loss at this place (unshifted)."""
    is_tag: list[bool]


def encode_policy(tokenizer: Encodes, question: str, derivation: Derivation, image_tokens: int) -> Encoded:
    """A gold chain for step SFT: every token of the assistant's turn is taught, its end included."""
    prompt = tokenizer.encode(prompt_text(question, image_tokens), add_special_tokens=False)
    turn = [
        token for segment in segments_of(derivation) for token in tokenizer.encode(segment, add_special_tokens=False)
    ] + [tokenizer.get_vocab()["<|im_end|>"]]
    ids = prompt + turn
    return Encoded(ids, [False] * len(prompt) + [True] * len(turn), [-1.0] * len(ids), [False] * len(ids))


def encode_prm(
    tokenizer: Encodes,
    question: str,
    written: Sequence[str],
    gold: Derivation,
    image_tokens: int,
    answer_is_right: bool,
) -> Encoded:
    """A chain for PRM training, labelled by the exact checker.

    ``written`` are the chain's segments, the last one the answer; a segment is good when it equals the gold one, the
    answer when it is right. Beside the tags' labels every token of a segment carries the verdict on the segment so far:
    good up to the first token that departs from gold, bad from there on. That dense signal is what makes comparing a
    written digit with the pictured one learnable in minutes. The language-model loss covers what is still gold.
    """
    ids = tokenizer.encode(prompt_text(question, image_tokens), add_special_tokens=False)
    teaches, verdict, tags = [False] * len(ids), [-1.0] * len(ids), [False] * len(ids)
    golden = [tokenizer.encode(segment, add_special_tokens=False) for segment in segments_of(gold)]
    tag = tokenizer.get_vocab()[STEP_TAG]
    for index, segment in enumerate(written):
        tokens = tokenizer.encode(segment, add_special_tokens=False)
        last = index == len(written) - 1
        target = golden[-1] if last else (golden[index] if index < len(golden) - 1 else [])
        good = 0
        while good < min(len(tokens), len(target)) and tokens[good] == target[good]:
            good += 1
        right = answer_is_right if last else good == len(tokens) == len(target)
        ids += [*tokens, tag]
        # The first departing token is taught too: its place in the picture tells what should have stood there.
        teaches += [True] * good + [False] * (len(tokens) - good) + [False]
        verdict += [1.0] * good + [0.0] * (len(tokens) - good) + [1.0 if right else 0.0]
        tags += [False] * len(tokens) + [True]
    return Encoded(ids, teaches, verdict, tags)
