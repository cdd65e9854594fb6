"""What a PRM says of a right and of a wrong chain.

The embedded PRM is shown the bundled example, and must put the right chain above the wrong one. Any other PRM is shown
a sum in plain text, which needs no picture: it may know another domain, another language or text alone. It is refused
only where its numbers are no scores. Where it gets the order wrong, that is a warning.
"""

import logging
import math

from cos.checkpoints import EMBEDDED, Example
from cos.engines.settings import SCRIPTED
from cos.prm.choice import ITSELF
from cos.search.errors import EngineDead, EngineError, InputError
from cos.search.ports import Reading, Scorer, ScorerSession, WritesVerdicts
from cos.search.types import Chain, Question
from cos.server.checks.arithmetic import ARITHMETIC
from cos.server.checks.finding import Finding
from cos.server.checks.prefix_cache import of_readings
from cos.server.golden import prefixes
from cos.server.service import Service

logger = logging.getLogger(__name__)

NAME = "PRM scores"
UNDECIDED = 0.2
"""Scores this close to the middle of their scale say nothing, in shares of it. A policy in place of a PRM keeps within
0.15."""
ADVICE = "give a PRM that was trained for this policy, or --prm none to rank by the policy's likelihood"
UNTRAINED_ADVICE = "give another chat model, or --prm none to rank by the policy's likelihood"


async def check_prm(service: Service, question: Question, sample: Example) -> list[Finding]:
    """What its scores are worth, and whether its prefix cache is hit; nothing without a PRM. ``question`` and
    ``sample`` are the bundled example. Errors: EngineDead."""
    scorer, name = service.models.scorer, service.settings.prm_name
    if scorer is None or scorer.scale.judges == "pairs":
        return []
    is_ours = name in (EMBEDDED, SCRIPTED)
    asked, shown = (question, sample) if is_ours else (Question(ARITHMETIC.question), ARITHMETIC)
    try:
        session = await scorer.open(asked)
    except InputError as error:
        found = f"--prm {name} could not be tried: {error}"
        return [Finding(name=NAME, state="warning", found=found, todo="try a question of your own", param="prm")]
    # A written verdict takes long, and one of a whole chain tells enough.
    first = -1 if isinstance(session, WritesVerdicts) else 0
    right, wrong = [
        [
            await _read(session, chain)
            for chain in prefixes(solution, service.models)[first:]
            if chain.candidates[-1].end in scorer.scale.judged_ends
        ]
        for solution in (shown.right, shown.wrong)
    ]
    cache = of_readings(str(name), [reading for reading in right if reading is not None])
    is_made_up = name == SCRIPTED or (name == ITSELF and service.settings.policy == SCRIPTED)
    return [_judged(str(name), scorer, right, wrong, is_made_up=is_made_up), *([] if cache is None else [cache])]


def _judged(
    name: str, scorer: Scorer, right: list[Reading | None], wrong: list[Reading | None], *, is_made_up: bool
) -> Finding:
    # Nobody has trained a judge for this, and a scorer that is no `PrmFormat` need not say so.
    advice = ADVICE if getattr(scorer, "is_trained", True) else UNTRAINED_ADVICE
    scores = [scorer.scale.usable(reading.score) if reading else None for reading in (*right, *wrong)]
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        missing = f"{len(scores) - len(known)} of {len(scores)} scores of a known chain are missing or off the scale"
        return Finding(name=NAME, state="refused", found=f"--prm {name}: {missing}", todo=advice, param="prm")
    is_embedded = name == EMBEDDED
    if is_made_up:
        return Finding(name=NAME, state="ok", found="made up, as there is no model")
    shares = [share for score in known if (share := scorer.scale.portion(score)) is not None]
    if shares and all(abs(share - 0.5) < UNDECIDED for share in shares):
        return Finding(
            name=NAME,
            state="refused" if is_embedded else "warning",
            found=f"--prm {name} gives right and wrong chains alike about one half ({min(known):.2f} to "
            f"{max(known):.2f}): it was not trained to judge, or not this kind of question",
            todo=advice,
            param="prm",
        )
    last, lost = known[len(right) - 1], known[-1]
    if math.fsum(known[: len(right)]) <= math.fsum(known[len(right) :]) or last <= lost:
        found = f"--prm {name} gives a wrong answer {lost:.3f} and the right one {last:.3f}"
        if is_embedded:
            todo = "install cos-serve again: its checkpoint is damaged"
            return Finding(name=NAME, state="refused", found=found, todo=todo, param="prm")
        found += ", in an example that it may not have been trained for"
        todo = "compare answers with and without it, as by cos eval, before you rely on it"
        return Finding(name=NAME, state="warning", found=found, todo=todo, param="prm")
    return Finding(name=NAME, state="ok", found=f"the right answer {last:.3f}, a wrong one {lost:.3f}")


async def _read(session: ScorerSession, chain: Chain) -> Reading | None:
    try:
        return await session.score(chain)
    except EngineDead:
        raise
    except EngineError as error:
        logger.warning("the PRM failed a read: %s", error)
        return None
