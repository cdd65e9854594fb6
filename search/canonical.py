"""An answer's canonical form: what it says, apart from how it is spelt.

Numbers are exact. What looks like mathematics but has no rule here is kept as spelt, and may be put to an algebra
system; nothing here takes long, whatever powers or factorials are written.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from cos.search.spelling import split_list, tidy
from cos.search.units import SYMBOL, unit_of

LONGEST = 200
"""Characters; a longer answer is compared as text."""
MOST_BITS = 20_000
"""Longest number that is computed."""
MOST_FACTORIAL = 300

Kind = Literal["number", "time", "group", "relation", "maths", "text"]

_NUMBER = re.compile(
    r"(?P<whole>\d+)\s+(?P<top>\d+)\s*/\s*(?P<bottom>\d+)(?![\d.])|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
)
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = re.compile(rf"\s+({'|'.join(_SCALES)})\b", re.IGNORECASE)
_TIME = re.compile(r"(\d{1,2})(?::(\d\d))?\s*(?:(a|p)\.?m\.?)?", re.IGNORECASE)
_RELATION = re.compile(r"(.+?)(<=|>=|!=|<|>|=)([^<>=!]+)")
_TURNED = {"<": ">", "<=": ">="}
_MATHS = re.compile(
    r"\\[a-zA-Z]+|[\^=<>{}|]|\bsqrt\b|\bpi\b|\d\s*[a-zA-Z]\b|\d[a-zA-Z]+\b|\w\)?\s*!"
    r"|\b[a-zA-Z]\s*[*/+-]\s*[\w(]|[\d)]\s*[*/+-]\s*\(?[a-zA-Z]\b|\d\s*[*+]\s*\(?\d|^[\[(].*,.*[\])]$",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Number:
    """A rational number, and what it counts."""

    value: Fraction
    unit: str
    is_exact: bool
    """Whether it is written without a decimal point."""


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer says. Two forms that are equal say the same."""

    kind: Kind
    text: str = ""
    number: Number | None = None
    parts: tuple["Form", ...] = ()


@lru_cache(maxsize=4096)
def form_of(answer: str) -> Form:
    """The canonical form of an answer. Never raises."""
    return _read(tidy(answer))


def _read(text: str) -> Form:
    if len(text) > LONGEST:
        return Form("text", text.casefold())
    if (time := _time(text)) is not None:
        return time
    if (number := number_of(text)) is not None:
        return Form("number", number=number)
    return _group(text) or _relation(text) or _words(text)


def _words(text: str) -> Form:
    if _MATHS.search(text):
        return Form("maths", re.sub(r"\s+", "", text))
    return Form("text", re.sub(r"^(?:the|an?)\s+", "", text.casefold()))


def _time(text: str) -> Form | None:
    found = _TIME.fullmatch(text)
    if found is None or not (found[2] or found[3]):
        return None
    hour, minute, half = int(found[1]), int(found[2] or 0), (found[3] or "").lower()
    if minute > 59 or hour > 23 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + 12 * (half == "p")
    # 3:30 may be either half of the day; 15:30 and 0:30 are not in doubt.
    sure = bool(half) or hour > 12 or hour == 0
    return Form("time", f"{hour}:{minute:02}{'' if sure else '?'}")


def _group(text: str) -> Form | None:
    """A point, interval, set, vector or list."""
    is_held = len(text) > 1 and text[0] in "([{<" and text[-1] in ")]}>"
    inner = split_list(text[1:-1]) if is_held else None
    if is_held and inner is not None and (len(inner) > 1 or text[0] in "[{"):
        brackets = text[0] + text[-1]
    else:
        inner = split_list(text)
        if inner is None or len(inner) < 2:
            return None
        brackets = ""
    if any(not part for part in inner):
        return None
    parts = tuple(_read(part) for part in inner)
    is_numeric = all(part.kind == "number" for part in parts)
    if brackets == "{}" or (not brackets and is_numeric):
        # The elements of a set, and several solutions side by side, have no order.
        parts = tuple(sorted(set(parts) if brackets else parts, key=_order))
    return Form("group", brackets, parts=parts)


def _order(form: Form) -> tuple[str, Fraction, str]:
    return (form.kind, form.number.value if form.number else Fraction(0), repr(form))


