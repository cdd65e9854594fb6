"""The CoS step grammar: how a chain of steps is written, cut, read back and answered.

Source: arXiv 2509.19003, section 3.1 and the released serialiser (baaivision/CoS, eval/vqa/score_with_prm.py).

    chain  := <|reasoning_start|> NL  step ( <|reasoning_proceed|> NL  step )*  <|reasoning_end|> NL  answer
    step   := <|reasoning_step_start|> NL  name NL  thought NL  reflection NL  <|reasoning_step_end|> NL
    answer := "Answer:" NL <|answer_start|> ANSWER <|answer_end|>

A chain is cut right after ``<|reasoning_step_end|>`` and after ``<|answer_end|>``: what the policy writes from one cut
to the next is one *segment*, and a segment is what a search expands and a PRM scores.
"""

from collections.abc import Sequence

from msgspec import Struct

from cos.search.errors import InputError
from cos.search.ports import Encoder, Vocabulary
from cos.search.spelling import is_bracketed
from cos.search.types import End, Step

REASONING_START = "<|reasoning_start|>"
REASONING_END = "<|reasoning_end|>"
REASONING_PROCEED = "<|reasoning_proceed|>"
REASONING_BACKTRACK = "<|reasoning_backtrack|>"
STEP_START = "<|reasoning_step_start|>"
STEP_END = "<|reasoning_step_end|>"
NAME_START = "<|reasoning_step_name_start|>"
NAME_END = "<|reasoning_step_name_end|>"
THOUGHT_START = "<|reasoning_step_thought_start|>"
THOUGHT_END = "<|reasoning_step_thought_end|>"
REFLECTION_START = "<|reasoning_step_reflection_start|>"
REFLECTION_END = "<|reasoning_step_reflection_end|>"
ANSWER_START = "<|answer_start|>"
ANSWER_END = "<|answer_end|>"
STEP_TAG = "ки"
LABEL_GOOD = "к+и"
LABEL_BAD = "к-и"

POLICY_TOKENS = (
    REASONING_START,
    REASONING_END,
    REASONING_PROCEED,
    REASONING_BACKTRACK,
    STEP_START,
    STEP_END,
    NAME_START,
    NAME_END,
    THOUGHT_START,
    THOUGHT_END,
    REFLECTION_START,
    REFLECTION_END,
    ANSWER_START,
    ANSWER_END,
)
"""The tokens a policy writes, in the order in which the released code adds them."""

PRM_TOKENS = (STEP_TAG, LABEL_GOOD, LABEL_BAD)
"""The step tag and its two labels: PRM input and output only, never the policy's."""

COS_TOKENS = POLICY_TOKENS + PRM_TOKENS


def step_pieces(step: Step, *, first: bool) -> list[str]:
    """A step's segment in pieces: control tokens, fields and newlines each apart, so that a field stays plain text."""
    lead = [REASONING_START, "\n"] if first else ["\n", REASONING_PROCEED, "\n"]
    fields = (
        (NAME_START, step.name, NAME_END),
        (THOUGHT_START, step.thought, THOUGHT_END),
        (REFLECTION_START, step.reflection, REFLECTION_END),
    )
    return [*lead, STEP_START, "\n", *(piece for field in fields for piece in (*field, "\n")), STEP_END]


def answer_pieces(answer: str, *, first: bool) -> list[str]:
    """The answer's segment in pieces; ``first`` when no step comes before it."""
    lead = [REASONING_START, "\n", REASONING_END, "\n"] if first else ["\n", REASONING_END, "\n"]
    return [*lead, "Answer:", "\n", ANSWER_START, answer, ANSWER_END]


