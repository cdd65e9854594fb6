"""What ``cos score`` does: finds a server or starts a PRM, and shows the scores of a chain."""

import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cos.clients import protocol
from cos.clients.errors import BadRequest
from cos.clients.find import find_server
from cos.clients.model_servers import ModelServers
from cos.clients.terminal import printable
from cos.search.extras import needs
from cos.search.scale import Aggregation
from cos.wire.score import ChainOptions, PieceScore, ScoreRequest, Scores

STDIN = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One chain, and who is to score it."""

    image_paths: tuple[str, ...]
    question: str
    steps: tuple[str, ...]
    answer: str | None
    text_path: str | None
    aggregation: Aggregation | None
    url: str | None
    api_key: str | None
    prm: str | None
    policy: str | None
    """What ``prm_lora`` is an adapter over."""
    prm_lora: str | None
    servers: ModelServers
    """Of vLLM: the one that runs it, if any."""
    prm_format: str | None

    def options(self) -> ChainOptions:
        """The chain as a request has it. Errors: BadRequest naming the file that cannot be read."""
        given: dict[str, Any] = {
            "steps": list(self.steps) or None,
            "answer": self.answer,
            "text": None if self.text_path is None else _text_of(self.text_path),
            "aggregation": self.aggregation,
        }
        options: Any = {name: value for name, value in given.items() if value is not None}
        return options


async def score_and_show(chain: Chain, *, json_only: bool) -> None:
    """Prints the scores on stdout. Errors: CosClientError, CosError."""
    images, options = [protocol.read_image(path) for path in chain.image_paths], chain.options()
    notes = Console(stderr=True)
    async with AsyncExitStack() as stack:
        named = (chain.prm, chain.policy, chain.prm_lora, chain.prm_format)
        wants_local = chain.servers.are_named or any(name is not None for name in named)
        client = await find_server(chain.url, chain.api_key, stack, wants_local=wants_local)
        if client is None:
            scores = await _here(chain, images, options, stack, notes)
        else:
            notes.print(f"asking the server at {client.url}", style="dim", highlight=False)
            shown = images[0] if len(images) == 1 else images or None
            scores = await client.score(shown, chain.question, **options)
    if json_only:
        typer.echo(scores.model_dump_json())
    else:
        show(Console(), scores)


async def _here(
    chain: Chain, images: Sequence[bytes], options: ChainOptions, stack: AsyncExitStack, notes: Console
) -> Scores:
    try:
        request = ScoreRequest.model_validate({"question": chain.question, **options})
    except ValidationError as error:
        raise BadRequest(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    with needs("serve", "scoring in this process", instead="or name a running server by --url"):
        from cos.checkpoints import EMBEDDED
        from cos.clients.in_process import score
        from cos.evaluation.in_process import base_of, open_prm

        lora = chain.prm_lora
        if chain.policy is not None and lora is None:
            raise BadRequest(f"--policy {chain.policy} scores nothing by itself; give --prm, or --prm-lora beside it")
        model = (chain.prm or EMBEDDED) if lora is None else base_of(lora, chain.policy, chain.prm)
        prm = lora or model
        with notes.status(f"starting the PRM ({prm})"):
            models = await stack.enter_async_context(
                open_prm(model, lora=lora, prm_format=chain.prm_format or "auto", elsewhere=chain.servers.checked())
            )
    return await score(models, prm, images, chain.question, request)


def show(console: Console, scores: Scores) -> None:
    """A row a step, the first one below the threshold marked; then the chain's score."""
    (result,) = scores.results
    table = Table("#", "step", title=f"Scores of {printable(scores.prm)}", title_justify="left")
    table.add_column("score", justify="right")
    for number, step in enumerate(result.steps, 1):
        is_suspicious = number == result.first_suspicious_step
        table.add_row(str(number), Text(printable(step.text), "red" if is_suspicious else ""), _score(step))
    if result.answer is not None:
        table.add_row("", Text(f"Answer: {printable(result.answer.text)}", "bold"), _score(result.answer))
    console.print(table)
    whole = "unscored" if result.score is None else f"{result.score:.3f}"
    console.print(f"Chain score ({scores.aggregation}): {whole}", highlight=False)
    if result.first_suspicious_step is not None:
        found = f"First suspicious step: {result.first_suspicious_step} (below {scores.threshold:g})"
        console.print(found, style="red", highlight=False)
    elif scores.threshold is not None:
        console.print(f"No step is below {scores.threshold:g}.", highlight=False)
    for warning in scores.warnings:
        console.print(f"Warning: {printable(warning)}", style="yellow", highlight=False)


def _score(piece: PieceScore) -> str:
    return "unscored" if piece.score is None else f"{piece.score:.3f}"


def _text_of(path: str) -> str:
    try:
        return sys.stdin.read() if path == STDIN else Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"--text {path}: {error}; give a text file in UTF-8") from error
