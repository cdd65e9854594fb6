"""What is asked of running models before anyone may search with them; it warms the engines up, too. What their files
tell by themselves is in `cos.server.checks.files`."""

from collections.abc import AsyncGenerator

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from cos.checkpoints import EMBEDDED, Example, example
from cos.engines.settings import SCRIPTED
from cos.search.errors import EngineDead, EngineError, InputError, SearchFailed
from cos.search.types import Question
from cos.server.checks.finding import Finding, Unusable, heed, refused
from cos.server.checks.golden_chain import check_prm
from cos.server.checks.prefix_cache import check_policy_cache
from cos.server.errors import SearchTimeout
from cos.server.golden import prefixes
from cos.server.logs import say
from cos.server.metrics import Account
from cos.server.service import Service
from cos.server.solving import solve
from cos.wire.asked import Sent
from cos.wire.reply import Solution
from cos.wire.request import SearchOptions

SEARCH = "first search"


async def self_check(service: Service, console: Console) -> None:
    """Checks the running models with the bundled example. What falls short of perfect is logged as a warning.

    Errors: Unusable for a policy or a PRM that cannot work; EngineDead, when there is nothing to serve with.
    """
    async for finding in check_running(service, console):
        heed((finding,))


async def check_running(service: Service, console: Console) -> AsyncGenerator[Finding]:
    """What running engines tell, finding by finding: what the PRM's scores are worth, a first search with the
    server's defaults, shown on the console, and whether the prefix caches are hit.

    Errors: EngineDead.
    """
    sample = example()
    question = Question(sample.question)
    if service.pictures.most:
        (upload,) = await service.images.take([Sent(sample.image_path.read_bytes(), "example")])
        question = Question(sample.question, (await service.images.decode(upload),))
    for finding in await check_prm(service, question, sample):
        yield finding
    try:
        yield await first_search(service, question, sample, console)
    except Unusable as error:
        yield refused(SEARCH, error, "give another policy")
        return
    chains = prefixes(sample.right, service.models)[-3:-1]
    cache = await check_policy_cache(service.settings.policy, service.models, question, chains)
    if cache is not None:
        yield cache


async def first_search(service: Service, question: Question, sample: Example, console: Console) -> Finding:
    """Solves the bundled example with the server's defaults; what falls short of an answer is a warning. Errors:
    Unusable, EngineDead."""
    settings = service.settings
    try:
        reply = await solved(service, question, SearchOptions(seed=0))
    except Unusable:
        raise
    except (InputError, SearchFailed, SearchTimeout) as error:
        todo = "ask a question of your own before you rely on it"
        return Finding(name=SEARCH, state="warning", found=f"the first search failed: {error}", todo=todo)
    told = f"{reply.usage.candidates} candidates in {reply.timings.total_s:.1f} s"
    if settings.policy in (EMBEDDED, SCRIPTED) and not console.quiet:
        show(reply, sample, console)
    else:
        # Another checkpoint was trained on other pictures: that it answers at all is what counts.
        say(console, f"First search: {told}.")
    if not reply.complete:
        found = f"the first search ended without an answer ({reply.finish_reason})"
        todo = "give another --grammar if the policy writes its steps in another way"
        return Finding(name=SEARCH, state="warning", found=found, todo=todo)
    if settings.policy == settings.prm_name == EMBEDDED and reply.answer != sample.answer:
        return await refuse_if_wrong(service, question, sample)
    return Finding(name=SEARCH, state="ok", found=f"answered with {told}")


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


async def refuse_if_wrong(service: Service, question: Question, sample: Example) -> Finding:
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
    found = f"strategy {service.settings.strategy} gets the example wrong"
    return Finding(name=SEARCH, state="warning", found=found, todo="auto gets it right")


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
