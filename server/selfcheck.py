"""The first search of a server, before anyone may ask: it warms the engines up, and refuses models that cannot work.

A PRM is shown a right and a wrong chain for the bundled example. One that gives either no score, or for both nothing
but scores near one half, was never trained as a PRM: it is refused. The embedded PRM must put the right chain above the
wrong one; another one was trained on other pictures, so there it is a warning.
"""

import logging
import math

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from cos.checkpoints import EMBEDDED, Example, example
from cos.engines.settings import SCRIPTED
from cos.search.errors import EngineDead, EngineError, InputError, SearchFailed
from cos.search.ports import ScorerSession
from cos.search.select import finite
from cos.search.types import Chain, Question
from cos.server.errors import SearchTimeout
from cos.server.golden import prefixes
from cos.server.logs import say
from cos.server.metrics import Account
from cos.server.service import Service
from cos.server.solving import solve
from cos.wire.reply import Solution
from cos.wire.request import SearchOptions

logger = logging.getLogger(__name__)


class Unusable(InputError):
    """Models that cannot be served with."""


UNDECIDED = 0.2
"""Scores this close to the middle of their scale say nothing, in shares of it. A policy in place of a PRM keeps within
0.15."""


async def self_check(service: Service, console: Console) -> None:
    """Solves the bundled example with the server's defaults; what falls short of an answer is a warning.

    Errors: Unusable for a policy or a PRM that cannot work; EngineDead, when there is nothing to serve with.
    """
    sample, settings = example(), service.settings
    picture = await service.images.decode(await service.images.take(sample.image_path.read_bytes(), "example"))
    question = Question(sample.question, picture)
    await check_prm(service, question, sample)
    try:
        reply = await solved(service, question, SearchOptions(seed=0))
    except Unusable:
        raise
    except (InputError, SearchFailed, SearchTimeout) as error:
        logger.warning("the first search failed: %s", error)
        return
    if settings.policy in (EMBEDDED, SCRIPTED) and not console.quiet:
        show(reply, sample, console)
    else:
        # Another checkpoint was trained on other pictures: that it answers at all is what counts.
        say(console, f"First search: {reply.usage.candidates} candidates in {reply.timings.total_s:.1f} s.")
    if not reply.complete:
        logger.warning("the first search ended without an answer (%s)", reply.finish_reason)
    elif settings.policy == settings.prm_name == EMBEDDED and reply.answer != sample.answer:
        await refuse_if_wrong(service, question, sample)


async def solved(service: Service, question: Question, options: SearchOptions) -> Solution:
    """The reply to a search of the server's own. Errors: Unusable where the engines fail it; EngineDead."""
    job = service.planner.plan(question, options)
    try:
        return await solve(service, job, None, Account("self_check"), stored=False)
    except EngineDead:
        raise
    except EngineError as error:
        raise Unusable(
            f"--policy {service.settings.policy} cannot solve anything: in the first search {error}; "
            "the log says why, or give another checkpoint",
            "policy",
        ) from error


async def check_prm(service: Service, question: Question, sample: Example) -> None:
    """Errors: Unusable for a PRM that does not tell right from wrong."""
    scorer, name = service.models.scorer, service.settings.prm_name
    if scorer is None:
        return
    try:
        session = await scorer.open(question)
    except InputError as error:
        logger.warning("the PRM could not be tried: %s", error)
        return
    right, wrong = [
        [await _score(session, chain) for chain in prefixes(solution, service.models)]
        for solution in (sample.right, sample.wrong)
    ]
    scores = [finite(score) for score in (*right, *wrong)]
    known = [score for score in scores if score is not None]
    advice = "give a PRM that was trained for this policy, or --prm none to rank by the policy's likelihood"
    if len(known) < len(scores):
        raise Unusable(
            f"--prm {name}: {len(scores) - len(known)} of {len(scores)} scores of a known chain are missing; {advice}",
            "prm",
        )
    if name == SCRIPTED:
        return
    shares = [share for score in known if (share := scorer.scale.portion(score)) is not None]
    if shares and all(abs(share - 0.5) < UNDECIDED for share in shares):
        raise Unusable(
            f"--prm {name} gives right and wrong chains alike about one half ({min(known):.2f} to {max(known):.2f}): "
            f"it was not trained to judge; {advice}",
            "prm",
        )
    if math.fsum(known[: len(right)]) <= math.fsum(known[len(right) :]) or known[len(right) - 1] <= known[-1]:
        misjudged = f"--prm {name} gives a wrong answer {known[-1]:.3f} and the right one {known[len(right) - 1]:.3f}"
        if name == EMBEDDED:
            raise Unusable(f"{misjudged}; install cos-serve again: its checkpoint is damaged", "prm")
        logger.warning("%s, in an example that it may not have been trained for", misjudged)


async def _score(session: ScorerSession, chain: Chain) -> float | None:
    try:
        return (await session.score(chain)).score
    except EngineDead:
        raise
    except EngineError as error:
        logger.warning("the PRM failed a read: %s", error)
        return None


async def refuse_if_wrong(service: Service, question: Question, sample: Example) -> None:
    """Gives the embedded models a second chance with the strategy that is known to solve their example, as the
    server's own default may be a narrow one. Errors: Unusable when the answer is wrong again."""
    n = min(16, service.settings.max_n)
    reply = await solved(service, question, SearchOptions(seed=0, strategy="auto", n=n))
    if reply.answer != sample.answer:
        raise Unusable(
            f"the embedded pair answers its own example with {reply.answer!r} where {sample.answer!r} is right; "
            "install cos-serve again, or take away the --dtype, --policy-suffix or --prm-suffix it was started with",
            "policy",
        )
    logger.warning("strategy %s gets the example wrong; auto gets it right", service.settings.strategy)


def show(reply: Solution, sample: Example, console: Console) -> None:
    """Prints the winning chain with the score of every step."""
    steps = Table("step", "score", "text", box=None, padding=(0, 2, 0, 0))
    for number, step in enumerate(reply.steps, 1):
        steps.add_row(str(number), _shown(step.score), escape(step.text))
    steps.add_row("[bold]answer[/]", _shown(reply.answer_score), f"[bold]{escape(reply.answer or 'none')}[/]")
    expected = "" if reply.model == SCRIPTED else f" (expected: {sample.answer})"
    tree = Tree(f"[bold]Q:[/] {escape(sample.question)}{escape(expected)}")
    tree.add(steps)
    tree.add(
        f"{reply.strategy}: {reply.usage.candidates} candidates, {reply.usage.tokens_generated} tokens, "
        f"{reply.usage.prm_reads} PRM reads in {reply.timings.total_s:.2f} s"
    )
    console.print(tree)


def _shown(score: float | None) -> str:
    return "unscored" if score is None else f"{score:.3f}"
