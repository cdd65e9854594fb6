"""What two answers say, compared: option letters, numbers, fractions, percentages, quantities, text.

Beyond that (algebra, roots, sets, intervals) it does not pretend to know: the comparison is undecided, and
`cos.search.math_answers` may be asked. Equality is symmetrical and every answer equals itself; numbers that are not
whole have a tolerance, so that it is not transitive, and groups are formed around their first member (`group`).
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

Verdict = Literal["equal", "different", "undecided"]

TOLERANCE = Fraction(1, 10_000)
"""Two numbers of which one is not whole are the same when they differ by less than this share of the larger."""
LONGEST = 200
"""Characters; a longer answer is compared as text."""
LONGEST_EXPONENT = 30

_WRAPPER = re.compile(
    r"^(?:\\boxed\s*\{(?P<boxed>.*)\}|\\\((?P<math>.*)\\\)|\$(?P<dollar>[^$]*)\$|\\text\s*\{(?P<text>[^{}]*)\})$"
)
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-"))
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_LETTER = re.compile(r"^(?:option|choice|answer)?\s*(?:\(\s*([a-z])\s*\)|([a-z])\s*[).:]|([a-z]))(?:\s+(.*))?$")
_NUMBER = re.compile(
    r"^(?P<currency>[$\u20ac\u00a3\u00a5])?\s*(?P<sign>[-+])?\s*(?P<currency_behind>[$\u20ac\u00a3\u00a5])?"
    r"(?:(?P<whole>\d+)\s+)?(?P<top>\d+)\s*/\s*(?P<bottom>\d+)(?P<unit>.*)$"
    r"|^(?P<currency2>[$\u20ac\u00a3\u00a5])?\s*(?P<sign2>[-+])?\s*(?P<currency_behind2>[$\u20ac\u00a3\u00a5])?"
    r"(?P<decimal>\d+(?:\.\d+)?|\.\d+)(?:e(?P<exponent>[-+]?\d+))?(?P<unit2>.*)$",
    re.DOTALL,
)
_UNIT = re.compile(r"[^\W\d_](?:[^\W\d_]|[ ./\u00b2\u00b3\u00b0])*|\u00b0\s*[cf]?")
_MATHS = re.compile(
    r"\\[a-z]+|[\^\u221a\u03c0=<>\u222a{}|]|sqrt|\d\s*[a-z]\b"
    r"|\b[a-z]\s*[*/+-]\s*[\w(]|[\d)]\s*[*/+-]\s*\(?[a-z]\b|^[\[(].*,.*[\])]$",
    re.DOTALL,
)
_ARTICLES = re.compile(r"^(?:the|an?)\s+")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, and what it counts."""

    number: Fraction
    unit: str


def equal(one: str, other: str) -> bool:
    """Whether two answers are known to say the same."""
    return compare(one, other) == "equal"


def compare(one: str, other: str) -> Verdict:
    """Whether two answers say the same. Never raises."""
    first, second = plain(one), plain(other)
    if first == second:
        return "equal"
    if max(len(first), len(second)) > LONGEST:
        return "different"
    if (verdict := _compare_letters(first, second)) is not None:
        return verdict
    one_number, other_number = quantity(first), quantity(second)
    if one_number is not None and other_number is not None:
        return "equal" if _same(one_number, other_number) else "different"
    one_maths, other_maths = (_MATHS.search(text) is not None for text in (first, second))
    # Algebra may be worth a number; two texts of which one is neither are different.
    both = (one_maths or one_number is not None) and (other_maths or other_number is not None)
    return "undecided" if both else "different"


@lru_cache(maxsize=4096)
def plain(answer: str) -> str:
    """An answer without what does not count: case, spacing, wrappers, outer punctuation, thousands separators and a
    leading article."""
    text = " ".join(unicodedata.normalize("NFKC", answer).translate(_DASHES).split())
    text = text.casefold()
    while (found := _WRAPPER.match(text)) is not None:
        text = next(part for part in found.groups() if part is not None).strip()
    text = _THOUSANDS.sub("", text.rstrip(".,;:!? ").lstrip(",;:!? "))
    # A list in brackets keeps them: (1, 2) is a point.
    if "," not in text and is_bracketed(text):
        text = text[1:-1].strip()
    text = _FRACTION.sub(r"\1/\2", text).replace("\\%", "%")
    return _ARTICLES.sub("", text)


def quantity(text: str) -> Quantity | None:
    """The number a plain answer is, a percentage as its share; None where it is none."""
    found = _NUMBER.match(text)
    if found is None:
        return None
    parts = found.groupdict()
    if parts["top"] is not None:
        if not int(parts["bottom"]):
            return None
        number = int(parts["whole"] or 0) + Fraction(int(parts["top"]), int(parts["bottom"]))
    elif abs(int(parts["exponent"] or 0)) > LONGEST_EXPONENT:
        return None
    else:
        number = Fraction(parts["decimal"]) * Fraction(10) ** int(parts["exponent"] or 0)
    unit = (parts["unit"] or parts["unit2"] or "").strip()
    if unit.startswith("%") or unit in ("percent", "per cent"):
        number, unit = number / 100, unit.removeprefix("%").removeprefix("percent").removeprefix("per cent").strip()
    if unit and _UNIT.fullmatch(unit) is None:
        return None
    signs = ("currency", "currency2", "currency_behind", "currency_behind2")
    currency = next((parts[sign] for sign in signs if parts[sign]), "")
    negative = "-" in (parts["sign"], parts["sign2"])
    return Quantity(-number if negative else number, unit or currency)


def _same(one: Quantity, other: Quantity) -> bool:
    if one.unit and other.unit and _singular(one.unit) != _singular(other.unit):
        return False
    if one.number.denominator == other.number.denominator == 1:
        return one.number == other.number
    return abs(one.number - other.number) <= TOLERANCE * max(abs(one.number), abs(other.number))


def _singular(unit: str) -> str:
    return unit[:-1] if len(unit) > 2 and unit.endswith("s") else unit


def letter(text: str) -> tuple[str, str] | None:
    """The option letter of a plain answer and what stands behind it; None where it names none."""
    found = _LETTER.match(text)
    if found is None:
        return None
    bare, rest = found.group(3), (found.group(4) or "").strip()
    # "a cat" is text, and so is any one letter with words behind it.
    return None if bare and rest else (next(filter(None, found.groups()[:3])), rest)


def _compare_letters(one: str, other: str) -> Verdict | None:
    """The verdict where at least one of two plain answers is an option letter; None where neither is."""
    letters = letter(one), letter(other)
    if letters[0] is not None and letters[1] is not None:
        return "equal" if letters[0][0] == letters[1][0] else "different"
    lettered, text = (letters[0], other) if letters[0] is not None else (letters[1], one)
    if lettered is None or not lettered[1]:
        return None
    return "equal" if compare(lettered[1], text) == "equal" else None


def is_bracketed(text: str) -> bool:
    """Whether one pair of round brackets holds all of it: "(15)" and "((1), 2)", not "(1), (2)"."""
    if not (text.startswith("(") and text.endswith(")")):
        return False
    depth = 0
    for char in text[:-1]:
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return False
    return depth == 1


class PlainComparer:
    """Satisfies `cos.search.ports.Comparer` without any help: what is undecided is not equal."""

    async def equal(self, one: str, other: str) -> bool:
        return equal(one, other)


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
