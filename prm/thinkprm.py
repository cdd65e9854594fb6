r"""The ThinkPRM format: the PRM writes a critique of every step, then "Yes" or "No" is read behind its last question.

Source: arXiv 2504.16828 and its released code (mukhal/ThinkPRM); checkpoints launch/ThinkPRM-*. The prompt is that of
the code: with that of the model cards many critiques are empty. A critique says ``\boxed{correct}`` or
``\boxed{incorrect}`` of each step. A prefix's score is softmax over {" Yes", " No"} behind "Is the solution correct?",
which is asked where the model has not asked it by itself. A chain's is that of its last prefix. There is no picture.
"""

import re

from cos.prm.encoding import continued
from cos.prm.verdicts import VerdictPrm, VerdictSession, line_of, priority_of, without_turn_end
from cos.search.ports import Draw, Drawn, Reading, Stops
from cos.search.prompt import Prompt
from cos.search.scale import Scale
from cos.search.types import Chain, Turn

SHOWN = """\
You are given a math problem and a proposed step-by-step solution:

[Math Problem]

{problem}

[Solution]

{steps}

Review and critique each step in the proposed solution to determine whether each step is correct. If the solution is \
incomplete, only verify the provided steps."""
ASKED = "Is the solution correct?"
_OF_A_STEP = re.compile(r"\\boxed\{\s*(?:in)?correct\s*\}")


class _Session(VerdictSession):
    async def score(self, chain: Chain) -> Reading:
        """P(Yes) behind a critique of the chain by now."""
        steps = "\n".join(f"Step {number}: {line_of(one.piece)}" for number, one in enumerate(chain.candidates, 1))
        # Filled in at once: neither text may hold the other's place.
        shown = SHOWN.format(problem=self._problem, steps=steps)
        draw = Draw(
            max_tokens=self._max_tokens,
            stops=Stops(strings=(ASKED,)),
            seed=0,
            temperature=0.0,
            priority=priority_of(chain),
        )
        _, reading = await self._writer.judged(Prompt((Turn("user", shown),)), (), draw, self._behind)
        return reading

    def _behind(self, drawn: Drawn) -> tuple[int, ...] | None:
        if drawn.finish == "length" or not _OF_A_STEP.search(drawn.text):
            return None
        written = without_turn_end(drawn)
        return written if drawn.stop == ASKED else (*written, *continued(self._vocabulary, f"\n{ASKED}"))


class ThinkPrm(VerdictPrm):
    """Judges chains of any grammar by a written critique, from their text alone."""

    name = "thinkprm"
    scale = Scale(aggregation="last", threshold=0.5)
    labels = (" Yes", " No")
    verdict_tokens = 4096
    session = _Session
