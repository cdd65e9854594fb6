"""Ledgers as training asks for them (`cos.training.data.generated.GeneratedTask`)."""

import random
from pathlib import Path

from cos.ledger import mnist
from cos.ledger.chains import checked_turn, clumsy_turn
from cos.ledger.checker import exact_labels
from cos.ledger.heldout import write_heldout
from cos.ledger.render import Renderer
from cos.ledger.rows import draw_ledgers, ledger_problem
from cos.ledger.samples import LedgerData, gold_ledgers
from cos.ledger.task import Problem
from cos.training.config.names import Split
from cos.training.data.rows import ChainRow, ProblemRow, TagLabel
from cos.training.learning.encode import Turn, TurnEncoder
from cos.training.runs.folder import StageContext


class LedgerTask:
    """The ledger task, by MNIST's digits."""

    def fetch(self, context: StageContext) -> None:
        """As `GeneratedTask`."""
        context.ranks.first(lambda: mnist.find(context.mnist))

    def draw(self, context: StageContext, split: Split, problems: int, seed: int) -> list[ProblemRow]:
        """As `GeneratedTask`."""
        return draw_ledgers(context.folder, mnist.load(context.mnist, split), split, problems, seed)

    def gold(
        self, context: StageContext, split: Split, encoder: TurnEncoder, samples: int, batch: int, seed: int
    ) -> LedgerData:
        """As `GeneratedTask`."""
        return gold_ledgers(mnist.load(context.mnist, split), encoder, samples, batch, seed)

    def imperfect(
        self, context: StageContext, split: Split, encoder: TurnEncoder, samples: int, batch: int, seed: int
    ) -> LedgerData:
        """As `GeneratedTask`."""

        def write(problem: Problem, rng: random.Random) -> Turn:
            return clumsy_turn(encoder, problem, rng)

        return LedgerData(Renderer(mnist.load(context.mnist, split)), write, samples, batch, seed)

    def checked_turn(self, encoder: TurnEncoder, chain: ChainRow) -> Turn:
        """As `GeneratedTask`."""
        return checked_turn(encoder, chain)

    def exact_labels(self, chain: ChainRow) -> tuple[TagLabel, ...]:
        """As `GeneratedTask`."""
        return exact_labels(chain)

    def check_own(self, problem: ProblemRow) -> None:
        """As `GeneratedTask`."""
        ledger_problem(problem)

    def write_heldout(self, path: Path, pictures: Path, problems: int, seed: int) -> None:
        """As `GeneratedTask`."""
        write_heldout(path, mnist.load(pictures, "evaluation"), problems, seed)
