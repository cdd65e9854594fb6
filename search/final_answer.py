r"""Finds the answer in what a chat model writes: behind "Final answer:", in ``\boxed{}``, or in the last line.

What is decided where models differ:

- Behind the last "Final answer:", the answer is what the last ``\boxed{}`` holds, or else the rest of the line, or all
  that follows where the line says no more. Without "Final answer:" it is what the last ``\boxed{}`` holds. Braces
  within a box are matched.
- "Final answer:" counts with a capital letter only, so that "the final answer: we add" is none. An empty ``\boxed{}``
  is none either: models repeat what they were told.
- "Final answer:" with nothing behind it, a box that is not closed, and an empty box where a turn ends are answers that
  were begun and are not there.
- A turn that ends without any of these has its answer in its last line: behind "Answer:" or "the answer is" where it
  says so, or the letter of an option in brackets, or else the whole line.
"""

import re
from typing import NamedTuple

MARK = re.compile(r"(?:#{1,6}[ \t]{0,3})?(\*{1,3}|_{1,3})?(?:Final [Aa]nswer|FINAL ANSWER)(\*{1,3}|_{1,3})?\s*[:：]")
"""With the mark-up of a heading and the beginning and end of bold or italic type. The colon may be a Chinese one."""
_EMPTY_BOX = re.compile(r"\\boxed\s*\{\s*\}")
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_SPOKEN = re.compile(r"(?:\banswer\*{0,2}\s*:|\b(?:answer|option|choice) is(?: option)?\b\s*:?)", re.IGNORECASE)
_OPTION = re.compile(r"\(?([A-Z])[).:]")
"""The letter of an option at the beginning of an answer: "(B) the tower", "B. the tower"."""


class Found(NamedTuple):
    """An answer in a text."""

    reasoning: str
    """What stands before it."""
    answer: str
    """Empty where one was begun and is not there."""


def marked(text: str) -> Found | None:
    r"""The answer behind "Final answer:" or in ``\boxed{}``; None in a text without either."""
    marks = list(MARK.finditer(text))
    if not marks:
        boxed = _boxed_in(text)
        if boxed is None:
            return None
        return Found(text if re.search(r"\w", text.partition("\\boxed")[0]) else "", without_bold(boxed))
    mark = marks[-1]
    behind = text[mark.end() :]
    if mark[1] and not mark[2]:
        behind = _without_end(behind, mark[1])
    return Found(text[: mark.start()].strip(), behind_mark(behind))


def is_only_mark(text: str) -> bool:
    """Whether a text ends with a "Final answer:" and nothing is behind it."""
    said = text.rstrip("*_ \t\r\n")
    return said.endswith((":", "：")) and any(mark.end() == len(said) for mark in MARK.finditer(said))


def _without_end(text: str, emphasis: str) -> str:
    """A text without what ends the emphasis that was begun before it: at its beginning, or at the end of its line, or,
    of bold type, wherever it stands first."""
    if text.startswith(emphasis):
        return text.removeprefix(emphasis)
    line, line_end, more = text.partition("\n")
    if line.rstrip().endswith(emphasis):
        return line.rstrip().removesuffix(emphasis) + line_end + more
    return text.replace(emphasis, "", 1) if len(emphasis) > 1 else text


def behind_mark(text: str) -> str:
    r"""The answer in what follows a "Final answer:": what a ``\boxed{}`` holds, or the rest of the line, or all that
    follows."""
    boxed = _boxed_in(text)
    if boxed is None:
        line, _, more = text.partition("\n")
        boxed = line.strip() or more.strip()
    return _unless_empty(without_bold(boxed))


def in_last_line(text: str) -> Found:
    """The answer of a turn that has marked none: its last line, or what that says behind "the answer is"."""
    lines = text.strip().splitlines()
    last = lines[-1].strip() if lines else ""
    spoken = next(reversed([*_SPOKEN.finditer(last)]), None)
    answer = last[spoken.end() :] if spoken else last
    answer = without_bold(answer.strip(" \t*")) if spoken else without_bold(answer)
    if spoken and (option := _OPTION.match(answer)):
        answer = option[1]
    answer = answer.removesuffix(".").strip() if spoken else answer
    if not answer:
        spoken, answer = None, last
    before = [*lines[:-1], last] if spoken and last[: spoken.start()].strip(" \t*") else lines[:-1]
    return Found("\n".join(before).strip(), _unless_empty(answer))


def _boxed_in(text: str) -> str | None:
    r"""What the last ``\boxed{}`` that is not empty holds; empty where that one is not closed, None without any."""
    opened: list[tuple[int, bool]] = []
    held: dict[int, str] = {}
    for mark in _BRACES.finditer(text):
        if mark[0] == "}" and opened:
            start, is_box = opened.pop()
            content = text[start : mark.start()].strip()
            if is_box and content:
                held[start] = content
        elif mark[0] == "{" or mark[0].startswith("\\boxed"):
            opened.append((mark.end(), mark[0] != "{"))
    held |= {start: "" for start, is_box in opened if is_box}
    return held[max(held)] if held else None


def _unless_empty(answer: str) -> str:
    r"""An answer; nothing in place of one that is an empty ``\boxed{}`` and signs."""
    return answer if re.search(r"\w", _EMPTY_BOX.sub("", answer)) or not _EMPTY_BOX.search(answer) else ""


def without_bold(answer: str) -> str:
    """An answer of which not all is in bold type."""
    while len(answer) > 4 and answer.startswith("**") and answer.endswith("**"):
        answer = answer[2:-2].strip()
    return answer
