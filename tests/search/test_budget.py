"""A budget is reserved before it is spent, so that nothing can exceed it."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cos.search.budget import Budget, Limits
from cos.search.errors import BudgetExhausted


def test_without_a_limit_a_continuation_gets_what_it_asks_for() -> None:
    budget = Budget(Limits())
    assert budget.reserve_tokens(512, sharers=64) == 512
    assert budget.tokens_left is None


def test_siblings_share_what_is_left_evenly() -> None:
    budget = Budget(Limits(tokens=100))
    assert [budget.reserve_tokens(512, sharers) for sharers in (3, 2, 1)] == [33, 33, 34]


def test_what_was_reserved_and_not_used_is_given_back() -> None:
    budget = Budget(Limits(tokens=100))
    budget.settle_tokens(budget.reserve_tokens(60, sharers=1), 10)
    assert budget.tokens_left == 90


def test_a_budget_that_cannot_give_everyone_a_token_says_so() -> None:
    budget = Budget(Limits(tokens=3))
    with pytest.raises(BudgetExhausted, match="the budget of 3 tokens is spent") as error:
        budget.reserve_tokens(10, sharers=4)
    assert (error.value.kind, error.value.limit) == ("tokens", 3)
    assert budget.tokens_left == 3


def test_prm_reads_are_counted_one_by_one() -> None:
    budget = Budget(Limits(prm_reads=2))
    budget.reserve_read()
    budget.reserve_read()
    with pytest.raises(BudgetExhausted) as error:
        budget.reserve_read()
    assert error.value.kind == "prm_reads"


class Spending(RuleBasedStateMachine):
    """Any number of continuations at once, each of which uses any part of its grant."""

    LIMIT = 200

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(Limits(tokens=self.LIMIT, prm_reads=5))
        self.open: list[int] = []
        self.spent = 0
        self.reads = 0

    @rule(cap=st.integers(1, 300), sharers=st.integers(0, 8))
    def reserve(self, cap: int, sharers: int) -> None:
        try:
            grant = self.budget.reserve_tokens(cap, sharers)
        except BudgetExhausted:
            assert (self.budget.tokens_left or 0) < max(1, sharers)
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
            self.budget.reserve_read()
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