def _relation(text: str) -> Form | None:
    found = _RELATION.fullmatch(text)
    if found is None:
        return None
    left, sign, right = found.groups()
    if any(char in left for char in "<>="):
        return None
    sides = (_read(left.strip()), _read(right.strip()))
    if sign in _TURNED:
        sign, sides = _TURNED[sign], sides[::-1]
    elif sign in ("=", "!="):
        sides = tuple(sorted(sides, key=_order, reverse=True))
    return Form("relation", sign, parts=sides)


def number_of(text: str) -> Number | None:
    """The number that a tidy answer is, a percentage as its share; None where it is none."""
    found = re.fullmatch(r"\s*([-+]?)\s*([$€£¥]?)\s*([-+]?)\s*(.*)", text, re.DOTALL)
    if found is None or (found[1] and found[3]):
        return None
    reader = _Reader(found[4])
    try:
        value = reader.product()
    except _NotANumber:
        return None
    value *= reader.scale()
    rest = found[4][reader.at :]
    unit = unit_of(rest)
    if unit is None or (unit and found[2] and unit != SYMBOL[found[2]] and unit != "%"):
        return None
    if unit == "%" or unit.startswith("% "):
        value, unit = value / 100, unit[1:].strip()
    if "-" in (found[1], found[3]):
        value = -value
    return Number(value, unit or SYMBOL.get(found[2], ""), reader.is_exact)


class _NotANumber(Exception):
    """A text is not a number, or one too long to compute."""


class _Reader:
    """Reads products, quotients, powers and factorials of plain numbers. Sums are not read: 3-2 may be a score."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.at = 0
        self.is_exact = True

    def product(self) -> Fraction:
        value, is_divided = self._power(), False
        while (found := self._take(r"\s*([*/])\s*(?=[\d.(]|sqrt)")) is not None:
            factor = self._power()
            if found[1] == "*":
                value = _short(value * factor)
            elif is_divided or not factor:
                # 1/2/2020 is a date.
                raise _NotANumber
            else:
                value, is_divided = _short(value / factor), True
        return value

    def scale(self) -> int:
        """What a word behind the number multiplies it by: 5 million. 1 without one."""
        found = self._take(_SCALE)
        return _SCALES[found[1].lower()] if found else 1

    def _power(self) -> Fraction:
        base = self._primary()
        while self._take(r"!(?!=)"):
            if base.denominator != 1 or not 0 <= base <= MOST_FACTORIAL:
                raise _NotANumber
            base = Fraction(math.factorial(int(base)))
        if self._take(r"\s*\^\s*") is None:
            return base
        sign = -1 if self._take(r"-") else 1
        exponent = sign * self._power()
        if exponent.denominator != 1:
            raise _NotANumber
        return _raised(base, int(exponent))

    def _primary(self) -> Fraction:
        if self._take(r"sqrt\s*(?=[\d(])"):
            value = self._primary()
            if value < 0:
                raise _NotANumber
            top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
            if Fraction(top * top, bottom * bottom) != value:
                raise _NotANumber
            return Fraction(top, bottom)
        if self._take(r"\(\s*"):
            sign = -1 if self._take(r"-\s*") else 1
            value = sign * self.product()
            if self._take(r"\s*\)") is None:
                raise _NotANumber
            return value
        found = self._take(_NUMBER)
        if found is None:
            raise _NotANumber
        if found["whole"]:
            if not int(found["bottom"]):
                raise _NotANumber
            return int(found["whole"]) + Fraction(int(found["top"]), int(found["bottom"]))
        digits, _, exponent = found[0].lower().partition("e")
        self.is_exact = self.is_exact and "." not in digits
        if len(exponent) > 8:
            raise _NotANumber
        return _short(Fraction(digits) * _raised(Fraction(10), int(exponent or 0)))

    def _take(self, pattern: str | re.Pattern[str]) -> re.Match[str] | None:
        found = re.compile(pattern).match(self._text, self.at)
        if found is not None:
            self.at = found.end()
        return found


def _raised(base: Fraction, exponent: int) -> Fraction:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > MOST_BITS or (not base and exponent <= 0):
        raise _NotANumber
    return base**exponent


def _short(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
        raise _NotANumber
    return value
