"""The picture of accuracy over cost: labels and lines that can be told apart."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cos.benchmarks.quality import COLOURS, spread_out

HEIGHTS = st.lists(st.floats(0, 100), min_size=1, max_size=13)


@given(HEIGHTS)
def test_labels_keep_their_order_and_their_distance(wanted: list[float]) -> None:
    places = spread_out(wanted, 2.0)
    ordered = [places[index] for index in sorted(range(len(wanted)), key=lambda index: wanted[index])]
    assert all(above - below >= 2.0 - 1e-9 for below, above in pairwise(ordered))


def test_labels_that_are_far_apart_stay_where_they_are() -> None:
    assert spread_out([10.0, 70.0, 40.0], 2.0) == pytest.approx([10.0, 70.0, 40.0])


def test_labels_of_one_place_stand_around_it() -> None:
    assert spread_out([50.0, 50.0], 4.0) == pytest.approx([48.0, 52.0])


def test_neighbours_have_colours_of_their_own() -> None:
    assert len(set(COLOURS)) == len(COLOURS)
