"""Steps of an answer as lines of text."""

from cos.server.chat import step_line
from cos.wire.reply import Candidate


def test_a_step_that_can_have_no_score_is_not_called_unscored() -> None:
    step = Candidate(path=(0,), text="I look.", fields={}, end="step", score=None, tokens=3)
    assert step_line(1, step) == "Step 1 (unscored): I look."
    assert step_line(1, step, may_have_score=False) == "Step 1: I look."
    ended = step.model_copy(update={"end": "max_steps"})
    assert step_line(2, ended, may_have_score=False) == "Step 2 (max_steps): I look."
