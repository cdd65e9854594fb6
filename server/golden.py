"""The written-out solutions of the bundled example, as a policy writes them: which a PRM must rank rightly."""

from cos.checkpoints import ExampleChain
from cos.search.grammar import token_ids
from cos.search.models import Models
from cos.search.types import Candidate, Chain, Piece


def prefixes(solution: ExampleChain, models: Models) -> list[Chain]:
    """A solution up to each of its steps and up to its answer, in the grammar and the vocabulary of the policy."""
    pieces = [*(Piece("step", step.text, step.fields) for step in solution.steps), Piece("answer", solution.answer)]
    chain = Chain()
    chains: list[Chain] = []
    for piece in pieces:
        written = token_ids(models.policy.vocabulary, models.grammar.spans(piece, first=not chains))
        candidate = Candidate(
            path=(*chain.path, 0),
            written=written,
            tokens=len(written),
            piece=piece,
            end="answer" if piece.kind == "answer" else "step",
        )
        chain = chain.then(candidate)
        chains.append(chain)
    return chains
