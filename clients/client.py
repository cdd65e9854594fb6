"""The Python client, blocking."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self, Unpack

import httpx

from cos.clients import protocol
from cos.clients.protocol import ImageLike
from cos.wire.events import Event
from cos.wire.reply import Solution
from cos.wire.request import Options


class Client:
    """Asks a cos server. Thread-safe; close it, or use it in a ``with`` statement.

    >>> with Client() as client:
    ...     solution = client.solve("ledger.png", "What is the total of all rows?", strategy="beam", n=8)
    """

    def __init__(
        self,
        url: str = protocol.DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = protocol.DEFAULT_TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """``timeout_s``: longest wait for a reply, or between two events of a stream."""
        self.url = url
        self._http = httpx.Client(
            base_url=protocol.base_url(url),
            headers=protocol.headers(api_key),
            timeout=protocol.timeouts(timeout_s),
            transport=transport,
        )

    def solve(self, image: ImageLike, question: str, **options: Unpack[Options]) -> Solution:
        """The solution of a question about an image. Errors: any CosClientError."""
        body = protocol.solve_body(image, question, options, stream=False)
        with protocol.connected(self.url):
            return protocol.read_solution(self._http.post("/solve", content=body))

    def stream(self, image: ImageLike, question: str, **options: Unpack[Options]) -> Iterator[Event]:
        """What happens in the search, as it happens; the last event holds the solution. Closing the iterator cancels
        the search. Errors: any CosClientError."""
        body = protocol.solve_body(image, question, options, stream=True)
        reader = protocol.EventReader()
        with protocol.connected(self.url), self._http.stream("POST", "/solve", content=body) as response:
            if not response.is_success:
                response.read()
                protocol.check(response)
            for chunk in response.iter_bytes():
                yield from reader.feed(chunk)
        reader.close()

    def is_up(self) -> bool:
        """Whether a cos server answers."""
        try:
            response = self._http.get(protocol.PROBE_PATH, timeout=protocol.PROBE_TIMEOUT_S)
        except httpx.HTTPError:
            return False
        return protocol.is_cos(response)

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
