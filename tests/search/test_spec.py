"""Strategies by name, and their parameters: every mistake is answered with what would be right."""

import re
from collections.abc import Awaitable, Callable
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

from cos.search import distributions
from cos.search.errors import InputError
from cos.search.result import Result
from cos.search.scale import Scale
from cos.search.search import Search
from cos.search.select import Ruler
from cos.search.spec import SearchSpec
from cos.search.strategies import Params, Strategy, menu, parse_params, resolve
from cos.search.strategies.beam import BeamParams, spread
from cos.search.terms import Sampling
from cos.search.types import Chain


def test_the_menu_lists_every_strategy_by_its_name() -> None:
    found = menu()
    assert {"greedy", "self_consistency", "best_of_n", "beam", "greedy_prm"} <= set(found)
    assert all(strategy.name == name for name, strategy in found.items())


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("beam", "beam"),
        ("beam_search", "beam"),
        ("bon", "best_of_n"),
        ("best-of-n", "best_of_n"),
        (" Best_Of_N ", "best_of_n"),
        ("majority", "self_consistency"),
        ("sc", "self_consistency"),
        ("prm_bs", "greedy_prm"),
    ],
)
def test_a_strategy_answers_to_its_aliases_and_spellings(called: str, name: str) -> None:
    assert resolve(called).name == name


def test_an_unknown_strategy_is_answered_with_the_menu() -> None:
    told = rf"unknown strategy 'bem'; did you mean 'beam'\? available: {', '.join(sorted(menu()))}"
    with pytest.raises(InputError, match=told) as error:
        SearchSpec("bem")
    assert error.value.param == "strategy"


def test_an_unknown_parameter_is_answered_with_those_there_are() -> None:
    with pytest.raises(InputError, match="'beam' has no parameter 'width'; it takes n, beam_width") as error:
        SearchSpec("beam", {"width": 3})
    assert error.value.param == "width"
    with pytest.raises(InputError, match="'greedy' has no parameter 'n'; it takes none"):
        SearchSpec("greedy", {"n": 1})


@pytest.mark.parametrize("value", [0, -1, 257, 2.5, "4", None, True, [4]])
def test_a_parameter_out_of_range_or_of_another_type_is_named_with_its_value(value: object) -> None:
    with pytest.raises(InputError, match=re.escape(f"n = {value!r}: ")) as error:
        SearchSpec("best_of_n", {"n": value})
    assert error.value.param == "n"


def test_a_beam_wider_than_its_level_is_refused_with_the_fix() -> None:
    with pytest.raises(InputError, match="beam_width = 9 is more than n = 8; choose n >= beam_width"):
        SearchSpec("beam", {"n": 8, "beam_width": 9})


@pytest.mark.parametrize(("n", "width"), [(1, 1), (3, 1), (8, 2), (16, 4)])
def test_a_beam_is_a_quarter_of_its_level_unless_told(n: int, width: int) -> None:
    assert BeamParams(n=n).width == width


@pytest.mark.parametrize(("chains", "n"), [(1, 8), (3, 8), (4, 8), (5, 3)])
def test_a_level_is_spread_evenly_and_none_of_it_is_lost(chains: int, n: int) -> None:
    beam = [Chain() for _ in range(chains)]
    shares = [share for _, share in spread(beam, n)]
    assert sum(shares) == n
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


def test_a_spec_without_wishes_measures_as_the_prm_does() -> None:
    spec = SearchSpec("beam")
    scale = Scale(aggregation="min", step_weight=0.3)
    assert spec.ruler(scale) == Ruler("prm", "min", 0.3, scale)
    assert spec.sampling == Sampling(temperature=1.0, top_p=1.0, seed=0)
    assert spec.explain


class Named(Strategy):
    """A strategy of somebody else's."""

    name: ClassVar[str] = "theirs"
    aliases: ClassVar[tuple[str, ...]] = ("beam_search",)
    params: ClassVar[type[Params]] = Params
    needs_scores: ClassVar[bool] = False

    async def run(self, search: Search, params: Params) -> Chain:
        del params
        return (await search.sample(1, scored=False))[0]


def installed(group: str) -> tuple[EntryPoint, ...]:
    """What another distribution adds."""
    return (EntryPoint("theirs", f"{__name__}:Named", group),)


def test_another_distributions_strategy_with_a_name_that_is_taken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "installed", installed)
    with pytest.raises(InputError, match="two strategies are called 'beam_search'"):
        resolve("theirs")
    assert "theirs" not in menu()


async def test_another_distributions_strategy_is_found_by_its_name_and_runs_like_ours(
    monkeypatch: pytest.MonkeyPatch, find: Callable[..., Awaitable[Result]]
) -> None:
    monkeypatch.setattr(Named, "aliases", ())
    monkeypatch.setattr(distributions, "installed", installed)
    assert resolve("theirs").name == "theirs"
    assert parse_params(resolve("theirs"), {}) == Params()
    assert (await find("theirs")).is_complete
