"""One record as a line, whatever it holds."""

import json
import logging
from typing import Any

import pytest

from cos.server.logs import JsonLines, TextLines

CANARY = "Kanarienvogel"


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


class TwoLines:
    def __str__(self) -> str:
        return "first\nsecond"


def told(message: str, argument: object, error: Exception | None = None) -> tuple[str, dict[str, Any]]:
    """A record in both forms."""
    info = None if error is None else (type(error), error, error.__traceback__)
    # As loggers make them: a mapping that is the only argument stands for itself.
    record = logging.LogRecord("cos", logging.WARNING, __file__, 1, message, (argument,), info)
    text, line = TextLines().format(record), JsonLines().format(record)
    assert len(line.splitlines()) == 1
    return text, json.loads(line, parse_constant=pytest.fail)


VALUES: dict[str, Any] = {
    "no number": float("nan"),
    "infinite": float("inf"),
    "long": 10**5_000,
    "list": ["x"] * 100_000,
    "mapping": {("a", 1): "\n"},
    "set": {1, 2},
    "unspeakable": Unspeakable(),
    "two lines": TwoLines(),
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_field_of_any_kind_leaves_its_line_whole(kind: str) -> None:
    text, line = told("%(one)s", {"one": 1, "value": VALUES[kind]})
    assert line["message"] == "1"
    assert isinstance(line["value"], str)
    assert len(text.splitlines()) == 1
    assert max(len(text), len(line["value"])) < 10_000


@pytest.mark.parametrize("kind", VALUES)
def test_a_mapping_that_a_message_shows_as_a_whole_is_no_fields(kind: str) -> None:
    text, line = told("told %s", {("a", "b\nc"): VALUES[kind], "level": CANARY})
    assert set(line) == {"time", "level", "logger", "message"}
    assert line["level"] == "warning"
    assert len(text.splitlines()) == 1


def test_a_message_that_cannot_be_filled_in_is_told_without_its_arguments() -> None:
    text, line = told("%d tokens", CANARY)
    assert line["message"] == "%d tokens (not filled in: TypeError)"
    assert CANARY not in text


def test_an_error_taken_out_of_its_group_is_told_once() -> None:
    try:
        try:
            raise ExceptionGroup("several", [ValueError(CANARY), KeyError(CANARY)])
        except ExceptionGroup as group:
            raise group.exceptions[0]  # noqa: B904 - its context is the group that it is in
    except Exception as error:
        text, line = told("failed: %s", "all", error)
    assert line["error"].count("builtins.ValueError") == 1
    assert line["error"].count("builtins.KeyError") == 1
    assert CANARY not in text
