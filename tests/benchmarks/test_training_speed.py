"""The pipeline's speed over that of a loop written by hand."""

import pytest

from cos.benchmarks.training_speed import Lap, Load, bootstrap_median, measure, training_facts
from cos.search.errors import InputError


def lap(pipeline_s: float, hand_s: float = 1.0) -> Lap:
    return Lap(pipeline_s=pipeline_s, hand_s=hand_s, pipeline_cpu_s=2 * pipeline_s, hand_cpu_s=2 * hand_s, tokens=100)


def test_both_do_the_same_work():
    """The same batches and weights give the same losses, so that a ratio of their times is one of their speeds."""
    facts = measure(Load(batch=2, warmup=0, repetitions=2, threads=1, compiled=False), seed=0)
    assert facts["steps"] == 8
    assert facts["loss_difference"] < 2e-3
    assert facts["over_hand_loop"] > 0


def test_the_ratio_is_the_median_over_rounds_and_one_slow_round_does_not_move_it():
    facts = training_facts([lap(1.1), lap(1.2), lap(1.3), lap(90.0), lap(1.2)], Load(), 0, [1.0], [1.0])
    assert facts["over_hand_loop"] == pytest.approx(1.2)
    assert facts["over_hand_loop_cpu"] == pytest.approx(1.2)
    assert facts["hand_tokens_per_s"] == pytest.approx(100)


def test_a_hand_loop_twice_as_fast_counts_as_two():
    facts = training_facts([lap(2.0)] * 3, Load(), 0, [1.0], [1.25])
    assert (facts["over_hand_loop"], facts["ci_low"], facts["ci_high"]) == (2.0, 2.0, 2.0)
    assert facts["hand_tokens_per_s"] == 2 * facts["pipeline_tokens_per_s"]
    assert facts["loss_difference"] == 0.25


def test_rounds_that_only_compiled_are_no_measurement():
    with pytest.raises(InputError, match="ask for more"):
        training_facts([], Load(repetitions=2), 0, [1.0], [1.0])


def test_the_interval_of_a_median_lies_around_it():
    interval = bootstrap_median([1.0, 1.1, 1.2, 1.3, 1.4], seed=0)
    assert 1.0 <= interval.low <= 1.2 <= interval.high <= 1.4
