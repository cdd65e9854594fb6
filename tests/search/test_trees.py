"""Searches come to the trees that were stored, candidate for candidate, whatever has been rebuilt since.

Where behaviour is meant to change, make the data anew: ``python -m tests.search.trees write``.
"""

import pytest

from tests.search.tree_cases import CASES, STRATEGIES, case
from tests.search.trees import changed, load, searched


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_search_spelt_out_is_as_it_was_stored(strategy: str) -> None:
    assert await searched(case(strategy, 0)) == load()["spelt_out"][strategy]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_every_search_comes_to_its_stored_tree_at_its_stored_cost(strategy: str) -> None:
    assert await changed(range(CASES), strategy, load()) == []
