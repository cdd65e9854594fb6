"""The tree of a search: every candidate by its path, and which of them say the same."""

from msgspec import Struct

from cos.search.types import Candidate, Chain, Path, Prefix


class Waste(Struct, frozen=True):
    """What stands in a tree outside the answer's chain."""

    duplicates: int
    """Candidates whose chains say what another one says."""
    tokens_duplicate: int
    """Theirs."""
    tokens_discarded: int
    """Of all others."""


class Tree:
    """The candidates of one search."""

    def __init__(self) -> None:
        self.candidates: dict[Path, Candidate] = {}
        self._numbers: dict[Path, int] = {(): 0}
        self._known: dict[tuple[int, Prefix], int] = {}

    def __bool__(self) -> bool:
        return bool(self.candidates)

    def __contains__(self, path: Path) -> bool:
        return path in self.candidates

    def add(self, candidate: Candidate) -> None:
        """Takes in a candidate whose parent is there."""
        path = candidate.path
        self.candidates[path] = candidate
        text = (self._numbers[path[:-1]], candidate.written)
        self._numbers[path] = self._known.setdefault(text, len(self._known) + 1)

    def text_number(self, path: Path) -> int:
        """The same for two candidates exactly where their chains say the same, from the root on."""
        return self._numbers[path]

    def in_order(self) -> tuple[Candidate, ...]:
        """Every candidate, in path order."""
        return tuple(self.candidates[path] for path in sorted(self.candidates))

    def leaves(self) -> list[Chain]:
        """Every chain that nothing continues."""
        parents = {path[:-1] for path in self.candidates}
        leaves = [path for path in self.candidates if path not in parents]
        return [Chain(tuple(self.candidates[leaf[: i + 1]] for i in range(len(leaf)))) for leaf in leaves]

    def waste(self, winner: Chain) -> Waste:
        """What is not the answer's. Of the winner's candidates all are originals, and of others that say the same one
        is."""
        kept = {candidate.path for candidate in winner.candidates}
        seen = {self._numbers[path] for path in kept}
        duplicates = duplicate = discarded = 0
        for path, candidate in self.candidates.items():
            if path in kept:
                continue
            if self._numbers[path] in seen:
                duplicates += 1
                duplicate += candidate.tokens
            else:
                discarded += candidate.tokens
            seen.add(self._numbers[path])
        return Waste(duplicates, duplicate, discarded)
