"""Numbers drawn ahead are the numbers that would have been drawn one at a time."""

import gc
import weakref

import pytest

torch = pytest.importorskip("torch")

from cos.engines.seeds import AHEAD, NumbersAhead  # noqa: E402


def one_at_a_time(seed: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [int(torch.randint(0, 2**31, (1,), generator=generator).item()) for _ in range(count)]


def test_numbers_and_their_order_are_those_of_single_draws() -> None:
    numbers, length = NumbersAhead(), 2 * AHEAD + 3
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    steps = [numbers.next(generators).tolist() for _ in range(length)]
    assert [list(column) for column in zip(*steps, strict=True)] == [one_at_a_time(seed, length) for seed in (1, 2)]


def test_who_else_draws_and_in_which_row_does_not_matter() -> None:
    numbers = NumbersAhead()
    first, second = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    drawn = [numbers.next([first]).tolist()[0], numbers.next([second, first]).tolist()[1]]
    assert drawn == one_at_a_time(1, 2)


def test_a_number_that_is_given_back_comes_again() -> None:
    numbers, length = NumbersAhead(), AHEAD + 3
    generator, other = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    drawn: list[int] = []
    for _ in range(length):
        numbers.next([generator])
        numbers.give_back([generator, other])
        drawn += numbers.next([generator]).tolist()
    assert drawn == one_at_a_time(1, length)
    assert numbers.next([other]).tolist() == one_at_a_time(2, 1)


def test_a_generator_is_not_kept_alive() -> None:
    numbers, generator = NumbersAhead(), torch.Generator()
    numbers.next([generator])
    gone = weakref.ref(generator)
    del generator
    gc.collect()
    assert gone() is None
