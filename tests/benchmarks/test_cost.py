"""The PRM's bill."""

import pytest
from prometheus_client import CollectorRegistry, Counter

from cos.benchmarks.cost import Need, ReadLog, measure, need_of, read_counters
from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.evaluation.in_process import open_models
from cos.search.errors import InputError
from cos.search.ports import Reading
from cos.search.types import Candidate, Chain, Piece, Question


def chain(*segments: int) -> Chain:
    """A chain whose segments are one token each."""
    return Chain(
        tuple(
            Candidate(path=(0,) * (depth + 1), written=(token,), tokens=1, piece=Piece("step", ""), end="step")
            for depth, token in enumerate(segments)
        )
    )


def test_the_need_of_a_small_tree_by_hand():
    """Prompt 10. Two chains share a first step of 4 tokens and a tag; the second one's words are read twice."""
    log = ReadLog(Question("?"))
    for length, content in [(15, (1,)), (18, (1, 2)), (20, (1, 3)), (20, (1, 3))]:
        log.note(chain(*content), Reading(0.5, length, 0))
    assert log.leaves == [(1, 2), (1, 3)]
    need = need_of(log, prompt_tokens=10)
    assert need == Need(chains=2, reads=4, needed=18 + 20, shared=10 + 5 + 3 + 5, rescan=15 + 18 + 20 + 20)


def test_a_read_that_failed_in_between_is_bridged():
    log = ReadLog(Question("?"))
    for length, content in [(15, (1,)), (25, (1, 2, 3))]:
        log.note(chain(*content), Reading(0.5, length, 0))
    assert need_of(log, 10) == Need(chains=1, reads=2, needed=25, shared=10 + 5 + 10, rescan=40)


def test_a_search_without_reads_needs_nothing():
    assert need_of(ReadLog(Question("?")), 10) == Need()


def test_counters_are_vllms_own():
    registry = CollectorRegistry()
    assert read_counters(registry) is None
    labels = ["model_name", "engine"]
    Counter("vllm:prompt_tokens", "Prefill tokens.", labels, registry=registry).labels("prm", "0").inc(100)
    Counter("vllm:prompt_tokens_cached", "Cached.", labels, registry=registry).labels("prm", "0").inc(30)
    found = read_counters(registry)
    assert found is not None
    assert found.computed == 70


@pytest.mark.parametrize("strategy", ["best_of_n", "beam", "greedy_prm"])
async def test_a_perfect_cache_computes_what_a_shared_tree_needs(problems: list[LedgerProblem], strategy: str):
    """The scripted engine caches without blocks: nothing is computed twice, but the last token of a repeated chain."""
    async with open_models("scripted", "scripted") as engines:
        facts = await measure(engines, problems[:8], Setting(strategy=strategy, n=4), 0, 4)
    assert facts["counted_by"] == "replies"
    assert 1 <= facts["computed_over_shared"] < 1.02
    assert facts["computed_over_needed"] < 1 < facts["naive_over_needed"]
    assert facts["prompt_tokens"] == facts["rescan_tokens"]
    assert facts["computed_tokens"] == facts["prompt_tokens"] - facts["cached_tokens"]


async def test_reads_of_a_policy_that_judges_itself_are_told_from_its_draws(problems: list[LedgerProblem]):
    async with open_models("scripted", "judge") as engines:
        facts = await measure(engines, problems[:4], Setting(strategy="beam", n=4), 0, 4)
    assert facts["counted_by"] == "replies"
    assert facts["prm_reads"] > 0
    assert facts["computed_tokens"] == facts["prompt_tokens"] - facts["cached_tokens"]


async def test_there_must_be_something_to_measure(problems: list[LedgerProblem]):
    async with open_models("scripted", "scripted") as engines:
        with pytest.raises(InputError, match="no PRM reads"):
            await measure(engines, problems[:2], Setting(strategy="self_consistency", n=2), 0, 2)
    async with open_models("scripted", "none") as engines:
        with pytest.raises(InputError, match="no PRM to measure"):
            await measure(engines, problems[:2], Setting(strategy="best_of_n", n=2), 0, 2)


@pytest.mark.parametrize("prm_format", ["thinkprm", "pointwise", "pairwise"])
async def test_a_prm_that_is_not_read_at_each_step_is_refused_with_what_counts_it(
    problems: list[LedgerProblem], prm_format: str
):
    async with open_models("scripted", "scripted", prm_format=prm_format) as engines:
        with pytest.raises(InputError, match="cos bench cost --formats"):
            await measure(engines, problems[:2], Setting(strategy="best_of_n", n=2), 0, 2)
