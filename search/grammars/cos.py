"""The CoS step grammar: how a chain of steps is written, cut, read back and answered.

Source: arXiv 2509.19003, section 3.1 and the released serialiser (baaivision/CoS, eval/vqa/score_with_prm.py).

    chain  := <|reasoning_start|> NL  step ( <|reasoning_proceed|> NL  step )*  <|reasoning_end|> NL  answer
    step   := <|reasoning_step_start|> NL  name NL  thought NL  reflection NL  <|reasoning_step_end|> NL
    answer := "Answer:" NL <|answer_start|> ANSWER <|answer_end|>

A chain is cut right after ``<|reasoning_step_end|>`` and after ``<|answer_end|>``.
"""

from abc import ABCMeta
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from typing import cast

from msgspec import Struct, StructMeta

from cos.search.errors import InputError
from cos.search.grammar import Grammar, Span, token_ids, written
from cos.search.ports import Drawn, Encoder, Stops, Vocabulary
from cos.search.spelling import is_bracketed
from cos.search.types import Piece

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


@dataclass(frozen=True, slots=True)
class Step:
    """One reasoning step (paper, section 3.1)."""

    name: str
    thought: str
    reflection: str


PARTS = ("name", "thought", "reflection")
"""The parts of a step in order."""


class _FrozenMapping(StructMeta, ABCMeta):
    """The class of structs that are mappings."""


class _Fields(Struct, Mapping[str, str], metaclass=_FrozenMapping, frozen=True, gc=False, eq=False):
    """A step as the fields of a piece, in a quarter of a dict's memory: a server holds one for each candidate of each
    search."""

    name: str
    thought: str
    reflection: str

    def __getitem__(self, part: str) -> str:
        if part not in PARTS:
            raise KeyError(part)
        return getattr(self, part)

    def __iter__(self) -> Iterator[str]:
        return iter(PARTS)

    def __len__(self) -> int:
        return len(PARTS)

    def __eq__(self, other: object) -> bool:
        return Mapping.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        # That of a struct comes first, and goes by identity.
        return not self == other

    def values(self) -> ValuesView[str]:
        # Every candidate is asked for them; a tuple is read at a tenth of a view's cost.
        return cast("ValuesView[str]", (self.name, self.thought, self.reflection))


def step_piece(step: Step) -> Piece:
    """A step as a piece of a chain. One whose parts are all empty says nothing."""
    return _step_piece(step.name, step.thought, step.reflection)


def _step_piece(name: str, thought: str, reflection: str) -> Piece:
    said = f"{name}: {thought} {reflection}".strip()
    return Piece("step", "" if said == ":" else said, _Fields(name, thought, reflection))


def step_of(piece: Piece) -> Step:
    """The step that a piece is. What another grammar wrote is all thought, also where it calls one of its parts so."""
    fields = piece.fields
    if "thought" not in fields or not set(PARTS).issuperset(fields):
        return Step("", piece.text, "")
    return Step(fields.get("name", ""), fields["thought"], fields.get("reflection", ""))


def piece_of(content: Step | str) -> Piece:
    """A step, or, given as text, an answer."""
    return Piece("answer", content) if isinstance(content, str) else step_piece(content)


def spans_of(piece: Piece, *, first: bool) -> list[Span]:
    """A step or an answer as the format has it. ``first``: whether it begins its chain."""
    newline, start = Span("\n"), Span(REASONING_START, True)
    if piece.kind == "answer":
        lead = [start, newline] if first else [newline]
        answer = [Span("Answer:"), newline, Span(ANSWER_START, True), Span(piece.text), Span(ANSWER_END, True)]
        return [*lead, Span(REASONING_END, True), newline, *answer]
    step = step_of(piece)
    lead = [start, newline] if first else [newline, Span(REASONING_PROCEED, True), newline]
    fields = (
        (NAME_START, step.name, NAME_END),
        (THOUGHT_START, step.thought, THOUGHT_END),
        (REFLECTION_START, step.reflection, REFLECTION_END),
    )
    inner = [span for begin, text, end in fields for span in (Span(begin, True), Span(text), Span(end, True), newline)]
    return [*lead, Span(STEP_START, True), newline, *inner, Span(STEP_END, True)]


