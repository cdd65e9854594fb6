"""The ledger of a search: generated = kept + duplicate + asked + aborted + discarded, in tokens."""

from collections.abc import Mapping

from cos.search.types import Candidate, Chain, Path, Usage


def account(spent: Mapping[str, int], tree: Mapping[Path, Candidate], winner: Chain) -> Usage:
    """What a search cost; ``spent`` is by the names of `Usage`."""
    return Usage(**{**spent, "tokens_kept": len(winner.token_ids), "tokens_duplicate": duplicate_tokens(tree, winner)})


def duplicate_tokens(tree: Mapping[Path, Candidate], winner: Chain) -> int:
    """Tokens of candidates whose chains say what another chain of the tree says: the winner's own candidates are the
    originals, and among others the ones with earlier paths."""
    said: dict[tuple[int, tuple[int, ...]], int] = {}
    number: dict[Path, int] = {(): 0}
    tokens = 0
    kept = {candidate.path for candidate in winner.candidates}
    for path in sorted(tree, key=lambda path: (path not in kept, path)):
        # A parent comes before its children, whether both are kept or only the parent is.
        key = (number[path[:-1]], tree[path].token_ids)
        if key in said:
            tokens += len(tree[path].token_ids)
        number[path] = said.setdefault(key, len(said) + 1)
    return tokens
