"""Which server a command is to ask."""

import os
from contextlib import AsyncExitStack

from cos.clients import protocol
from cos.clients.async_client import AsyncClient
from cos.clients.errors import BadRequest


async def find_server(
    url: str | None, api_key: str | None, stack: AsyncExitStack, *, wants_local: bool
) -> AsyncClient | None:
    """The server that is named, or one that answers at the default address; None to work in this process.
    ``wants_local``: whether models are named. Errors: BadRequest where both are named."""
    if wants_local:
        if url:
            raise BadRequest(
                "--url names a cos-serve; --policy, --prm, --policy-url, --prm-url, --grammar and --prm-format are for "
                "a search in this process: give one or the other"
            )
        return None
    named = url or os.environ.get("COS_URL")
    client = await stack.enter_async_context(AsyncClient(named or protocol.DEFAULT_URL, api_key=api_key))
    return client if named or await client.is_up() else None
