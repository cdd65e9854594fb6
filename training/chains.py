"""Chains as token ids: prompt, segments, tags, and the masks that say which token teaches what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cos.search.grammar import STEP_TAG, render_segments
from cos.training.ledger import Derivation, is_reading


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


UNKNOWN = -100
"""No target (the index that PyTorch's cross-entropy leaves out)."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One chain for training. All sequences have the length of ``ids``."""

    ids: list[int]
    should: list[int]
    """The token that should stand at this place, `UNKNOWN` where nobody can say: what is read or to be written."""
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
    return Encoded(ids, [UNKNOWN] * len(prompt) + turn, [-1.0] * len(ids), [False] * len(ids))


def encode_prm(
    tokenizer: Encodes,
    question: str,
    written: Sequence[str],
    gold: Derivation,
    image_tokens: int,
    answer_is_right: bool,
) -> Encoded:
    """A chain for PRM training, labelled by the exact checker.

    ``written`` are the chain's segments, the last one the answer. A step is good as long as it and all before it equal
    the gold derivation's (what a Monte-Carlo label tends to: from a false step on, few continuations end right); the
    answer is good when it is right. Beside the tags every token carries a verdict: good up to the first one of the
    chain that departs from gold. What should stand at a place is known in every reading of a row, which
    depends on the picture alone, up to and with the first departure of the chain, and where later segments still begin
    as gold does.
    """
    ids = tokenizer.encode(prompt_text(question, image_tokens), add_special_tokens=False)
    should, verdict, tags = [UNKNOWN] * len(ids), [-1.0] * len(ids), [False] * len(ids)
    golden = [tokenizer.encode(segment, add_special_tokens=False) for segment in segments_of(gold)]
    tag = tokenizer.get_vocab()[STEP_TAG]
    departed = False
    for index, segment in enumerate(written):
        tokens = tokenizer.encode(segment, add_special_tokens=False)
        last = index == len(written) - 1
        target = golden[-1] if last else (golden[index] if index < len(golden) - 1 else [])
        good = 0
        while good < min(len(tokens), len(target)) and tokens[good] == target[good]:
            good += 1
        same = good == len(tokens) == len(target)
        if index < len(gold.steps) and is_reading(gold.steps[index]) and len(tokens) == len(target):
            known = target
        else:
            # A later segment departs because it carries a mistake on: what should stand there is another question.
            known = target[: good if departed else good + 1][: len(tokens)]
        ids += [*tokens, tag]
        should += [*known, *[UNKNOWN] * (len(tokens) - len(known)), UNKNOWN]
        so_far = 0.0 if departed else 1.0
        departed = departed or not same
        step_is_good = answer_is_right if last else not departed
        verdict += [so_far] * good + [0.0] * (len(tokens) - good) + [1.0 if step_is_good else 0.0]
        tags += [False] * len(tokens) + [True]
    return Encoded(ids, should, verdict, tags)
