"""What is searched for the stored trees: 200 questions for each strategy, and what scripted models make of them.

All of it follows from the strategy's name and the case's number, and nothing of it from the project: a redesign must
not change what is asked. The markup is spelt out here for the same reason.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CASES = 200
"""Of each strategy."""
WITHOUT_SCORES = ("auto", "greedy", "self_consistency", "self_critique")
"""Strategies that can do without a PRM."""
STRATEGIES = (
    "auto",
    "beam",
    "best_of_n",
    "dvts",
    "greedy",
    "greedy_prm",
    "lookahead",
    "mcts",
    "particle",
    "rebase",
    "self_consistency",
    "self_critique",
    "weighted_vote",
)

START, END, PROCEED = "<|reasoning_start|>", "<|reasoning_end|>", "<|reasoning_proceed|>"
STEP_START, STEP_END = "<|reasoning_step_start|>", "<|reasoning_step_end|>"
NAME = ("<|reasoning_step_name_start|>", "<|reasoning_step_name_end|>")
THOUGHT = ("<|reasoning_step_thought_start|>", "<|reasoning_step_thought_end|>")
REFLECTION = ("<|reasoning_step_reflection_start|>", "<|reasoning_step_reflection_end|>")
ANSWER = ("<|answer_start|>", "<|answer_end|>")
TAG = "ки"

Writes = Callable[[str, str, random.Random], str]
"""``writes(question, written, rng)``: the next segment."""

TEXTS = (
    "How much is it?",
    "Which row has the largest sum?",
    "What is the difference of rows 2 and 3?",
    "Wie viele Äpfel liegen im Korb?",
    "图中有几只猫?",
    "Which of these is shown 🐈?",
    "Count the triangles, then halve their number.",
    "What fraction of the cake is left?",
)
ANSWERS = ("12", "12.0", "(12)", "0.5", "1/2", "50%", "B", "(B)", "seven", "7", "-3", "1,000", "x = 4", "4")
CHOICES = ("a cat", "a dog", "7", "none of these")


def portion(*of: object) -> float:
    """A number from 0 to 1 that follows from what it is of."""
    return int(hashlib.sha256(repr(of).encode()).hexdigest()[:12], 16) / 16**12


def step(name: str, thought: str, reflection: str, *, first: bool) -> str:
    """A step as the policy writes it."""
    lead = f"{START}\n" if first else f"\n{PROCEED}\n"
    fields = zip((NAME, THOUGHT, REFLECTION), (name, thought, reflection), strict=True)
    return f"{lead}{STEP_START}\n" + "".join(f"{a}{text}{b}\n" for (a, b), text in fields) + STEP_END


def answer(text: str, *, first: bool) -> str:
    """An answer as the policy writes it."""
    return f"{START if first else ''}\n{END}\nAnswer:\n{ANSWER[0]}{text}{ANSWER[1]}"


def steady(question: str, written: str, rng: random.Random) -> str:
    """Two to five whole steps, then one of a few answers."""
    done = written.count(STEP_END)
    if done >= 2 + int(portion(question, "steps") * 4) - (rng.random() < 0.2):
        start = int(portion(question, "answer") * len(ANSWERS))
        return answer(ANSWERS[(start + min(2, int(rng.expovariate(1.2)))) % len(ANSWERS)], first=not done)
    thought = f"I look at part {done + 1} of {rng.choice(('it', 'the picture', 'the table, ½ of it', 'それ'))}: "
    return step(f"Part {done + 1}", thought + f"{rng.randint(0, 9999)}.", rng.choice(("It fits.", "")), first=not done)


def brief(question: str, written: str, rng: random.Random) -> str:
    """So few words that siblings often say the same; some answer at once."""
    done = written.count(STEP_END)
    if rng.random() < 0.15 + 0.3 * done:
        return answer(rng.choice(("12", "12.0", "7")), first=not done)
    return step("Look", rng.choice(("left", "right", f"on {len(question)}")) + f" at {done}", "", first=not done)


def endless(question: str, written: str, rng: random.Random) -> str:
    """Steps without an end, but for one in thirty."""
    done = written.count(STEP_END)
    if rng.random() < 1 / 30:
        return answer("at last", first=not done)
    return step(f"Again {done}", f"{question} {rng.randint(0, 99)}", "Not yet.", first=not done)


def noisy(question: str, written: str, rng: random.Random) -> str:
    """As `steady`, but every third segment is spoilt in one of the ways in which policies spoil them."""
    done, luck = written.count(STEP_END), rng.random()
    if luck > 0.36:
        return steady(question, written, rng)
    spoilt = (
        step("Cut off", "word " * 400, "", first=not done),
        step("", " \n ", "", first=not done),
        repeated(written) or step(" ", "", "", first=not done),
        step("Lacks a field", "It does.", "", first=not done).replace(REFLECTION[0], ""),
        step("Tagged", f"The verdict is {TAG}.", "", first=not done),
        f"\nI have lost my way, {question}",
        answer("", first=not done),
        answer(f"4{STEP_START}2", first=not done),
        f"{PROCEED}{STEP_END}",
    )
    return spoilt[int(luck / 0.36 * len(spoilt))]


def repeated(written: str) -> str:
    """The first step once more, in other letters; empty where there is none."""
    if STEP_END not in written:
        return ""
    first = written[: written.index(STEP_END)].replace(TAG, "")
    found = [first[first.index(a) + len(a) : first.index(b)] for a, b in (NAME, THOUGHT, REFLECTION)]
    return step(found[0].upper(), f" {found[1]} ", found[2], first=False)


def reply(prompt: str) -> str:
    """What the policy says when it is asked for a critique or a choice: often a number, at times none."""
    luck = portion(prompt, "reply")
    if luck < 0.15:
        return "I cannot tell."
    return f"Candidate {1 + int(luck * 1000) % 4} seems best. {'It is right. ' * (int(luck * 100) % 40)}"


WRITERS: dict[str, Writes] = {"steady": steady, "brief": brief, "endless": endless, "noisy": noisy}


def verdict(question: str, written: str, *, noise: bool) -> float:
    """What the PRM says: by what is written without the tags in it. With ``noise`` one in twelve is no number."""
    text = written.replace(TAG, "")
    if noise and portion(question, text, "unscored") < 1 / 12:
        return float("nan")
    return portion(question, text, "score") ** 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One search."""

    strategy: str
    number: int
    question: str
    writer: str
    choices: tuple[str, ...] = ()
    has_prm: bool = True
    noise: bool = False
    """Whether some of the PRM's verdicts are no numbers."""
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    limits: dict[str, Any] = field(default_factory=dict[str, Any])
    spec: dict[str, Any] = field(default_factory=dict[str, Any])
    """Score, aggregation and what else a search is told."""
    context_tokens: int = 8192


