"""The Python client, blocking."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, Unpack

import httpx

from cos.clients import protocol
from cos.clients.protocol import ImageLike
from cos.wire.events import Event
from cos.wire.reply import Solution
from cos.wire.request import Options
from cos.wire.score import ChainOptions, MeasureOptions, Scores, WrittenOptions


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
        """The solution of a question about an image, about several, or about none. Errors: any CosClientError."""
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

    def score(self, image: ImageLike, question: str, **chain: Unpack[ChainOptions]) -> Scores:
        """The PRM's score of every step of a chain, which is given as ``steps`` and ``answer`` or as ``text``. Errors:
        any CosClientError."""
        body = protocol.score_body(image, question, chain)
        with protocol.connected(self.url):
            return protocol.read_scores(self._http.post("/v1/score", content=body))

    def rerank(
        self,
        image: ImageLike,
        question: str,
        answers: Sequence[str | WrittenOptions],
        *,
        top_n: int | None = None,
        **measure: Unpack[MeasureOptions],
    ) -> Scores:
        """Answers to one question, best first by the PRM. Each is a text, or steps and answer. Errors: any
        CosClientError."""
        body = protocol.rerank_body(image, question, answers, top_n, measure)
        with protocol.connected(self.url):
            return protocol.read_scores(self._http.post("/v1/rerank", content=body))

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
