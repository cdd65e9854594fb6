"""Labels of the exact checker: what is true of a ledger is known, so every step can be compared with the gold chain.

A step is good as long as it and all before it equal the gold derivation's (what a Monte-Carlo label tends to: from a
false step on, few continuations end right); the answer is good when it is right.
"""

from cos.ledger.rows import ledger_problem
from cos.ledger.task import derive
from cos.search.answers import equal
from cos.search.errors import InputError
from cos.training.data.rows import BAD, GOOD, ChainRow, TagLabel


def exact_labels(chain: ChainRow) -> tuple[TagLabel, ...]:
    """A label for every step and the answer of a chain over a ledger.

    Errors: InputError when the problem is no ledger, or its gold answer is not what its rows give.
    """
    problem = chain.problem
    gold = derive(ledger_problem(problem))
    if not equal(gold.answer, problem.answer):
        raise InputError(
            f"problem {problem.id!r}: the gold answer is {problem.answer!r} and its rows give {gold.answer!r}; "
            "draw the problems anew",
            "chains",
        )
    good = 0
    while good < min(len(chain.steps), len(gold.steps)) and chain.steps[good] == gold.steps[good]:
        good += 1
    steps = [GOOD if index < good else BAD for index in range(len(chain.steps))]
    return (*steps, GOOD if equal(chain.answer, gold.answer) else BAD)
