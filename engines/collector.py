"""How Python's garbage collector is to treat a process that searches."""

import gc

YOUNG_OBJECTS = 500_000
"""New objects before it looks at the young ones (Python: 700). A search makes hundreds a step, and thousands of
searches at once are looked through in vain again and again: at 50,000 for a fifth of their time."""
OLDER_ROUNDS = 10
"""Rounds over the young before one over the older, and over these before one over all, as Python has it."""


def spare_the_collector() -> None:
    """Has it look at what is imported never again, and at what is new more seldom."""
    gc.collect()
    # What is imported lives as long as the process: neither its collections nor its end need to look through it.
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, OLDER_ROUNDS, OLDER_ROUNDS)
