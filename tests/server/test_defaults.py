"""What a server is told for requests that do not say: it never makes a request wrong."""

import pytest

from cos.search.errors import InputError
from cos.search.scale import Scale
from cos.search.strategies import menu
from cos.search.types import Question
from cos.server.planner import Planner
from cos.wire.request import SolveRequest
from tests.server.support import error_of, served, settings

SCALE = Scale(aggregation="mean")


def in_force(n: int | None, max_n: int, strategy: str, **asked: int) -> object:
    """The ``n`` that a search has on a server with this default and this limit."""
    chosen = settings(n=n, max_n=max_n)
    request = SolveRequest.model_validate({"question": "Q?", "strategy": strategy, **asked})
    return Planner(chosen, SCALE).plan(Question("Q?"), request).parameters.get("n")


@pytest.mark.parametrize("strategy", sorted(menu()))
@pytest.mark.parametrize(("n", "max_n"), [(1, 64), (32, 64), (64, 64), (300, 300), (None, 1), (None, 2)])
def test_no_default_of_a_server_makes_a_request_without_n_wrong(strategy: str, n: int | None, max_n: int) -> None:
    found = in_force(n, max_n, strategy)
    if n == 32:
        assert found == {"greedy": None, "self_critique": 16}.get(strategy, 32)


@pytest.mark.parametrize(
    ("strategy", "n", "beam_width", "found"), [("dvts", 5, 2, 4), ("dvts", 32, 3, 30), ("beam", 5, 4, 5)]
)
def test_a_default_is_fitted_to_what_the_request_gave_beside_it(
    strategy: str, n: int, beam_width: int, found: int
) -> None:
    assert in_force(n, 64, strategy, beam_width=beam_width) == found


async def test_what_a_request_gives_itself_is_never_fitted() -> None:
    async with served(n=32) as server:
        refused = await server.solve(strategy="self_critique", n=32)
        taken = await server.solve(strategy="self_critique", n=None)
    assert refused.status_code == 422
    assert error_of(refused)["param"] == "n"
    assert "less than or equal to 16" in error_of(refused)["message"]
    assert (taken.status_code, taken.json()["parameters"]["n"]) == (200, 16)


def test_a_width_that_no_default_fits_is_the_requests_own_mistake() -> None:
    with pytest.raises(InputError, match="beam_width = 9 is more than n = 5"):
        in_force(5, 64, "beam", beam_width=9)
