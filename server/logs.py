"""How the server logs: one line a record, as text or as JSON.

Every line has time, level, logger and message; one that is logged while a request is served has the request's id, too.
Fields of their own are given as the one argument of a message that names some of them: ``logger.info("%(method)s
%(path)s", fields)``. What clients send cannot break a line in two. An error that nobody foresaw is logged by its type
and its place: its message may quote what a user asked.
"""

import asyncio
import json
import logging
import math
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from traceback import format_tb
from typing import Any, Literal, cast

from rich.console import Console

LogFormat = Literal["text", "json"]

logger = logging.getLogger("cos.server")

MOST_CHARS = 4_000
"""Of one message or field. What is longer is cut, and the line says so."""
MOST_FRAMES = 100
"""Of one traceback."""
ENGINES = Path(__file__).with_name("engine_logs.json")
"""How engine processes log where the server logs JSON: a file that vLLM reads."""

# Not passed from hand to hand: code that knows nothing of requests logs, too. Tasks and threads inherit it.
_ABOUT: ContextVar[Mapping[str, str] | None] = ContextVar("cos_log_fields", default=None)


@contextmanager
def about(**fields: str) -> Generator[None]:
    """Gives every line that is logged inside, and in tasks begun inside, these fields."""
    before = _ABOUT.set({**(_ABOUT.get() or {}), **fields})
    try:
        yield
    finally:
        _ABOUT.reset(before)


def configure(format: LogFormat, level: str, *, messages: bool = False) -> None:
    """Sets up logging for this process, and for engine processes that are started later. ``messages``: whether errors
    that nobody foresaw are logged with their message."""
    handler = logging.StreamHandler()
    handler.setFormatter((JsonLines if format == "json" else TextLines)(messages=messages))
    wanted = logging.getLevelNamesMapping()[level.upper()]
    # Debugging is of this program; libraries would tell of every block of a picture.
    logging.basicConfig(level=max(wanted, logging.INFO), handlers=[handler], force=True)
    logging.getLogger("cos").setLevel(wanted)
    logging.captureWarnings(True)
    # Uvicorn tells of every start and stop; ours is the line that counts.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.root.level))
    if format == "json" and os.environ.get("VLLM_CONFIGURE_LOGGING", "1") != "0":
        os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(ENGINES))


def engine_handler() -> logging.Handler:
    """The handler of vLLM's loggers where the server logs JSON, in its own process and in those of the engines."""
    handler = logging.StreamHandler()
    handler.setLevel(os.environ.get("VLLM_LOGGING_LEVEL", "ERROR").upper())
    handler.setFormatter(JsonLines())
    return handler


def say(console: Console, text: str) -> None:
    """Tells whoever started the server: on its console, or in the log where the console is quiet."""
    if console.quiet:
        logger.info("%s", text)
    else:
        console.print(text, soft_wrap=True, markup=False, highlight=False)


def log_unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs an error that no task was waiting for. As asyncio does, but for the task itself, which is told with what its
    error says."""
    del loop
    logging.getLogger("asyncio").error("%s", context["message"], exc_info=context.get("exception"))


class Lines(logging.Formatter):
    """What both forms have in common."""

    def __init__(self, *, messages: bool = False) -> None:
        super().__init__()
        self._messages = messages

    def _error(self, record: logging.LogRecord) -> list[str]:
        """The lines of the record's error, if it has one."""
        error = record.exc_info[1] if record.exc_info else None
        return [] if error is None else _told(error, messages=self._messages)


class TextLines(Lines):
    """``14:31:04 WARNING cos.server.watch: the prm engine works again key=value``; a traceback follows on lines of its
    own."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        line = f"{time} {record.levelname} {record.name}: {tame(_message(record))}"
        fields = {name: value for name, value in _fields(record).items() if f"%({name})" not in str(record.msg)}
        line += "".join(f" {name}={_shown(value)}" for name, value in fields.items() if value is not None)
        return "\n".join([line, *map(tame, self._error(record))])


class JsonLines(Lines):
    """One JSON object a line, in ASCII. Time: UTC, ISO 8601."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": cut(_message(record)),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, value if _is_json(value) else cut(_text(value)))
        if error := self._error(record):
            line["error"] = "\n".join(map(cut, error))
        if record.processName != "MainProcess":
            line.update(process=record.processName, pid=record.process)
        return json.dumps(line)


def cut(text: str) -> str:
    """A text that is not too long for a line."""
    left = len(text) - MOST_CHARS
    return text if left <= 0 else f"{text[:MOST_CHARS]}... ({left} more characters)"


def tame(text: str) -> str:
    """A text that stays on its line and moves no cursor: what is not printable is escaped."""
    text = cut(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:
        # `logging` would write down the arguments, in lines of its own.
        return f"{record.msg} (not filled in: {type(error).__name__})"


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    # A library's message may have a mapping for its one argument, too, and names none of it.
    is_named = isinstance(record.args, Mapping) and "%(" in str(record.msg)
    own = cast("Mapping[str, Any]", record.args) if is_named else {}
    return {**own, **(_ABOUT.get() or {})}


def _is_json(value: object) -> bool:
    """Whether a value that is no text stands in JSON as it is. What nests may be of any size and hold anything."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) < 2**63)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"a {type(value).__name__} (not told: {type(error).__name__})"


def _shown(value: object) -> str:
    if _is_json(value):
        return str(value)
    text = _text(value)
    is_plain = text.isprintable() and text and len(text) <= MOST_CHARS and not set(text) & set(' "=\\')
    return text if is_plain else f'"{tame(text)}"'


def _told(error: BaseException, *, messages: bool, known: frozenset[int] = frozenset()) -> list[str]:
    """An error and what led to it, first things first. ``known``: errors, by identity, of which this one is a part:
    one that is taken out of its group and raised again has the group for its context."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and id(cause) not in known:
        chain.append(cause)
        known |= {id(cause)}
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    lines: list[str] = []
    for one in reversed(chain):
        for frame in format_tb(one.__traceback__, -MOST_FRAMES):
            lines += frame.rstrip("\n").split("\n")
        lines.append(f"{type(one).__module__}.{type(one).__qualname__}" + (f": {_text(one)}" if messages else ""))
        if isinstance(one, BaseExceptionGroup):
            for part in cast("BaseExceptionGroup[BaseException]", one).exceptions:
                lines += [f"  {line}" for line in _told(part, messages=messages, known=known)]
    return lines
