"""The Search handle, which strategies are written against.

A strategy never touches an engine, a clock or a budget. It expands chains, looks at scored candidates, keeps some, and
returns the winner. Candidates are scored the moment they end; a strategy waits only for what it asks for.
"""

import copy
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from cos.search.ahead import Ahead, Predict
from cos.search.budget import Budget, even_parts
from cos.search.errors import BudgetExhausted, BudgetKind, EngineDead, EngineError, InputError
from cos.search.events import Event, Selected
from cos.search.generation import alive
from cos.search.grammar import in_words
from cos.search.models import Models
from cos.search.place import Place
from cos.search.ports import Comparer
from cos.search.prompt import bare_prompt
from cos.search.rations import Growth
from cos.search.select import rank, rank_level
from cos.search.stopwatch import Stopwatch
from cos.search.tasks import TaskGroup, forget_frames, together
from cos.search.terms import Terms
from cos.search.trust import scale_warnings
from cos.search.types import UNREADABLE, Chain, Path, Prefix, Question, Wish
from cos.search.vote import Group, groups_of
from cos.search.workings import Workings

T = TypeVar("T")

Wanted = Sequence[tuple[Chain, int]]
"""Chains to continue, each with the number of its new children."""

NextLevel = Callable[[Sequence[Chain]], Sequence[tuple[Chain, int] | Wish]]
"""What a strategy will expand next, given a level's chains: a pure function of them, whatever their order."""


