"""What several tests of training need."""

from collections.abc import Iterator

import pytest

from tests.training.judge_support import Served, serving


@pytest.fixture
def judge() -> Iterator[Served]:
    """A judge behind a socket."""
    with serving() as served:
        yield served
