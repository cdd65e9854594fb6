"""HTTP to one vLLM elsewhere: its errors told in sentences, what is safe to repeat repeated, and whether it is there.

A request is repeated where nothing of a result has come: the connection could not be made, or broke before the answer
began, or the answer said "later". It is never repeated once bytes of a result have come, nor after a time-out, when the
other side may still be at work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import msgspec

from cos.engines.remote_errors import RemoteDead, RemoteError, RemoteRefusal
from cos.engines.settings import Role

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 2.0
"""Longest wait for a connection."""
KEEP_ALIVE_S = 4.0
"""How long an idle connection is kept: shorter than the 5 s of vLLM, which would close it under a request."""
PAUSES_S = (0.1, 0.4, 1.0)
"""Waits before repetitions; the last is for all that follow."""
LONGEST_PAUSE_S = 10.0
"""Longest wait that a Retry-After is obeyed for."""
LOOK_EVERY_S = 0.5
"""How often it is looked whether the other side is there."""
LOOK_TIMEOUT_S = 1.0
MOST_LATE = 3
"""So many looks in a row that get no connection in time say that nobody is there."""
MOST_SHOWN = 300
"""Most letters of an answer that an error quotes."""

UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""What says that no connection could be made."""

Reply = TypeVar("Reply", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a vLLM is, and how it is spoken to."""

    url: str
    """As https://host:8000, without /v1."""
    role: Role
    api_key: str | None = None
    timeout_s: float = 300.0
    """Longest wait for the answer to one request."""
    retries: int = 2

    def __repr__(self) -> str:
        # A key has no place in a log.
        return f"Address({self.role} at {self.url})"

    @property
    def flag(self) -> str:
        """What it was given by."""
        return f"--{self.role}-url"


class Peer:
    """A vLLM elsewhere, as HTTP shows it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        headers = {"Authorization": f"Bearer {address.api_key}"} if address.api_key else {}
        # aiohttp: with a hundred requests at once it takes a tenth of httpx's time for each (docs/decisions.md).
        self._http = aiohttp.ClientSession(
            headers={**headers, "Content-Type": "application/json"},
            # A search has as many requests at once as it has candidates: none may wait for a connection here, where
            # priorities do not count.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        )
        # Each look makes a connection of its own: an old one would not tell that the machine is gone.
        self._looks = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(force_close=True),
            timeout=aiohttp.ClientTimeout(total=2 * LOOK_TIMEOUT_S, sock_connect=LOOK_TIMEOUT_S),
        )
        self._waiting: set[asyncio.Timeout] = set()
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False
        self._problem = ""
        self.is_there = True
        """False from when it could not be reached until it answers again."""
        self.answers = 0
        """How many requests it has answered."""

    @property
    def name(self) -> str:
        """For errors."""
        return f"the {self.address.role} at {self.address.url}"

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return len(self._waiting)

    def look_after(self) -> None:
        """Looks from now on whether it is there."""
        self._looking = asyncio.create_task(self._look(), name=f"watch {self.address!r}")

    async def close(self) -> None:
        """Ends all requests; idempotent."""
        self._is_closed = True
        self._lose("the connection was closed")
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._http.close()
        await self._looks.close()

    def raise_if_gone(self) -> None:
        """Errors: RemoteDead."""
        if not self.is_there:
            raise self.gone()

    def gone(self) -> RemoteDead:
        """The error of a request while it is not there."""
        if self._is_closed:
            return RemoteDead(f"the connection to {self.name} was closed")
        return RemoteDead(
            f"{self.name} cannot be reached ({self._problem}); start it again, or correct {self.address.flag}"
        )

    async def get(self, path: str, kind: type[Reply]) -> Reply:
        """Errors: as `post`."""
        return self._read(path, await self._answer("GET", path, None), kind)

    async def post(self, path: str, body: Mapping[str, Any] | msgspec.Struct, kind: type[Reply]) -> Reply:
        """The answer to a request, checked. Cancelling it closes its connection, and vLLM aborts the request.

        Errors: RemoteDead, RemoteRefusal with the other side's words, RemoteError for everything else.
        """
        return self._read(path, await self._answer("POST", path, msgspec.json.encode(body)), kind)

    def _read(self, path: str, content: bytes, kind: type[Reply]) -> Reply:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.ValidationError as error:
            raise RemoteError(
                f"{self.name} answered {path} in an unknown form ({error}); it must be vLLM 0.32 or newer"
            ) from error
        except msgspec.DecodeError as error:
            raise RemoteError(
                f"{self.name} answered {path} with what is no JSON ({_shown(content)}); "
                f"{self.address.flag} must be vLLM's own address, and not a page before it"
            ) from error

    async def _answer(self, method: str, path: str, content: bytes | None) -> bytes:
        """Errors: as `post`."""
        for tried in range(self.address.retries + 1):
            self.raise_if_gone()
            is_last = tried == self.address.retries
            try:
                return await self._once(method, path, content)
            except UNREACHABLE as error:
                if is_last:
                    self._lose(_why(error))
                    raise self.gone() from error
            except aiohttp.ClientConnectionError as error:
                # Nothing of an answer has come. What is repeated finds out whether the other side is there at all.
                if is_last:
                    raise RemoteError(
                        f"{self.name} closed the connection before it answered {path}; its log may say why"
                    ) from error
            except RemoteRefusal as error:
                pause = _pause_wanted(error)
                if pause is None or is_last:
                    raise
                await asyncio.sleep(pause)
                continue
            await asyncio.sleep(PAUSES_S[min(tried, len(PAUSES_S) - 1)])
        raise AssertionError("unreachable")

    async def _once(self, method: str, path: str, content: bytes | None) -> bytes:
        """One try. Errors: ClientConnectionError where nothing has come yet, else as `post`."""
        try:
            async with asyncio.timeout(self.address.timeout_s) as limit:
                self._waiting.add(limit)
                try:
                    async with self._http.request(method, self.address.url + path, data=content) as response:
                        body = await self._whole(path, response)
                finally:
                    self._waiting.discard(limit)
        except aiohttp.ClientConnectionError:
            raise
        except aiohttp.ClientError as error:
            raise RemoteError(
                f"{self.name} does not answer {path} as HTTP is spoken ({error}); correct {self.address.flag}"
            ) from error
        except TimeoutError as error:
            self.raise_if_gone()
            raise RemoteError(
                f"{self.name} did not answer {path} within {self.address.timeout_s:g} s; "
                "its log may say why, or raise --remote-timeout-s"
            ) from error
        self.answers += 1
        if response.ok:
            return body
        raise self._refusal(path, response, body)

    async def _whole(self, path: str, response: aiohttp.ClientResponse) -> bytes:
        try:
            return await response.read()
        except aiohttp.ClientError as error:
            raise RemoteError(
                f"{self.name} broke off in the middle of its answer to {path} ({error}); its log may say why"
            ) from error

    def _refusal(self, path: str, response: aiohttp.ClientResponse, body: bytes) -> RemoteRefusal:
        status, told = response.status, _told(body)
        role = self.address.role
        what_to_do = {
            401: f"give its key by --{role}-api-key or COS_{role.upper()}_API_KEY",
            404: f"--{role} must be a name that it serves, and {self.address.flag} its address",
            429: "it has too much to do; send it less, or add another",
            503: "it has too much to do, or its engine has died; its log says which",
        }.get(status, "its log may say why")
        refusal = RemoteRefusal(f"{self.name} answered {path} with {status} ({told}); {what_to_do}", status, told)
        refusal.retry_after_s = _seconds(response.headers.get("Retry-After"))
        return refusal

    async def _look(self) -> None:
        late = 0
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                problem = await self._health()
                late = 0
            except aiohttp.ConnectionTimeoutError as error:
                # Counted by looks and not by the clock: what holds up this process is no fault of the other side.
                late += 1
                problem = _why(error) if late >= MOST_LATE or not self.is_there else None
            if problem is None:
                if not self.is_there:
                    logger.warning("%s is back", self.name)
                self.is_there = True
            elif self.is_there:
                self._lose(problem)

    async def _health(self) -> str | None:
        """Why it cannot carry out requests; None where it can, or is only slow to say so. Errors:
        ConnectionTimeoutError."""
        try:
            async with self._looks.get(f"{self.address.url}/health") as response:
                status = response.status
        except aiohttp.ConnectionTimeoutError:
            raise
        except aiohttp.ClientConnectorError as error:
            return _why(error)
        except (aiohttp.ClientError, TimeoutError):
            # It is there, and has no time. Whether it gets on with its work is asked elsewhere.
            return None if self.is_there else "no answer"
        return f"/health answers {status}" if status in (502, 503, 504) else None

    def _lose(self, problem: str) -> None:
        """Ends every request: none can succeed any more."""
        if self.is_there and not self._is_closed and self._looking is not None:
            logger.error("%s cannot be reached: %s", self.name, problem)
        self.is_there, self._problem = False, problem
        now = asyncio.get_running_loop().time()
        for limit in self._waiting:
            if not limit.expired():
                limit.reschedule(now)


def _why(error: Exception) -> str:
    """Why no connection could be made, without what aiohttp says beside."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error)
    return str(error) or type(error).__name__


def _pause_wanted(refusal: RemoteRefusal) -> float | None:
    """How long to wait before a refused request is repeated; None where repeating it helps nothing."""
    if refusal.status not in (429, 503):
        return None
    if refusal.retry_after_s is None:
        return PAUSES_S[-1]
    return refusal.retry_after_s if refusal.retry_after_s <= LONGEST_PAUSE_S else None


def _seconds(header: str | None) -> float | None:
    """Of a Retry-After in seconds. One that is a date is left aside, as clocks differ."""
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None


class _Problem(msgspec.Struct):
    message: str = ""


class _ErrorReply(msgspec.Struct):
    """OpenAI's form of an error, or FastAPI's."""

    error: _Problem | str | None = None
    detail: Any = None
    message: str = ""


def _told(body: bytes) -> str:
    """What an error says of itself, in short."""
    try:
        reply = msgspec.json.decode(body, type=_ErrorReply)
    except msgspec.MsgspecError:
        return _shown(body)
    problem = reply.error.message if isinstance(reply.error, _Problem) else reply.error
    return (problem or reply.message or str(reply.detail or "") or _shown(body))[:MOST_SHOWN]


def _shown(content: bytes) -> str:
    text = " ".join(content[: 4 * MOST_SHOWN].decode(errors="replace").split())
    return repr(text[:MOST_SHOWN]) if text else "an empty answer"
