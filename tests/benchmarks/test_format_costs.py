"""What each PRM format computes for a growing chain, counted without models. tests/prm and tests/engines compare the
counts with those of vLLM, for a format of each kind."""

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from cos.benchmarks.cli import benches
from cos.benchmarks.counting import PrefixCache, WordVocabulary
from cos.benchmarks.format_costs import POLICY_ITSELF, Sizes, cost_of, measure
from cos.prm import menu

SIZES = Sizes()


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return asyncio.run(measure(SIZES))


def row_of(facts: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = (row for row in facts["formats"] if row["prm_format"] == name)
    return row


def test_a_cache_of_blocks_by_hand() -> None:
    cache = PrefixCache(4)
    ids = tuple(range(11))
    assert cache.cached(ids) == 0
    cache.keep(ids)
    assert cache.cached(ids) == 8, "whole blocks"
    assert cache.cached(ids[:8]) == 4, "never the last token"
    assert cache.cached((*ids[:8], 99)) == 8
    assert cache.cached((99, *ids)) == 0, "in the same place"
    assert cache.cached((*ids[:5], 99, *ids[6:])) == 4, "behind the same tokens"


def test_words_are_tokens_and_control_tokens_are_no_text() -> None:
    words = WordVocabulary("a")
    text = "Step 12: it's <tag>,\n\nso \\boxed{42}_"
    assert words.decode(words.encode(text)) == text
    assert words.control_id("<tag>") not in words.encode("<tag>")
    assert words.control_id("<tag>") == words.control_id("<tag>")


def test_every_format_is_counted(facts: dict[str, Any]) -> None:
    names = [*menu.menu(), POLICY_ITSELF]
    assert [row["prm_format"] for row in facts["formats"]] == names
    assert list(facts["computed_over_needed"]) == list(facts["computed_over_needed_blocks_of_32"]) == names
    for row in facts["formats"]:
        assert row["computed_tokens"] == row["prompt_tokens"] - row["cached_tokens"] + row["written_tokens"]
        assert row["computed_over_needed"] == row["computed_tokens"] / row["needed_tokens"]


def test_a_read_at_a_step_computes_its_step_and_a_block_again(facts: dict[str, Any]) -> None:
    for row in facts["formats"]:
        if row["asks"] == "text" or row["judges"] != "steps" or row["prm_format"] in ("judge", POLICY_ITSELF):
            continue
        again = row["computed_tokens"] - row["needed_tokens"]
        assert 0 <= again <= (row["requests"] - 1) * SIZES.block_tokens, row["prm_format"]
        assert row["naive_over_needed"] > 5 * row["computed_over_needed"] / 2


def test_verdicts_are_written_once_and_thinkprm_reads_none_of_its_own_again(facts: dict[str, Any]) -> None:
    chain = SIZES.steps + 1
    for name in ("thinkprm", "genprm"):
        row = row_of(facts, name)
        assert row["requests"] == 2 * chain
        assert row["written_tokens"] > chain * SIZES.verdict_words
    assert facts["computed_over_needed"]["genprm"] < 1.1, "every critique stays in the conversation"
    assert facts["computed_over_needed"]["thinkprm"] > 2, "every prefix has a critique of its own"


def test_a_policy_that_judges_itself_computes_less_than_another_model(facts: dict[str, Any]) -> None:
    ratios = facts["computed_over_needed"]
    assert ratios[POLICY_ITSELF] < 1 < ratios["judge"]


def test_whole_answers_are_read_once_or_compared_with_each_other(facts: dict[str, Any]) -> None:
    assert facts["computed_over_needed"]["pointwise"] == 1
    assert row_of(facts, "pointwise")["requests"] == 1
    pairs = row_of(facts, "pairwise")
    assert pairs["requests"] == SIZES.answers * (SIZES.answers - 1)
    assert pairs["computed_over_needed"] > 1


async def test_longer_chains_cost_no_more_a_token() -> None:
    """Without a cache they would: the work would grow with the square of the steps."""
    short, long = [await cost_of("visualprm", Sizes(steps=steps)) for steps in (4, 32)]
    assert long["computed_over_needed"] == pytest.approx(short["computed_over_needed"], abs=0.2)
    assert long["naive_over_needed"] > 2 * short["naive_over_needed"]


def test_the_command_ends_with_one_line_of_json_with_its_provenance() -> None:
    done = CliRunner().invoke(benches, ["cost", "--formats"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["computed_over_needed"]["visualprm"] >= 1
    assert {"commit", "hardware", "vllm", "block_tokens"} <= set(facts)
    assert "visualprm" in done.stderr, "the table is no narrower than a terminal"
