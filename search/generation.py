"""How a search comes to new candidates: a piece is drawn, read by the grammar, and put into the tree."""

import time
from collections.abc import Callable, Sequence

from cos.search.account import Account
from cos.search.budget import Budget
from cos.search.draws import Draws
from cos.search.errors import EngineError
from cos.search.events import Event, Proposed
from cos.search.grammar import Grammar, read
from cos.search.hygiene import end_of
from cos.search.place import Place
from cos.search.ports import Drawn
from cos.search.rations import Rations
from cos.search.select import likelihood_score
from cos.search.speculation import Speculation
from cos.search.terms import Terms
from cos.search.tree import Tree
from cos.search.types import Candidate, Chain


class Generation:
    """Makes the candidates of one search."""

    def __init__(
        self,
        terms: Terms,
        grammar: Grammar,
        draws: Draws,
        speculation: Speculation,
        rations: Rations,
        tree: Tree,
        account: Account,
        emit: Callable[[Event], None],
    ) -> None:
        self._max_steps = terms.sampling.max_steps
        self._by_likelihood = terms.ruler.kind == "likelihood"
        self._grammar = grammar
        # None for a grammar whose pieces are all whole, and so for somebody else's that does not inherit and lacks it.
        own = getattr(type(grammar), "goes_on", Grammar.goes_on) is not Grammar.goes_on
        self._goes_on: Callable[[Drawn], bool] | None = grammar.goes_on if own else None
        self._draws = draws
        self._speculation = speculation
        self._rations = rations
        self._tree = tree
        self._account = account
        self._emit = emit

    async def write(self, place: Place, grant: int, budget: Budget) -> Chain | None:
        """The chain with one candidate more, of ``grant`` tokens at most, which ``budget`` has reserved for it; None
        when the engine failed twice."""
        begun = self._speculation.take(place.path, grant)
        drawn = await (self._draws.draw(place, grant) if begun is None else begun)
        if drawn is not None and self._goes_on is not None and self._goes_on(drawn):
            drawn = await self._draws.draw_on(place, drawn, grant, self._goes_on)
        budget.settle_tokens(grant, drawn.tokens if drawn else 0)
        if drawn is None:
            return None
        account = self._account
        account.spent["candidates"] += 1
        account.spent["candidates_begun_ahead"] += begun is not None
        account.spent["tokens_generated"] += drawn.tokens
        if drawn.finish == "length" and grant < self._rations.longest(place.chain):
            account.starved.add(place.path)
        candidate = self._candidate(place, drawn)
        self._tree.add(candidate)
        account.first_candidate_at = account.first_candidate_at or time.perf_counter()
        self._emit(Proposed(candidate))
        return place.chain.then(candidate)

    def _candidate(self, place: Place, drawn: Drawn) -> Candidate:
        piece = read(self._grammar, drawn)
        end = end_of(piece, place.chain)
        too_deep = len(place.path) > self._max_steps
        if end == "step" and (too_deep or self._rations.room(place.chain) - drawn.tokens < 1):
            end = "max_steps"
        candidate = Candidate(
            path=place.path,
            written=drawn.written,
            tokens=drawn.tokens,
            piece=piece,
            end=end,
            logprob=drawn.logprob,
        )
        if self._by_likelihood:
            candidate.score = likelihood_score(candidate)
        return candidate


def alive(found: Sequence[Chain | None]) -> list[Chain]:
    """Without those that the engine failed. Errors: EngineError where it failed all."""
    chains = [chain for chain in found if chain is not None]
    if not chains:
        raise EngineError("every candidate of a level failed in the policy engine")
    return chains
