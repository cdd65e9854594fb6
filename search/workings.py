"""What one search works with: its tree, its counts, and its way to the policy and the PRM."""

from collections.abc import Callable
from dataclasses import dataclass

from cos.search.account import Account
from cos.search.draws import Draws
from cos.search.events import Event
from cos.search.generation import Generation
from cos.search.models import Models
from cos.search.ports import PolicySession, ScorerSession
from cos.search.rations import Rations
from cos.search.scoring import Scoring
from cos.search.speculation import Speculation
from cos.search.stopwatch import Stopwatch
from cos.search.terms import Terms
from cos.search.tree import Tree
from cos.search.types import Chain, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Workings:
    """The parts of one search."""

    tree: Tree
    account: Account
    rations: Rations
    speculation: Speculation
    draws: Draws
    generation: Generation
    scoring: Scoring

    @classmethod
    def of(
        cls,
        terms: Terms,
        models: Models,
        session: PolicySession,
        scorer: ScorerSession | None,
        emit: Callable[[Event], None],
        watch: Stopwatch,
    ) -> "Workings":
        """The parts of a search whose question both engines have."""
        policy, grammar = models.policy, models.grammar
        tree, account = Tree(), Account()
        read_once = terms.ruler.scale.judges != "steps"
        rations = Rations(terms.sampling, policy.context_tokens - session.prompt_tokens, read_once)
        draws = Draws(terms, grammar.stops, policy, session, account, watch)
        speculation = Speculation(terms, draws, rations, tree, account)
        return cls(
            tree=tree,
            account=account,
            rations=rations,
            speculation=speculation,
            draws=draws,
            generation=Generation(terms, grammar, draws, speculation, rations, tree, account, emit),
            scoring=Scoring(terms, scorer, tree, account, emit, watch),
        )

    def usage(self, winner: Chain) -> Usage:
        """What was spent by now, if ``winner`` is the answer's chain."""
        return self.account.usage(self.tree, winner, self.speculation.tokens_aborted, self.scoring.tokens_aborted)
