"""The first search of a server, before anyone may ask: it warms the engines up and shows what they can do."""

import logging

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from cos.checkpoints import EMBEDDED, Example, example
from cos.engines.launch import SCRIPTED
from cos.search.errors import EngineDead, InputError, SearchFailed
from cos.search.types import Question
from cos.server.errors import SearchTimeout
from cos.server.metrics import Account
from cos.server.schemas import SearchOptions, SolveReply
from cos.server.service import Service

logger = logging.getLogger(__name__)


async def self_check(service: Service, console: Console) -> None:
    """Solves the bundled example with the server's defaults; what falls short is a warning.

    Errors: EngineDead, when there is nothing to serve with.
    """
    sample = example()
    upload = await service.images.take(sample.image_path.read_bytes(), "example")
    job = service.planner.plan(Question(sample.question), SearchOptions(seed=0))
    try:
        reply = await service.search(job, upload, Account("self_check"), stored=False).finish()
    except EngineDead:
        raise
    except (InputError, SearchFailed, SearchTimeout) as error:
        logger.warning("the first search failed: %s", error)
        return
    if service.settings.policy in (EMBEDDED, SCRIPTED):
        show(reply, sample, console)
    else:
        # Another checkpoint was trained on other pictures: that it answers at all is what counts.
        console.print(f"First search: {reply.usage.candidates} candidates in {reply.timings.total_s:.1f} s.")
    if not reply.complete:
        logger.warning("the first search ended without an answer (%s)", reply.finish_reason)


def show(reply: SolveReply, sample: Example, console: Console) -> None:
    """Prints the winning chain with the score of every step."""
    steps = Table("step", "score", "thought", box=None, padding=(0, 2, 0, 0))
    for step in reply.steps:
        steps.add_row(escape(step.name or step.end), _score(step.score), escape(step.thought or step.excerpt or ""))
    steps.add_row("[bold]answer[/]", _score(reply.answer_score), f"[bold]{escape(reply.answer or 'none')}[/]")
    expected = "" if reply.model == SCRIPTED else f" (expected: {sample.answer})"
    tree = Tree(f"[bold]Q:[/] {escape(sample.question)}{escape(expected)}")
    tree.add(steps)
    tree.add(
        f"{reply.strategy}: {reply.usage.candidates} candidates, {reply.usage.tokens_generated} tokens, "
        f"{reply.usage.prm_reads} PRM reads in {reply.timings.total_s:.2f} s"
    )
    console.print(tree)


def _score(score: float | None) -> str:
    return "unscored" if score is None else f"{score:.3f}"
