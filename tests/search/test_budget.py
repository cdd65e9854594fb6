"""A budget is reserved before it is spent, so that nothing can exceed it."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cos.search.budget import Budget, Limits, dealt
from cos.search.errors import BudgetExhausted


def test_without_a_limit_a_continuation_gets_what_it_asks_for() -> None:
    budget = Budget(Limits())
    assert budget.reserve_tokens(512) == 512
    assert budget.tokens_left is None


def test_the_last_continuation_gets_what_is_left() -> None:
    budget = Budget(Limits(tokens=100))
    assert [budget.reserve_tokens(60), budget.reserve_tokens(60)] == [60, 40]


def test_what_was_reserved_and_not_used_is_given_back() -> None:
    budget = Budget(Limits(tokens=100, prm_reads=4))
    budget.settle_tokens(budget.reserve_tokens(60), 10)
    budget.reserve_reads(3)
    budget.settle_reads(3, 1)
    assert (budget.tokens_left, budget.reads_left) == (90, 3)


def test_a_budget_without_a_token_says_so() -> None:
    budget = Budget(Limits(tokens=3))
    budget.reserve_tokens(10)
    with pytest.raises(BudgetExhausted, match="the budget of 3 tokens is spent") as error:
        budget.reserve_tokens(10)
    assert (error.value.kind, error.value.limit) == ("tokens", 3)


def test_prm_reads_that_are_not_all_there_are_not_taken() -> None:
    budget = Budget(Limits(prm_reads=2))
    budget.reserve_reads(1)
    with pytest.raises(BudgetExhausted) as error:
        budget.reserve_reads(2)
    assert (error.value.kind, budget.reads_left) == ("prm_reads", 1)


def test_a_part_spends_its_own_and_what_it_leaves_comes_back() -> None:
    budget = Budget(Limits(tokens=100, prm_reads=10))
    parts = [budget.part(30, 4), budget.part(20, 6)]
    assert (budget.tokens_left, budget.reads_left) == (50, 0)
    parts[0].settle_tokens(parts[0].reserve_tokens(512), 12)
    parts[1].reserve_reads(5)
    budget.take_back(parts)
    assert (budget.tokens_left, budget.reads_left) == (88, 5)


def test_a_part_of_a_budget_without_limits_has_none() -> None:
    part = Budget(Limits()).part(None, None)
    assert (part.tokens_left, part.reads_left) == (None, None)


def test_what_is_left_is_dealt_to_as_many_as_it_suffices_for() -> None:
    assert dealt(100, [50, 30, 30]) == [60, 40]
    assert dealt(100, [101, 1]) == []
    assert dealt(11, [1, 1, 1]) == [4, 4, 3]


@pytest.mark.parametrize(("tokens", "aside"), [(None, None), (8_191, 0), (8_192, 1_024), (65_536, 8_192)])
def test_an_eighth_is_set_aside_for_guesses_where_that_is_two_steps(tokens: int | None, aside: int | None) -> None:
    assert Limits(tokens=tokens).for_guesses(512) == aside


class Spending(RuleBasedStateMachine):
    """Any number of continuations at once, each of which uses any part of its grant."""

    LIMIT = 200

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(Limits(tokens=self.LIMIT, prm_reads=5))
        self.open: list[int] = []
        self.spent = 0
        self.reads = 0

    @rule(cap=st.integers(1, 300))
    def reserve(self, cap: int) -> None:
        try:
            grant = self.budget.reserve_tokens(cap)
        except BudgetExhausted:
            assert self.budget.tokens_left == 0
        else:
            assert 1 <= grant <= cap
            self.open.append(grant)

    @precondition(lambda self: bool(self.open))
    @rule(share=st.floats(0, 1))
    def settle(self, share: float) -> None:
        grant = self.open.pop(0)
        used = round(grant * share)
        self.spent += used
        self.budget.settle_tokens(grant, used)

    @rule()
    def read(self) -> None:
        try:
            self.budget.reserve_reads(1)
        except BudgetExhausted:
            assert self.reads == 5
        else:
            self.reads += 1

    @invariant()
    def never_exceeded_even_if_every_grant_is_used_up(self) -> None:
        assert self.spent + sum(self.open) <= self.LIMIT
        assert self.budget.tokens_left == self.LIMIT - self.spent - sum(self.open)
        assert self.reads <= 5


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=40, stateful_step_count=30)