def segment_ids(vocabulary: Encoder, content: Step | str, *, first: bool) -> tuple[int, ...]:
    """A step (or, given as text, an answer) as token ids. Only what the grammar itself writes becomes a control token;
    a field that spells one stays text.

    Errors: ValueError when the vocabulary lacks a control token of the grammar.
    """
    if isinstance(content, Step):
        pieces, markup = step_pieces(content, first=first), step_pieces(Step("", "", ""), first=first)
    else:
        pieces, markup = answer_pieces(content, first=first), answer_pieces("", first=first)
    ids: list[int] = []
    for piece, own in zip(pieces, markup, strict=True):
        if own not in POLICY_TOKENS:
            ids += vocabulary.encode(piece)
        elif (control := vocabulary.control_id(own)) is not None:
            ids.append(control)
        else:
            raise ValueError(f"the vocabulary has no control token {own!r}")
    return tuple(ids)


def render_segments(steps: Sequence[Step], answer: str) -> list[str]:
    """A whole chain as its segments: one for each step, then the one with the answer.

    Joined they are the policy's text; with the step tag glued to the end of each, they are the PRM's input.
    """
    segments = ["".join(step_pieces(step, first=index == 0)) for index, step in enumerate(steps)]
    return [*segments, "".join(answer_pieces(answer, first=not steps))]


class Segment(Struct, frozen=True, gc=False):
    """What one segment of the policy's text turned out to be."""

    end: End
    step: Step | None = None
    answer: str | None = None


class CosGrammar:
    """Reads what a CoS policy writes. Token ids are looked up by their strings, once."""

    name = "cos"

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Errors: InputError naming the tokens that the vocabulary lacks."""
        missing = [
            token for token in POLICY_TOKENS if token != REASONING_BACKTRACK and vocabulary.control_id(token) is None
        ]
        if missing:
            raise InputError(
                f"the policy's tokenizer lacks the step tokens {', '.join(missing)}; "
                "give a policy trained on the CoS step format",
                "policy",
            )
        self._step_end = _must(vocabulary.control_id(STEP_END))
        self._answer_end = _must(vocabulary.control_id(ANSWER_END))
        self._foreign = frozenset(
            token_id for token in PRM_TOKENS if (token_id := vocabulary.control_id(token)) is not None
        )

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a segment."""
        return (self._step_end, self._answer_end)

    def read(self, token_ids: Sequence[int], text: str, *, cut: bool) -> Segment:
        """What a segment is; ``cut`` says that a token limit ended it.

        A segment that carries a PRM tag or label, or lacks its fields, is broken: it must never look whole to a PRM.
        """
        if cut:
            return Segment("truncated")
        if not token_ids or not self._foreign.isdisjoint(token_ids):
            return Segment("broken")
        if token_ids[-1] == self._step_end:
            name = _between(text, NAME_START, NAME_END)
            thought = _between(text, THOUGHT_START, THOUGHT_END)
            reflection = _between(text, REFLECTION_START, REFLECTION_END)
            if name is None or thought is None or reflection is None:
                return Segment("broken")
            return Segment("step", step=Step(name, thought, reflection))
        if token_ids[-1] == self._answer_end:
            answer = extract_answer(_between(text, ANSWER_START, ANSWER_END) or "")
            # With a token of the chain in it nobody could read it. The tag is letters too, so its ids decide, above.
            is_whole = bool(answer) and not any(token in answer for token in POLICY_TOKENS)
            return Segment("answer", answer=answer) if is_whole else Segment("broken")
        return Segment("broken")


def extract_answer(text: str) -> str:
    """The answer between its tags: white space, then surrounding brackets dropped (paper's released evaluation).
    A point or an interval, which has a comma, keeps its brackets."""
    text = text.strip()
    return text[1:-1].strip() if is_bracketed(text) and "," not in text else text


def _between(text: str, start: str, end: str) -> str | None:
    """What stands between the first ``start`` and the ``end`` behind it, without white space around it."""
    begin = text.find(start)
    close = text.find(end, begin + len(start))
    return None if begin < 0 or close < 0 else text[begin + len(start) : close].strip()


def _must(token_id: int | None) -> int:
    assert token_id is not None, "checked by the caller"
    return token_id