def case(strategy: str, number: int) -> Case:
    """The search of a strategy with this number. The first is a small and plain one."""
    rng = random.Random(f"tree {strategy} {number}")
    if number == 0:
        small = params_of(strategy, random.Random("small"), most=2)
        return Case(strategy=strategy, number=0, question=TEXTS[0], writer="steady", params=small)
    likelihood, has_prm = rng.random() < 0.15, rng.random() < 0.9
    limits: dict[str, Any] = {}
    if rng.random() < 0.3:
        limits["tokens"] = rng.choice((150, 400, 900, 1500, 3000, 6000, 12000))
    if rng.random() < 0.2:
        limits["prm_reads"] = rng.choice((0, 1, 3, 6, 10, 20, 40))
    if rng.random() < 0.15:
        limits["live_sequences"] = rng.choice((1, 2, 3))
    writer = rng.choices(("steady", "brief", "endless", "noisy"), (4, 2, 1, 4))[0]
    return Case(
        strategy=strategy,
        number=number,
        question=rng.choice(TEXTS) + f" ({number})",
        writer=writer,
        choices=CHOICES if rng.random() < 0.15 else (),
        has_prm=has_prm or (strategy not in WITHOUT_SCORES and not likelihood),
        noise=writer == "noisy" or rng.random() < 0.1,
        params=params_of(strategy, rng, most=6),
        sampling={
            "temperature": rng.choice((1.0, 1.0, 1.0, 0.7, 0.3, 0.0)),
            "seed": rng.randrange(2**31),
            "step_tokens": rng.choice((512, 512, 300, 120, 70)),
            "max_steps": rng.choice((16, 16, 8, 4, 2, 1)) if writer != "endless" else rng.choice((2, 4, 6)),
        },
        limits=limits,
        spec={
            "score": "likelihood" if likelihood else "prm",
            "aggregation": rng.choice(("cos", "cos", "cos", "mean", "min", "prod", "last")),
            "step_weight": rng.choice((0.2, 0.2, 0.5)),
            "explain": rng.random() < 0.9,
            "speculate": rng.random() < 0.85,
        },
        context_tokens=rng.choice((8192, 8192, 8192, 1500, 700)),
    )


def params_of(strategy: str, rng: random.Random, *, most: int) -> dict[str, Any]:
    """Parameters for a search of ``most`` candidates a level at most."""
    if strategy == "greedy":
        return {}
    n = most if most == 2 else rng.choice((1, 2, 3, 4, 4, most))
    match strategy:
        case "beam":
            return {"n": n, "beam_width": rng.choice((None, 1, n))}
        case "dvts":
            return {"n": n, "beam_width": rng.choice((None, 1, n))}
        case "lookahead":
            return {"n": n, "beam_width": rng.choice((None, 1)), "lookahead": rng.choice((0, 1, 2))}
        case "mcts":
            return {"n": min(n, 4), "iterations": rng.choice((2, 4, 7)), "exploration": rng.choice((0.5, 1.0, 3.0))}
        case "rebase":
            return {"n": n, "balance": rng.choice((0.1, 0.2, 1.0))}
        case "auto":
            wide = {"n": rng.choice((n, 8))} if most > 2 else {"n": n}
            return {**wide, "confidence": rng.choice((0.8, 0.6, 0.95)), "margin": rng.choice((0.1, 0.0, 0.3))}
        case "self_critique":
            return {"n": n, "critique_tokens": rng.choice((256, 40, 5))}
        case _:
            return {"n": n}
