"""A sum in plain text, with a right and a wrong solution, for models that may know nothing of the bundled example."""

from dataclasses import dataclass

from cos.checkpoints import ExampleChain, ExampleStep


@dataclass(frozen=True, slots=True)
class TextExample:
    """A problem without a picture, with a right and a wrong solution."""

    question: str
    right: ExampleChain
    wrong: ExampleChain


def _sum(steps: tuple[str, ...], answer: str) -> ExampleChain:
    return ExampleChain(tuple(ExampleStep(text, {}) for text in steps), answer)


ARITHMETIC = TextExample(
    "A pen costs 3 euros. Tom buys 4 pens and pays with a 20 euro note. How many euros does he get back?",
    right=_sum(
        (
            "One pen costs 3 euros, and Tom buys 4 pens.",
            "Together the pens cost 4 x 3 = 12 euros.",
            "Tom pays with a note of 20 euros.",
            "He gets back 20 - 12 = 8 euros.",
        ),
        "8",
    ),
    wrong=_sum(
        (
            "One pen costs 4 euros, and Tom buys 3 notes.",
            "Together the pens cost 4 x 3 = 43 euros.",
            "Tom pays with a note of 12 euros.",
            "He gets back 43 + 12 = 60 euros.",
        ),
        "60",
    ),
)
