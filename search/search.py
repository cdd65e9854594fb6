"""The Search handle, which strategies are written against.

A strategy never touches an engine, a clock or a budget. It expands chains, looks at scored candidates, keeps some, and
returns the winner. Candidates are scored the moment they end; a strategy waits only for what it asks for.
"""

import random
from collections.abc import Callable, Iterable, Sequence

from cos.search.ahead import Ahead, Foresee
from cos.search.errors import BudgetExhausted, EngineError, InputError
from cos.search.events import Event, Selected
from cos.search.ports import Comparer, Policy
from cos.search.requests import Place, Requests, seed_of
from cos.search.select import rank, rank_level
from cos.search.spec import SearchSpec
from cos.search.tasks import TaskGroup, together
from cos.search.types import Chain, Path, Question
from cos.search.vote import Group, groups_of

Wanted = Sequence[tuple[Chain, int]]
"""Chains to continue, each with the number of its new children."""
Plan = Callable[[Sequence[Chain]], Wanted]
"""What a strategy will expand next, given a level's chains: a pure function of them, whatever their order."""


class Search:
    """One search under way."""

    def __init__(
        self,
        question: Question,
        spec: SearchSpec,
        policy: Policy,
        requests: Requests,
        comparer: Comparer,
        emit: Callable[[Event], None],
    ) -> None:
        self.root = Chain()
        self.warnings = [*spec.doubts]
        self._question = question
        self._spec = spec
        self._policy = policy
        self._requests = requests
        self._comparer = comparer
        self._emit = emit
        self._children: dict[Path, int] = {}

    @property
    def question(self) -> str:
        """What is asked."""
        return self._question.text

    @property
    def values_are_probabilities(self) -> bool:
        """Whether a chain's value says how likely it is right: a PRM's does, a likelihood does not."""
        return self._spec.ruler.kind == "prm" and self._requests.has_scorer

    async def expand(
        self,
        wanted: Wanted,
        *,
        temperature: float | None = None,
        then: Plan | None = None,
        then_temperature: float | None = None,
    ) -> list[Chain]:
        """Draws and scores new children: ``n`` of each chain, all at once, in path order; each is scored the moment it
        ends. Children that say the same are all there (`distinct` merges them).

        ``then``: what will be asked for next, and at which temperature. With it, children of likely survivors are begun
        while stragglers still run and scores are not there yet, at low priority; the result is the same as without.
        Temperatures are those of the search unless given. Errors: EngineError when no child could be had;
        BudgetExhausted, which a strategy lets pass.
        """
        places = self._reserved(wanted, self._heat(temperature))
        ahead = then and Ahead(self._requests, self._foresee(then, self._heat(then_temperature)), len(places))

        async def child(place: Place, grant: int) -> Chain | None:
            longer = await self._requests.write(place, grant)
            if longer is None:
                return None
            if ahead is None:
                return await self._requests.judge(longer)
            ahead.written(longer)
            judged = await self._requests.judge(longer)
            ahead.judged(judged)
            return judged

        found = _alive(await together(child(place, grant) for place, grant in places))
        if ahead is not None:
            ahead.decide(found)
        return found

    async def write(self, wanted: Wanted) -> list[Chain]:
        """As `expand`, without scores."""
        places = self._reserved(wanted, self._heat(None))
        return _alive(await together(self._requests.write(place, grant) for place, grant in places))

    async def sample(
        self, n: int, *, scored: bool, temperature: float | None = None, stop_hopeless: bool = False
    ) -> list[Chain]:
        """Draws n whole chains from the root, side by side, in path order. With ``scored`` each step is read while
        the chain grows on: growing never waits for a score. ``stop_hopeless``: a chain that can no longer be worth as
        much as one that has answered grows no further. Errors: as `expand`."""
        return await self.finish([self.root] * n, scored=scored, temperature=temperature, stop_hopeless=stop_hopeless)

    async def finish(
        self,
        chains: Sequence[Chain],
        *,
        scored: bool,
        temperature: float | None = None,
        steps: int | None = None,
        stop_hopeless: bool = False,
    ) -> list[Chain]:
        """Grows every chain to its end, or by at most ``steps`` candidates. Otherwise as `sample`."""
        heat = self._heat(temperature)
        answered: list[Chain] = []

        def is_hopeless(chain: Chain) -> bool:
            values = (self._spec.ruler.value(self._with_scores(other)) for other in answered)
            best = max((value for value in values if value is not None), default=None)
            most = self._spec.sampling.max_steps
            return best is not None and self._spec.ruler.ceiling(self._with_scores(chain), most) < best

        async def grow(chain: Chain | None, place: Place) -> Chain | None:
            async with TaskGroup() as group:
                grown = 0
                while chain is not None and not chain.is_last and (steps is None or grown < steps):
                    chain = await self._requests.write(place, self._requests.reserve(chain, len(chains)))
                    grown += 1
                    if chain is not None:
                        if stop_hopeless and chain.is_answered:
                            answered.append(chain)
                        elif stop_hopeless and answered and is_hopeless(chain):
                            break
                        place = Place(chain, (*chain.path, 0), heat)
                        if scored:
                            group.create_task(self._requests.judge(chain))
            return chain and self._with_scores(chain)

        return _alive(await together([grow(chain, self._place(chain, heat)) for chain in chains]))

    def distinct(self, chains: Iterable[Chain]) -> list[Chain]:
        """The chains without those that say what one with an earlier path says; in path order."""
        first: dict[tuple[int, ...], Chain] = {}
        for chain in sorted(chains, key=lambda chain: chain.path):
            first.setdefault(chain.token_ids, chain)
        return list(first.values())

    async def groups(self, chains: Iterable[Chain]) -> list[Group]:
        """Answered chains by what they answer, in path order; groups in order of their first chains."""
        return await groups_of(chains, self._comparer, self._question.choices, self.warnings.append)

    def rank(self, chains: Sequence[Chain]) -> list[Chain]:
        """Best first, by chain value; answered chains before others."""
        return rank(chains, self._spec.ruler)

    def rank_level(self, chains: Sequence[Chain]) -> list[Chain]:
        """Best first, by value so far, steps and answers alike."""
        return rank_level(chains, self._spec.ruler.value)

    def rank_newest(self, chains: Sequence[Chain]) -> list[Chain]:
        """Best first, by the newest candidate's score alone, steps and answers alike."""
        return rank_level(chains, self._spec.ruler.newest)

    def confidence(self, chain: Chain) -> float | None:
        """A chain's value on a scale from 0 to 1; None is unscored."""
        return self._spec.ruler.confidence(chain)

    def random(self, label: str) -> random.Random:
        """Chance that follows from the search's seed and a label."""
        return random.Random(f"{self._spec.sampling.seed}/{label}")

    def select(self, kept: Sequence[Chain], considered: Sequence[Chain]) -> None:
        """Tells which of the considered chains go on; changes nothing."""
        going_on = {chain.path for chain in kept}
        pruned = tuple(chain.path for chain in considered if chain.path not in going_on)
        self._emit(Selected(tuple(chain.path for chain in kept), pruned))

    async def ask(self, prompt: str, path: Path, max_tokens: int) -> str:
        """What the policy says to a prompt beside the picture, about the candidate at ``path``; empty when its engine
        failed twice or has no room for the prompt. Errors: BudgetExhausted, EngineDead."""
        try:
            session = await self._policy.open(Question(prompt, self._question.picture))
        except InputError:
            return ""
        seed = seed_of(self._spec.sampling.seed, (*path, len(prompt)))
        return await self._requests.ask(session, seed, max_tokens)

    async def explain(self, chain: Chain) -> Chain:
        """The chain with scores for candidates that were never read, as far as the budget allows."""
        if self._spec.ruler.kind != "prm":
            return chain
        prefixes = [
            Chain(chain.candidates[: i + 1])
            for i, candidate in enumerate(chain.candidates)
            if candidate.path not in self._requests.judged
        ]
        try:
            await together(self._requests.judge(prefix) for prefix in prefixes)
        except (BudgetExhausted, EngineError) as error:
            self.warnings.append(f"the winning chain could not be scored: {error}")
        return self._with_scores(chain)

    def best_so_far(self) -> Chain | None:
        """The best of all chains in the tree; None before the first candidate."""
        tree = self._requests.tree
        parents = {path[:-1] for path in tree}
        leaves = [path for path in tree if path not in parents]
        chains = [Chain(tuple(tree[leaf[: i + 1]] for i in range(len(leaf)))) for leaf in leaves]
        return self.rank(chains)[0] if chains else None

    def _heat(self, temperature: float | None) -> float:
        return self._spec.sampling.temperature if temperature is None else temperature

    def _with_scores(self, chain: Chain) -> Chain:
        return chain.with_scores({c.path: self._requests.tree[c.path].score for c in chain.candidates})

    def _reserved(self, wanted: Wanted, temperature: float) -> list[tuple[Place, int]]:
        """New places, each with the tokens that are reserved for it. Errors: BudgetExhausted."""
        places = [self._place(chain, temperature) for chain, n in wanted for _ in range(n)]
        return [(place, self._requests.reserve(place.chain, len(places) - i)) for i, place in enumerate(places)]

    def _place(self, chain: Chain, temperature: float) -> Place:
        path = chain.path
        index = self._children.get(path, 0)
        self._children[path] = index + 1
        return Place(chain, (*path, index), temperature)

    def _foresee(self, then: Plan, temperature: float) -> Foresee:
        """The places that the next children would be given, without giving them."""

        def places(chains: Sequence[Chain]) -> list[Place]:
            return [
                Place(chain, (*chain.path, self._children.get(chain.path, 0) + number), temperature)
                for chain, n in then(chains)
                for number in range(n)
            ]

        return places


def _alive(found: Sequence[Chain | None]) -> list[Chain]:
    chains = [chain for chain in found if chain is not None]
    if not chains:
        raise EngineError("every candidate of a level failed in the policy engine")
    return chains
