"""The ledger of a search: generated = kept + duplicate + asked + aborted + discarded, in tokens."""

from collections.abc import Mapping

from cos.search.types import Candidate, Chain, Path, Usage


def account(
    spent: Mapping[str, int], tree: Mapping[Path, Candidate], numbers: Mapping[Path, int], winner: Chain
) -> Usage:
    """What a search cost. ``spent``: by the names of `Usage`; ``numbers``: the same for candidates whose chains say the
    same."""
    duplicate = duplicate_tokens(tree, numbers, winner)
    return Usage(**{**spent, "tokens_kept": len(winner.token_ids), "tokens_duplicate": duplicate})


def duplicate_tokens(tree: Mapping[Path, Candidate], numbers: Mapping[Path, int], winner: Chain) -> int:
    """Tokens of candidates whose chains say what another one says: of the winner's candidates all are originals, and of
    others one."""
    seen = {numbers[candidate.path] for candidate in winner.candidates}
    kept = {candidate.path for candidate in winner.candidates}
    tokens = 0
    for path, candidate in tree.items():
        if path in kept:
            continue
        if numbers[path] in seen:
            tokens += len(candidate.token_ids)
        seen.add(numbers[path])
    return tokens