def step_text(step: Step, *, first: bool) -> str:
    """A step as a policy writes it, markup included."""
    return written(spans_of(step_piece(step), first=first))


def answer_text(answer: str, *, first: bool) -> str:
    """An answer as a policy writes it, markup included."""
    return written(spans_of(Piece("answer", answer), first=first))


def segment_ids(vocabulary: Encoder, content: Step | str, *, first: bool) -> tuple[int, ...]:
    """A step (or, given as text, an answer) as token ids. Errors: as `cos.search.grammar.token_ids`."""
    return token_ids(vocabulary, spans_of(piece_of(content), first=first))


def render_segments(steps: Sequence[Step], answer: str) -> list[str]:
    """A whole chain, piece by piece: the steps, then the answer.

    Joined they are the policy's text; with the step tag glued to the end of each, they are the PRM's input.
    """
    texts = [step_text(step, first=index == 0) for index, step in enumerate(steps)]
    return [*texts, answer_text(answer, first=not steps)]


class CosGrammar(Grammar):
    """Reads what a CoS policy writes. Token ids are looked up by their strings, once."""

    name = "cos"
    control_tokens = COS_TOKENS
    """All tokens of the format, the PRM's included."""

    @classmethod
    def recognises(cls, vocabulary: Vocabulary) -> bool:
        """By the tokens that end a step and the answer: no other policy has them."""
        return None not in (vocabulary.control_id(STEP_END), vocabulary.control_id(ANSWER_END))

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
        ids = {token: vocabulary.control_id(token) for token in (STEP_END, ANSWER_END, *PRM_TOKENS)}
        self._step_end, self._answer_end = ids[STEP_END], ids[ANSWER_END]
        self._stops = Stops(tuple(found for token in (STEP_END, ANSWER_END) if (found := ids[token]) is not None))
        self._foreign = frozenset(found for token in PRM_TOKENS if (found := ids[token]) is not None)

    @property
    def stops(self) -> Stops:
        """Tokens that end a step or the answer."""
        return self._stops

    def read(self, drawn: Drawn) -> Piece:
        """A piece that carries a PRM's tag or label, or lacks its fields, is broken: no PRM must take it for whole."""
        text = drawn.text
        if drawn.finish == "length":
            return Piece("truncated", text)
        if self._is_foreign(drawn):
            return Piece("broken", text)
        if drawn.stop == self._step_end:
            name = _between(text, NAME_START, NAME_END)
            thought = _between(text, THOUGHT_START, THOUGHT_END)
            reflection = _between(text, REFLECTION_START, REFLECTION_END)
            if name is None or thought is None or reflection is None:
                return Piece("broken", text)
            return _step_piece(name, thought, reflection)
        if drawn.stop == self._answer_end:
            answer = extract_answer(_between(text, ANSWER_START, ANSWER_END) or "")
            # With a token of the chain in it nobody could read it. The tag is letters too, so its ids decide, above.
            is_whole = bool(answer) and not any(token in answer for token in POLICY_TOKENS)
            return Piece("answer", answer) if is_whole else Piece("broken", text)
        return Piece("broken", text)

    def spans(self, piece: Piece, *, first: bool) -> list[Span]:
        return spans_of(piece, first=first)

    def brief(self, piece: Piece) -> str:
        """Name and thought."""
        step = step_of(piece)
        return f"{step.name}: {step.thought}"

    def _is_foreign(self, drawn: Drawn) -> bool:
        """Whether a PRM's tag or label stands in it. The tag is made of letters: where there are ids, they decide."""
        if isinstance(drawn.written, tuple):
            return not self._foreign.isdisjoint(drawn.written)
        return any(token in drawn.text for token in PRM_TOKENS)


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
