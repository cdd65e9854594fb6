"""The ledger of a search: generated = kept + duplicate + asked + aborted + discarded, in tokens."""

from collections.abc import Mapping

from cos.search.types import Candidate, Chain, Path, Usage


def account(
    spent: Mapping[str, int], tree: Mapping[Path, Candidate], numbers: Mapping[Path, int], winner: Chain
) -> Usage:
    """What a search cost. ``spent``: by the names of `Usage`; ``numbers``: the same for candidates whose chains say the
    same."""
    duplicates, duplicate, discarded = fates(tree, numbers, winner)
    kept = sum(len(candidate.token_ids) for candidate in winner.candidates)
    tokens = {"tokens_kept": kept, "tokens_duplicate": duplicate, "tokens_discarded": discarded}
    return Usage(**{**spent, **tokens, "candidates_duplicate": duplicates})


def fates(tree: Mapping[Path, Candidate], numbers: Mapping[Path, int], winner: Chain) -> tuple[int, int, int]:
    """Duplicates, their tokens, and tokens that were discarded: of candidates outside the winner whose chains say what
    another one says, and of all others. Of the winner's candidates all are originals, and of others that say the same
    one is."""
    seen = {numbers[candidate.path] for candidate in winner.candidates}
    kept = {candidate.path for candidate in winner.candidates}
    duplicates = duplicate = discarded = 0
    for path, candidate in tree.items():
        if path in kept:
            continue
        if numbers[path] in seen:
            duplicates += 1
            duplicate += len(candidate.token_ids)
        else:
            discarded += len(candidate.token_ids)
        seen.add(numbers[path])
    return duplicates, duplicate, discarded
