"""What two answers say, compared by their canonical forms (`cos.search.canonical`).

Beyond those (algebra, roots, unions) it does not pretend to know: the comparison is undecided, and
`cos.search.math_answers` may be asked. Equality is symmetrical and every answer equals itself; decimals have a
tolerance, so that it is not transitive, and groups are formed around their first member (`Shelf`).
"""

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from cos.search.canonical import Form, Number, form_of
from cos.search.ports import Pair
from cos.search.spelling import tidy

Verdict = Literal["equal", "different", "undecided"]

TOLERANCE = Fraction(1, 10_000)
"""Two numbers of which one has a decimal point are the same when they differ by less than this share of the larger."""
MONEY = ("dollar", "euro", "pound", "yen", "cent")

_LETTER = re.compile(r"^(?:option|choice|answer)?\s*(?:\(\s*([a-z])\s*\)|([a-z])\s*[).:]|([a-z]))(?:\s+(.*))?$")


def equal(one: str, other: str) -> bool:
    """Whether two answers are known to say the same."""
    return compare(one, other) == "equal"


def compare(one: str, other: str) -> Verdict:
    """Whether two answers say the same. Never raises."""
    letters = letter(plain(one)), letter(plain(other))
    if letters[0] is not None and letters[1] is not None:
        return "equal" if letters[0][0] == letters[1][0] else "different"
    for named, text in ((letters[0], other), (letters[1], one)):
        if named is not None and named[1] and same(form_of(named[1]), form_of(text)) == "equal":
            return "equal"
    return same(form_of(one), form_of(other))


def same(one: Form, other: Form) -> Verdict:
    """Whether two forms say the same."""
    if one == other:
        return "equal"
    if one.number is not None and other.number is not None:
        return "equal" if _close(one.number, other.number) else "different"
    if one.kind != other.kind:
        # Algebra may be worth a number; text and the time of day never are.
        is_apart = {one.kind, other.kind} & {"text", "time"} or (_is_plain(one) and _is_plain(other))
        return "different" if is_apart else "undecided"
    if one.kind not in ("group", "relation"):
        return "undecided" if one.kind == "maths" else "different"
    if one.kind == "relation":
        verdicts = [same(mine, its) for mine, its in zip(one.parts, other.parts, strict=True)]
        return "equal" if one.text == other.text and set(verdicts) == {"equal"} else "undecided"
    if one.text != other.text or len(one.parts) != len(other.parts):
        return "different" if _is_plain(one) and _is_plain(other) else "undecided"
    verdicts = [same(mine, its) for mine, its in zip(one.parts, other.parts, strict=True)]
    if "different" in verdicts:
        return "undecided" if one.text == "{}" and not (_is_plain(one) and _is_plain(other)) else "different"
    return "undecided" if "undecided" in verdicts else "equal"


def may_be_undecided(answer: str) -> bool:
    """Whether this answer has something that only algebra can compare. Two answers without it are never undecided."""
    return not _is_plain(form_of(answer))


def _is_plain(form: Form) -> bool:
    """Whether nothing in a form is left to algebra."""
    return form.kind not in ("maths", "relation") and all(_is_plain(part) for part in form.parts)


def _close(one: Number, other: Number) -> bool:
    if one.unit and other.unit and one.unit != other.unit:
        return False
    is_money = one.unit in MONEY or other.unit in MONEY
    is_whole = one.value.denominator == other.value.denominator == 1
    if is_money or is_whole or (one.is_exact and other.is_exact):
        return one.value == other.value
    return abs(one.value - other.value) <= TOLERANCE * max(abs(one.value), abs(other.value))


def plain(answer: str) -> str:
    """An answer without what does not count, case included, and without a leading article."""
    return re.sub(r"^(?:the|an?)\s+", "", tidy(answer).casefold())


def letter(text: str) -> tuple[str, str] | None:
    """The option letter of a plain answer and what stands behind it; None where it names none."""
    found = _LETTER.match(text)
    if found is None:
        return None
    bare, rest = found.group(3), (found.group(4) or "").strip()
    # "a cat" is text, and so is any one letter with words behind it.
    return None if bare and rest else (next(filter(None, found.groups()[:3])), rest)


class Shelf:
    """Groups of answers that say the same, found without comparing each with all: only with those in its places."""

    def __init__(self) -> None:
        self.first: list[str] = []
        """The first answer of each group."""
        self._places: dict[object, list[int]] = {}

    def put(self, answer: str) -> int:
        """The index of the first group whose first answer it agrees with, a new one's where there is none."""
        near = sorted({index for place in _near(answer) for index in self._places.get(place, ())})
        for index in near:
            if equal(answer, self.first[index]):
                return index
        self.first.append(answer)
        for place in _places(answer):
            self._places.setdefault(place, []).append(len(self.first) - 1)
        return len(self.first) - 1


def _places(answer: str) -> list[object]:
    """Where an answer stands: two that are equal share a place, or have neighbouring ones."""
    named = letter(plain(answer))
    if named is not None:
        return [("letter", named[0]), *([_place(form_of(named[1]))] if named[1] else []), _place(form_of(answer))]
    return [_place(form_of(answer))]


def _near(answer: str) -> list[object]:
    near = list[object]()
    for place in _places(answer):
        match place:
            case ("number", int(sign), int(size)):
                near += [("number", sign, size + step) for step in (-1, 0, 1)]
            case _:
                near.append(place)
    return near


def _place(form: Form) -> object:
    if form.number is not None:
        value = form.number.value
        if not value:
            return ("number", 0, 0)
        size = math.log(abs(value.numerator)) - math.log(value.denominator)
        return ("number", 1 if value > 0 else -1, math.floor(size / (2 * TOLERANCE)))
    if form.kind in ("group", "relation"):
        return (form.kind, form.text, len(form.parts), *(_whole(part) for part in form.parts))
    return form


def _whole(form: Form) -> object:
    """A part's place in a group: a number's sign, as a decimal may stand for it, and else the part itself."""
    return form.kind if form.number is not None or form.parts else form


class PlainComparer:
    """Satisfies `cos.search.ports.Comparer` without any help: what is undecided is not equal."""

    async def agree(self, pairs: Sequence[Pair]) -> list[bool | None]:
        return [equal(*pair) for pair in pairs]


def choice_of(answer: str, choices: tuple[str, ...]) -> int | None:
    """The index of the option an answer means: by its text, or by its letter, the first being A; None for no option."""
    by_text = [index for index, choice in enumerate(choices) if equal(answer, choice)]
    if by_text:
        return by_text[0]
    named = letter(plain(answer))
    index = ord(named[0]) - ord("a") if named else -1
    has_letters = any(letter(plain(choice)) for choice in choices)
    return index if not has_letters and 0 <= index < len(choices) else None


def meant(answer: str | None, choices: tuple[str, ...]) -> str | None:
    """The choice that an answer means; None where it means none."""
    index = None if answer is None else choice_of(answer, choices)
    return None if index is None else choices[index]
