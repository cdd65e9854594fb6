"""What ``cos solve`` does: finds a server or starts engines, follows the search, shows the solution."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.live import Live

from cos.clients import protocol, terminal
from cos.clients.async_client import AsyncClient
from cos.clients.drawing import draw_solution
from cos.clients.errors import BadReply, BadRequest
from cos.search.extras import needs
from cos.wire.events import Answered, Event
from cos.wire.reply import Solution


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question, and who is to answer it."""

    image_path: str
    question: str
    options: dict[str, Any]
    """Fields of `cos.wire.request.Options`."""
    url: str | None
    api_key: str | None
    policy: str | None
    prm: str | None
    grammar: str | None
    prm_format: str | None

    @property
    def wants_local(self) -> bool:
        """Whether models are named, so that no server can be meant."""
        return any(name is not None for name in (self.policy, self.prm, self.grammar, self.prm_format))


async def solve_and_show(ask: Ask, *, json_only: bool, tree: bool, picture: Path | None) -> None:
    """Prints the solution on stdout, progress on stderr; draws it into the SVG file ``picture`` as well.

    Errors: CosClientError, CosError.
    """
    if picture is not None and not picture.parent.is_dir():
        raise BadRequest(f"--picture {picture}: there is no folder {picture.parent}")
    image = protocol.read_image(ask.image_path)
    notes = Console(stderr=True)
    async with AsyncExitStack() as stack:
        client = await _server(ask, stack)
        if client is None:
            happening = await _here(ask, image, stack, notes)
        else:
            notes.print(f"asking the server at {client.url}", style="dim", highlight=False)
            happening = client.stream(image, ask.question, **ask.options, return_tree=tree)
        solution = await _follow(happening, notes)
    if json_only:
        typer.echo((solution if tree else solution.model_copy(update={"tree": None})).model_dump_json())
    else:
        terminal.show_solution(Console(), solution, tree=tree)
    if picture is not None:
        draw_solution(picture, ask.question, solution, image, tree=tree)
        notes.print(f"drawn in {picture}", style="dim", highlight=False)


async def _server(ask: Ask, stack: AsyncExitStack) -> AsyncClient | None:
    """The server that is named, or one that answers at the default address. Errors: BadRequest."""
    if ask.wants_local:
        if ask.url:
            raise BadRequest(
                "--url names a server; --policy, --prm, --grammar and --prm-format are for models to load here: "
                "give one or the other"
            )
        return None
    url = ask.url or os.environ.get("COS_URL")
    client = await stack.enter_async_context(AsyncClient(url or protocol.DEFAULT_URL, api_key=ask.api_key))
    return client if url or await client.is_up() else None


async def _here(ask: Ask, image: bytes, stack: AsyncExitStack, notes: Console) -> AsyncIterator[Event]:
    """The events of a search in this process. Errors: InputError for options or models that cannot be used."""
    with needs("serve", "a search in this process", instead="or name a running server by --url"):
        from cos.checkpoints import EMBEDDED
        from cos.clients.in_process import spec_of, stream
        from cos.evaluation.in_process import open_models, prm_for

        policy = ask.policy or EMBEDDED
        prm = prm_for(policy, ask.prm)
        options = dict(ask.options)
        seed: int = options.pop("seed", protocol.DEFAULT_SEED)
        choices: tuple[str, ...] = tuple(options.pop("choices", ()))
        spec = spec_of(options, seed=seed, prm=prm)
        with notes.status(f"starting engines ({policy}, {prm})"):
            opened = await stack.enter_async_context(
                open_models(policy, prm, grammar=ask.grammar or "auto", prm_format=ask.prm_format or "auto")
            )
    return stream(opened.models, policy, image, ask.question, spec, choices)


async def _follow(happening: AsyncIterator[Event], notes: Console) -> Solution:
    """Draws the search while it runs; its solution."""
    search = terminal.LiveSearch()
    live = Live(search, console=notes, transient=True, refresh_per_second=8) if notes.is_terminal else nullcontext()
    with live:
        async for event in happening:
            search.take(event)
            if isinstance(event, Answered):
                return event.solution
    raise BadReply("the search ended without an answer")