class Search:
    """One search under way."""

    def __init__(
        self,
        question: Question,
        terms: Terms,
        models: Models,
        workings: Workings,
        comparer: Comparer,
        emit: Callable[[Event], None],
        watch: Stopwatch,
    ) -> None:
        self.root = Chain()
        self.warnings: list[str] = []
        self._question = question
        self._terms = terms
        self._models = models
        self._comparer = comparer
        self._emit = emit
        self._watch = watch
        self._tree, self._account = workings.tree, workings.account
        self._generation, self._scoring = workings.generation, workings.scoring
        self._speculation, self._draws = workings.speculation, workings.draws
        self._rations = workings.rations
        self._children: dict[Path, int] = {}
        self._budget = Budget(terms.limits)
        self._budget.part(workings.speculation.set_aside, 0)
        self._pilot: Chain | None = None

    @property
    def question(self) -> str:
        """What is asked."""
        return self._question.text

    @property
    def values_are_probabilities(self) -> bool:
        """Whether a chain's score so far says how likely it is right. That of many PRMs does, a likelihood does not."""
        return self._terms.ruler.gives_probabilities_of_steps and self._scoring.has_scorer

    async def expand(
        self,
        wanted: Wanted,
        *,
        temperature: float | None = None,
        then: NextLevel | None = None,
        otherwise: Sequence[Wish] = (),
    ) -> list[Chain]:
        """Draws and scores ``n`` children of each chain, all at once, in path order. Each is scored as soon as it ends.
        Children that say the same are all returned (`distinct` leaves one of each). Where a limit has no room for all,
        there are fewer: first one of each chain, then a second.

        ``then``: what will be asked for next. With it, children of chains that will probably go on are begun at low
        priority, before the slowest candidates and all scores are there. The result is the same as without.
        ``otherwise``: what will be asked for if this level is not good enough. It is begun at once, and dropped when
        ``then`` does not want it. ``temperature``: the search's unless given. Errors: EngineError when no child could
        be had; BudgetExhausted, which a strategy does not catch.
        """
        places = await self._granted(wanted, self._heat(temperature), reads=self._scoring.has_scorer)
        ahead = then and Ahead(
            self._speculation, self._predict(then), self._terms.ruler.scale, len(places), self._places(otherwise)
        )

        async def child(place: Place, grant: int) -> Chain | None:
            longer = await self._generation.write(place, grant, self._budget)
            if longer is None:
                return None
            if ahead is not None:
                ahead.written(longer)
            await self._scoring.score(longer, self._budget)
            if ahead is not None:
                ahead.scored()
            return longer

        async def begin(ahead: Ahead) -> None:
            ahead.begin()

        # What is wanted now reaches the engine before what may be wanted next.
        after = [begin(ahead)] if ahead is not None and otherwise else []
        found = alive(await together([*(child(place, grant) for place, grant in places), *after]))
        if ahead is not None:
            ahead.decide(found)
        if self._scoring.has_scorer:
            read = {self._tree.text_number(chain.path) for chain in found if self._scoring.judges(chain)}
            self._budget.settle_reads(len(places), len(read))
        return found

    async def write(self, wanted: Wanted) -> list[Chain]:
        """As `expand`, without scores."""
        granted = await self._granted(wanted, self._heat(None), reads=False)
        return alive(await together(self._generation.write(*place, self._budget) for place in granted))

    async def apart(self, works: Sequence[Callable[["Search"], Awaitable[T]]], *, keep: Chain | None = None) -> list[T]:
        """Runs parts of a search side by side, each on a handle and an equal share of the limits of its own; what they
        leave is there again afterwards. Results in order, without those whose share did not suffice. ``keep``: a chain
        that must still be able to come to its end. Errors: BudgetExhausted when no share sufficed; those of the parts.
        """
        await self._steer(len(works))
        held: list[Budget] = []
        if keep is not None and (left := self._budget.tokens_left) is not None:
            kept = min(left, self._rations.longest(keep) + self._rations.kept_back(keep, self._pilot))
            held = [self._budget.part(kept, 0)]
        tokens, reads = (even_parts(left, len(works)) for left in (self._budget.tokens_left, self._budget.reads_left))
        parts = [self._budget.part(*share) for share in zip(tokens, reads, strict=True)]

        async def branch(work: Callable[[Search], Awaitable[T]], part: Budget) -> tuple[T] | BudgetKind:
            handle = copy.copy(self)
            handle._budget = part
            try:
                return (await work(handle),)
            except BudgetExhausted as spent:
                self._account.meet(spent.kind)
                return spent.kind

        found = await together(branch(work, part) for work, part in zip(works, parts, strict=True))
        self._budget.take_back([*parts, *held])
        done = [result[0] for result in found if isinstance(result, tuple)]
        if not done:
            raise self._budget.spent(self._account.limit or "tokens")
        return done

    async def sample(
        self, n: int, *, scored: bool, temperature: float | None = None, stop_hopeless: bool = False
    ) -> list[Chain]:
        """Draws n whole chains from the root, all at once, in path order. With ``scored`` each step is scored while
        its chain grows on; a chain never waits for a score. ``stop_hopeless``: a chain that can no longer score as much
        as one that has answered grows no further. Errors: as `expand`."""
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
        """Grows every chain to its end, or by at most ``steps`` candidates. Where a limit has no room for all,
        the first ones are grown. Otherwise as `sample`."""
        heat, reads = self._heat(temperature), scored and self._scoring.has_scorer
        growths = [Growth(chain, chain, chain.is_last) for chain in chains]
        places = [self._place(chain, heat) for chain in chains]
        answered: list[Chain] = []
        if reads and self._budget.reads_left == 0:
            await self._unread(places[0])

        def is_hopeless(chain: Chain) -> bool:
            if stop_hopeless and chain.is_answered:
                answered.append(chain)
            return bool(answered) and not chain.is_answered and self._is_hopeless(chain, answered)

        async def grow(index: int, part: Budget, *, is_lead: bool) -> Growth:
            growth = growths[index]
            async with TaskGroup() as group:
                while growth.chain is not None and not growth.is_over:
                    chain = growth.chain
                    if short := self._rations.short(part, chain, reads=reads, is_lead=is_lead):
                        growth = replace(growth, short=short)
                        break
                    place = places[index] if chain is growth.start else Place(chain, (*chain.path, 0), heat)
                    grant = part.reserve_tokens(self._rations.longest(chain))
                    part.reserve_reads(reads)
                    longer = await self._generation.write(place, grant, part)
                    growth = growth.grown(longer, steps)
                    if longer is None or is_hopeless(longer) or (reads and longer.candidates[-1].end in UNREADABLE):
                        part.settle_reads(reads, 0)
                        growth = replace(growth, is_over=True)
                    elif reads and not self._scoring.judges(longer):
                        part.settle_reads(1, 0)
                    elif scored:
                        group.create_task(self._scoring.score(longer, part))
            return growth

        while waiting := [index for index, growth in enumerate(growths) if not growth.is_over]:
            whole = [growth for growth in growths if growth.is_whole(steps)]
            of = [growths[index] for index in waiting]
            parts, short = self._rations.parts(self._budget, of, whole, steps, reads=reads)
            served = waiting[: len(parts)]
            for index in waiting[len(parts) :]:
                growths[index] = replace(growths[index], short=short)
            work = [
                grow(index, part, is_lead=not whole and index == served[0])
                for index, part in zip(served, parts, strict=True)
            ]
            fresh = dict(zip(served, await together(work), strict=True))
            self._budget.take_back(parts)
            if all(growths[index] == growth for index, growth in fresh.items()):
                break
            growths = [fresh.get(index, growth) for index, growth in enumerate(growths)]
        return self._grown(growths)

    async def compare(self, chains: Sequence[Chain]) -> None:
        """Has answered chains compared with each other, where the PRM does that in place of scoring each. Errors: those
        of `expand`."""
        await self._scoring.tournament(chains, self._budget)

    def distinct(self, chains: Iterable[Chain]) -> list[Chain]:
        """One chain of each text, the one with the earliest path; in path order."""
        first: dict[Prefix, Chain] = {}
        for chain in sorted(chains, key=lambda chain: chain.path):
            first.setdefault(chain.prefix, chain)
        return list(first.values())

    async def groups(self, chains: Iterable[Chain]) -> list[Group]:
        """The answered chains, grouped by answer; chains and groups are in path order."""
        with self._watch.during("compare"):
            return await groups_of(chains, self._comparer, self._question.choices, self.warnings.append)

    def rank(self, chains: Sequence[Chain]) -> list[Chain]:
        """Best first, by chain score; answered chains come before others."""
        return rank(chains, self._terms.ruler)

    def rank_level(self, chains: Sequence[Chain]) -> list[Chain]:
        """Best first, by the chain score so far, whether a chain has answered or not."""
        return rank_level(chains, self._terms.ruler.value)

    def rank_newest(self, chains: Sequence[Chain]) -> list[Chain]:
        """Best first, by the newest candidate's score alone, whether it is a step or an answer."""
        return rank_level(chains, self._terms.ruler.newest)

    def confidence(self, chain: Chain) -> float | None:
        """A chain's score from 0 to 1; None where it is unscored, or, with a warning, where the scale has no ends."""
        self.warnings += scale_warnings(self._terms.ruler, chain)
        return self._terms.ruler.confidence(chain)

    def random(self, label: str) -> random.Random:
        """A random generator whose seed follows from the search's seed and a label."""
        return random.Random(f"{self._terms.sampling.seed}/{label}")

    def select(self, kept: Sequence[Chain], considered: Sequence[Chain]) -> None:
        """Reports which of the considered chains go on, for the stream and the tree. It drops nothing by itself."""
        going_on = {chain.path for chain in kept}
        pruned = tuple(chain.path for chain in considered if chain.path not in going_on)
        self._emit(Selected(tuple(chain.path for chain in kept), pruned))

    async def ask(self, prompt: str, path: Path, max_tokens: int) -> str:
        """The policy's reply to a prompt with the question's picture. ``path``: the candidate it is about. Empty if its
        engine failed twice or has no room for the prompt. Errors: BudgetExhausted, EngineDead."""
        try:
            with self._watch.during("open"):
                session = await self._models.policy.open(bare_prompt(prompt, self._question))
        except InputError:
            return ""
        return await self._draws.ask(session, (*path, len(prompt)), max_tokens, self._budget)

    def in_words(self, chain: Chain) -> str:
        """A chain as plain text: a line a step, then what was written before the answer, then the answer."""
        return in_words(self._models.grammar, chain)

    async def explain(self, chain: Chain) -> None:
        """Has the chain's candidates that were never read scored, as far as the budget allows."""
        if not self._scoring.has_scorer:
            return
        every = [Chain(chain.candidates[: i + 1]) for i in range(len(chain.candidates))]
        prefixes = [each for each in every if each.path not in self._scoring.read and self._scoring.judges(each)]
        left = self._budget.reads_left
        affordable = prefixes if left is None else prefixes[:left]
        self._budget.reserve_reads(len(affordable))
        try:
            await together(self._scoring.score(prefix, self._budget, decides=False) for prefix in affordable)
        except EngineError as error:
            forget_frames(error)
            self.warnings.append(f"the winning chain could not be scored: {error}")
        if len(affordable) < len(prefixes):
            self.warnings.append(f"the winning chain could not be scored: {self._budget.spent('prm_reads')}")

    def settled(self, chain: Chain) -> Chain:
        """The winner, where a strategy came to ``chain``: that, unless a limit kept it from an answer that another
        chain has."""
        is_short = self._pilot is not None or self._account.limit is not None
        return (is_short and not chain.is_answered and self.best_so_far()) or chain

    def best_so_far(self) -> Chain | None:
        """The best of all chains in the tree; None before the first candidate."""
        return next(iter(self.rank(self._tree.leaves())), None)

    def _heat(self, temperature: float | None) -> float:
        return self._terms.sampling.temperature if temperature is None else temperature

    async def _steer(self, branches: int) -> None:
        """Before anything else: the pilot, where so many branches cannot all have room for the longest chain."""
        left = self._budget.tokens_left
        if self._children or left is None or left >= branches * self._rations.worst(self.root):
            return
        try:
            self._pilot = (await self.finish([self.root], scored=True))[0]
        except EngineError as error:
            if isinstance(error, EngineDead):
                raise

    async def _granted(self, wanted: Wanted, temperature: float, *, reads: bool) -> list[tuple[Place, int]]:
        """New places, each with the tokens that are reserved for it, and the reads, if it is to be read. Errors:
        BudgetExhausted."""
        await self._steer(1)
        order = [
            index for number in range(max(n for _, n in wanted)) for index, (_, n) in enumerate(wanted) if number < n
        ]
        chains = [wanted[index][0] for index in order]
        left, looks = self._budget.tokens_left, self._budget.reads_left
        grants = [self._rations.longest(chain) for chain in chains]
        if left is not None:
            grants = self._rations.level(chains, left, self._pilot)
        if len(grants) < len(order):
            self._account.meet("tokens")
        if reads and looks is not None and looks < len(grants):
            self._account.meet("prm_reads")
            if looks == 0:
                await self._unread(self._place(chains[0], temperature))
            grants = grants[:looks]
        places = [
            (self._place(wanted[index][0], temperature), self._budget.reserve_tokens(grant))
            for index, grant in sorted(zip(order, grants, strict=False), key=lambda pair: pair[0])
        ]
        self._budget.reserve_reads(len(places) if reads else 0)
        return places

    async def _unread(self, place: Place) -> None:
        """Where no read is left: one candidate without a score, if there is none at all. Errors: BudgetExhausted."""
        if not self._tree:
            grant = self._budget.reserve_tokens(self._rations.longest(place.chain))
            await self._generation.write(place, grant, self._budget)
        raise self._budget.spent("prm_reads")

    def _is_hopeless(self, chain: Chain, answered: Sequence[Chain]) -> bool:
        """Whether a growing chain can no longer score as much as one that has answered."""
        ruler, most = self._terms.ruler, self._terms.sampling.max_steps
        best = max((value for other in answered if (value := ruler.value(other)) is not None), default=None)
        return best is not None and ruler.ceiling(chain, most) < best

    def _grown(self, growths: Sequence[Growth]) -> list[Chain]:
        """What has grown. Errors: EngineError where the engine failed all, BudgetExhausted where a limit did."""
        shorts: list[BudgetKind] = [growth.short for growth in growths if not growth.is_over and growth.short]
        for short in shorts:
            self._account.meet(short)
        chains = [growth.chain for growth in growths if growth.chain and (growth.is_over or growth.steps)]
        if not chains and shorts:
            raise self._budget.spent(shorts[0])
        return alive(chains)

    def _place(self, chain: Chain, temperature: float) -> Place:
        path = chain.path
        index = self._children.get(path, 0)
        self._children[path] = index + 1
        return Place(chain, (*path, index), temperature)

    def _predict(self, then: NextLevel) -> Predict:
        """The places that the next children would be given, without giving them."""
        return lambda chains: self._places([w if isinstance(w, Wish) else Wish(*w) for w in then(chains)])

    def _places(self, wishes: Sequence[Wish]) -> list[Place]:
        return [
            Place(chain, (*chain.path, self._children.get(chain.path, 0) + number), self._heat(temperature))
            for chain, n, temperature in wishes
            for number in range(n)
        ]
