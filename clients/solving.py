"""What ``cos solve`` does: finds a server or starts engines, follows the search, shows the solution."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.live import Live

from cos.clients import protocol, terminal
from cos.clients.drawing import draw_solution
from cos.clients.errors import BadReply, BadRequest
from cos.clients.find import find_server
from cos.clients.model_servers import ModelServers
from cos.search.extras import needs
from cos.wire.conversation import Message
from cos.wire.events import Answered, Event
from cos.wire.reply import Solution


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question, and who is to answer it."""

    image_paths: tuple[str, ...]
    question: str
    options: dict[str, Any]
    """Fields of `cos.wire.request.Options`."""
    history: tuple[Message, ...]
    """What was said before."""
    url: str | None
    api_key: str | None
    policy: str | None
    prm: str | None
    prm_lora: str | None
    servers: ModelServers
    """Of vLLM, which run them."""
    grammar: str | None
    prm_format: str | None

    @property
    def wants_local(self) -> bool:
        """Whether models are named, so that no server can be meant."""
        named = (self.policy, self.prm, self.prm_lora, self.grammar, self.prm_format)
        return self.servers.are_named or any(name is not None for name in named)


async def solve_and_show(ask: Ask, *, json_only: bool, tree: bool, picture: Path | None) -> None:
    """Prints the solution on stdout, progress on stderr; draws it into the SVG file ``picture`` as well.

    Errors: CosClientError, CosError.
    """
    if picture is not None and not picture.parent.is_dir():
        raise BadRequest(f"--picture {picture}: there is no folder {picture.parent}")
    images = [protocol.read_image(path) for path in ask.image_paths]
    notes = Console(stderr=True)
    async with AsyncExitStack() as stack:
        client = await find_server(ask.url, ask.api_key, stack, wants_local=ask.wants_local)
        if client is None:
            happening = await _here(ask, images, stack, notes)
        else:
            notes.print(f"asking the server at {client.url}", style="dim", highlight=False)
            shown = images[0] if len(images) == 1 else images or None
            options = dict(ask.options)
            if ask.history:
                options["history"] = [message.model_dump(mode="json", exclude_unset=True) for message in ask.history]
            happening = client.stream(shown, ask.question, **options, return_tree=tree)
        solution = await _follow(happening, notes)
    if json_only:
        typer.echo((solution if tree else solution.model_copy(update={"tree": None})).model_dump_json())
    else:
        terminal.show_solution(Console(), solution, tree=tree)
    if picture is not None:
        draw_solution(picture, ask.question, solution, images, tree=tree)
        notes.print(f"drawn in {picture}", style="dim", highlight=False)


async def _here(ask: Ask, images: Sequence[bytes], stack: AsyncExitStack, notes: Console) -> AsyncIterator[Event]:
    """The events of a search in this process. Errors: InputError for options or models that cannot be used, and for a
    conversation that the policy cannot do with."""
    with needs("serve", "a search in this process", instead="or name a running server by --url"):
        from cos.checkpoints import EMBEDDED, resolve
        from cos.clients.in_process import spec_of, stream
        from cos.engines.checkpoint import takes_system_text
        from cos.evaluation.in_process import open_models, prm_for

        policy = ask.policy or EMBEDDED
        if ask.history and not takes_system_text(resolve("policy", policy)):
            raise BadRequest(
                f"--history: the policy {policy} was trained on questions alone, as its config.json says "
                "(cos_system_text); leave it out, or name another --policy",
                "history",
            )
        prm_format = ask.prm_format or "auto"
        prm = prm_for(policy, ask.prm, prm_format, ask.prm_lora)
        options = dict(ask.options)
        seed: int = options.pop("seed", protocol.DEFAULT_SEED)
        choices: tuple[str, ...] = tuple(options.pop("choices", ()))
        spec = spec_of(options, seed=seed, prm=prm)
        with notes.status(f"starting engines ({policy}, {prm})"):
            opened = await stack.enter_async_context(
                open_models(
                    policy,
                    ask.prm,
                    prm_lora=ask.prm_lora,
                    grammar=ask.grammar or "auto",
                    prm_format=prm_format,
                    elsewhere=ask.servers.checked(),
                )
            )
    return stream(opened.models, policy, images, ask.question, spec, choices, ask.history)


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
