"""An answer in one spelling: LaTeX, Unicode signs, spaces, wrappers and prefixes told alike. Case is kept."""

import re
import unicodedata
from functools import lru_cache

_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True))
_SIGNS = str.maketrans(
    {**dict.fromkeys("‐‑‒–—−", "-"), "×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "⁄": "/", "≤": "<=", "⩽": "<=",
     "≥": ">=", "⩾": ">=", "≠": "!=", "√": "sqrt", "π": "pi", "∞": "infinity", "⟨": "<", "⟩": ">", "º": "°", "˚": "°",
     "’": "'", "‘": "'", "“": '"', "”": '"'}
)  # fmt: skip
_LATEX = (
    (r"\\(?:left|right|displaystyle|,|;|!|:)(?![a-zA-Z])", ""),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"(\d)\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}", r"\1 \2/\3"),
    (r"\\frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}", r"\1/\2"),
    (r"(\d)\s*\\frac\s*(\d)\s*(\d)", r"\1 \2/\3"),
    (r"\\frac\s*(\d)\s*(\d)", r"\1/\2"),
    (r"\\sqrt\s*\{\s*([^{}]*?)\s*\}", r"sqrt(\1)"),
    (r"\\sqrt\s*(\d)", r"sqrt(\1)"),
    (r"sqrt\s*(\d+)", r"sqrt(\1)"),
    (r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}", r"\1"),
    (r"\\leq?(?![a-zA-Z])", "<="),
    (r"\\geq?(?![a-zA-Z])", ">="),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\neq?(?![a-zA-Z])", "!="),
    (r"\\(?:times|cdot)(?![a-zA-Z])", "*"),
    (r"\\div(?![a-zA-Z])", "/"),
    (r"\\pi(?![a-zA-Z])", "pi"),
    (r"\\infty(?![a-zA-Z])", "infinity"),
    (r"\\cup(?![a-zA-Z])", "∪"),
    (r"\\langle(?![a-zA-Z])", "<"),
    (r"\\rangle(?![a-zA-Z])", ">"),
    (r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)", "°"),
    (r"\\([%${}&#])", r"\1"),
    (r"\^\s*\{\s*(-?\w+)\s*\}", r"^\1"),
)
_WRAPPER = re.compile(r"\\boxed\s*\{(.*)\}|\\\((.*)\\\)|\\\[(.*)\\\]|\$\$?([^$]+)\$\$?|\*\*([^*]+)\*\*", re.DOTALL)
_PREFIX = re.compile(r"(?:the\s+)?(?:final\s+)?answer\s*(?:is\s*:?|:|=)\s*(?=\S)", re.IGNORECASE)
_THIN_GROUPS = re.compile(r"(?<![\d.])\d{1,3}(?:[\u00a0\u2009\u202f\u2007]\d{3})+(?!\d)")
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)(?![\d,])")


MOST_CHARACTERS = 1000
"""A longer answer keeps all but its spacing: to take its wrappers off, one after another, would take too long."""


@lru_cache(maxsize=4096)
def tidy(answer: str) -> str:
    """An answer without what does not count: spacing, wrappers, "Answer:", outer punctuation, thousands separators.

    Brackets around one value go; a point, an interval and a set keep theirs.
    """
    if len(answer) > MOST_CHARACTERS:
        return " ".join(answer.split())
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+", lambda found: "^" + "".join(_RAISED[char] for char in found[0]), answer)
    text = re.sub(r"(?<=\d)(?=[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒])", " ", text)
    text = _THIN_GROUPS.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    text = " ".join(unicodedata.normalize("NFKC", text.replace("º", "°")).translate(_SIGNS).split())
    before = None
    while before != text:
        before, text = text, _unwrapped(text)
    for pattern, plain in _LATEX:
        text = re.sub(pattern, plain, text)
    text = _unwrapped(text)
    text = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", "*", text)
    if "," in text and text[0] in "([{<":
        return text
    return _THOUSANDS.sub(lambda found: found[1].replace(",", ""), text)


def _unwrapped(text: str) -> str:
    found = _WRAPPER.fullmatch(text)
    if found is not None:
        text = next(part for part in found.groups() if part is not None)
    text = _PREFIX.sub("", text.strip(), count=1) if _PREFIX.match(text.strip()) else text.strip()
    text = re.sub(r"[.,;:? ]+$", "", text)
    text = re.sub(r"^[,;:!? ]+", "", text)
    # 5! is a factorial, "cat!" is not.
    text = re.sub(r"(?<=[^\W\d_]{2})[!.,;:? ]+$", "", text)
    return text[1:-1].strip() if "," not in text and is_bracketed(text) else text


def split_list(text: str) -> list[str] | None:
    """What stands between commas outside all brackets; None where brackets do not match."""
    parts, depth, start = list[str](), 0, 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return None
        if char == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return None if depth else [*parts, text[start:].strip()]


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
