"""The status that a request was answered with, as a middleware sees it pass."""

from starlette.types import Message, Send

from cos.server.errors import FAULTS, ClientGone

CLIENT_GONE = FAULTS[ClientGone].status


class NotedStatus:
    """Sends messages on, and keeps the status of the response that they make."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.code: int = CLIENT_GONE
        """What is left where no response ever began: nobody was there to read one."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.code = message["status"]
        await self._send(message)
