"""Prompts as the authors of label formats write them, as text with every label in its place, and one pass over them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cos.prm import menu
from cos.prm.ports import Judged, Reader
from cos.search.grammars.cos import LABEL_BAD, LABEL_GOOD, STEP_TAG, Step, render_segments
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.types import Candidate, Chain, Piece, Question

EXAMPLES = Path(__file__).parents[2] / "examples" / "prms"
QUESTION = "How many eggs are sold?\nCount twice."
STEPS = ("She has 16 eggs.", "+", "She eats 3,\n\nand bakes with 4.", "16 - 3 - 4 = 9 so it is 9")
INTERNVL = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
ROUNDS = "<|im_start|>assistant\n"
"""Behind its last token a label is read."""


def said(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def dialogue(first: str, steps: Sequence[str], label: str, system: str = "") -> str:
    """Every step as a turn of the user's, each called right by the assistant."""
    turns = [first + steps[0], *steps[1:]]
    return (said("system", system) if system else "") + "".join(
        said("user", turn) + said("assistant", label) for turn in turns
    )


def behind(begin: str, end: str) -> Callable[[list[int], Any], list[int]]:
    """The place of the last token before every reply that is a label alone. ``begin`` and ``end``: what a chat template
    writes around a reply."""

    def places(ids: list[int], words: Any) -> list[int]:
        header = words.encode(begin, add_special_tokens=False)
        ends = words.convert_tokens_to_ids(end)
        size = len(header)
        starts = [place for place in range(len(ids) - size - 1) if ids[place : place + size] == header]
        return [start + size - 1 for start in starts if ids[start + size + 1] == ends]

    return places


behind_headers = behind(ROUNDS, "<|im_end|>")


def at_token(token: str, shift: int = 0) -> Callable[[list[int], Any], list[int]]:
    def places(ids: list[int], words: Any) -> list[int]:
        (wanted,) = words.encode(f"a{token}", add_special_tokens=False)[1:]
        return [place + shift for place, its_id in enumerate(ids) if its_id == wanted]

    return places


def visual_prompt(system: str, picture: str) -> str:
    first = f"### Question:\n{picture}{QUESTION}\n\n### Solution Process:\n"
    return dialogue(first, [*STEPS, "Final answer: 9"], "+", system)


def vl_prompt(picture: str) -> str:
    system = (
        "**You are a process supervision model for visual reasoning tasks. You will receive an image and an "
        "image-based problem statement, followed by solution steps to evaluate.**\n\n"
        "First round: problem statement and first solution step.  \nSubsequent rounds: one new step per round.\n\n"
        "Assess the cumulative correctness of the entire solution up to each step.\n\n"
        "## Evaluation Criteria:\n\n"
        "1. **Visual Accuracy**: Are visual elements from the image correctly identified (shapes, colors, positions, "
        "quantities, spatial relationships)?\n\n"
        "2. **Logical Validity**: Do all inferences and calculations follow correctly from the image and previous "
        "steps?\n\n"
        '## Response:\n- **"+"** if correct up to this step\n- **"-"** if any error exists up to this step\n\n'
        'Only respond with "+" or "-". No explanations.\n\n'
        "An error in any step invalidates all subsequent steps."
    )
    first = f"{picture}### Question:\n{QUESTION}\n\n### Solution Process:\n"
    return dialogue(first, [*STEPS, "The answer is: 9"], "+", system)


def mm_prompt(between: str, picture: str) -> str:
    solution = between.join(f"{step}<prm>" for step in [*STEPS, "The answer is: 9"])
    text = f"{picture}Question: {QUESTION}\nProcess: {solution}"
    return said("system", INTERNVL) + said("user", "") + f"{ROUNDS}{text}"


def shepherd_prompt() -> str:
    lines = [" ".join(step.split()) for step in [*STEPS, "The answer is: 9"]]
    return f"{QUESTION} " + "\n".join(f"Step {number}: {line} ки" for number, line in enumerate(lines, 1))


def versa_prompt() -> str:
    return f"{QUESTION} \n\n" + "".join(f"{step} \n\n\n\n" for step in [*STEPS, "The answer is: 9"])


def yes_no_prompt() -> str:
    system = "You check solutions. After each step, reply Yes if all steps so far are right, and No if one is wrong."
    return dialogue(f"Problem: {QUESTION}\n\nStep 1:\n", [*STEPS, "So the answer is 9."], "Yes", system)


def one_zero_prompt() -> str:
    steps = [*STEPS, "The answer is: 9"]
    solution = "\n".join(f"({number}) {step} =><extra_0>" for number, step in enumerate(steps, 1))
    return (
        said("system", "Put 1 behind a right step and 0 behind a wrong one.")
        + said("user", QUESTION)
        + (f"{ROUNDS}{solution}")
    )


def rlhflow_on_llama() -> "Published":
    """With Llama 3.1's chat template, which writes a system turn by itself."""
    header, end = "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"
    system = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    text = f"<|begin_of_text|>{header.format('system')}{system}{end}"
    for turn in (f"{QUESTION} {STEPS[0]}", *STEPS[1:], "The answer is: 9"):
        text += f"{header.format('user')}{turn}{end}{header.format('assistant')}+{end}"
    return Published(text, behind(header.format("assistant"), end), ("+", "-"))


def on_internlm2(picture: str) -> dict[str, "Published"]:
    """Of VisualPRM v1.0 and of CoS-PRM, whose tokenizer begins a prompt with a token of its own."""
    visual = sighted(picture)["visualprm"]
    segments = render_segments([Step("", step, "") for step in STEPS], "9")
    chain = "".join(f"{segment}{STEP_TAG}" for segment in segments)
    cos = f"<s>{said('user', f'{picture}{QUESTION}')}{ROUNDS}{chain}"
    return {
        "visualprm": visual._replace(text=f"<s>{visual.text}"),
        "cos": Published(cos, at_token(STEP_TAG), (LABEL_GOOD, LABEL_BAD)),
    }


TRAINED = (EXAMPLES / "visualprm_trained.yaml").read_text("utf-8")
TRAINED_SYSTEM = TRAINED.split("system: |-\n")[1].split("\nquestion:")[0].replace("\n  ", "\n").removeprefix("  ")


class Published(NamedTuple):
    """A whole prompt, the places where labels are read in it, and the labels, good and bad."""

    text: str
    places: Callable[[list[int], Any], list[int]]
    labels: tuple[str, str]

    def scores(self, ids: list[int], logits: Any, words: Any) -> list[float]:
        """P(good) at every place, by the logits of one pass over the prompt."""
        wanted = [words.encode(f"\n{label}", add_special_tokens=False)[-1] for label in self.labels]
        return logits[self.places(ids, words)][:, wanted].softmax(dim=-1)[:, 0].tolist()


def sighted(picture: str = "") -> dict[str, Published]:
    """Of formats that see pictures. ``picture``: what the chat template writes for one."""
    return {
        "visualprm": Published(visual_prompt(INTERNVL, picture), behind_headers, ("+", "-")),
        "vl_prm": Published(vl_prompt(picture), behind_headers, ("+", "-")),
        "mm_prm": Published(mm_prompt("", picture), at_token("<prm>"), ("Yes", "No")),
    }


def texts() -> Mapping[str, Published]:
    """Of all label formats, and of the files among the examples."""
    rlhflow = dialogue(f"{QUESTION} ", [*STEPS, "The answer is: 9"], "+")
    return {
        **sighted(),
        "rlhflow": Published(rlhflow, behind_headers, ("+", "-")),
        "math_shepherd": Published(shepherd_prompt(), at_token(" ки"), (" +", " -")),
        "versaprm": Published(versa_prompt(), at_token(" \n\n\n\n"), ("+", "-")),
        file("visualprm_trained"): Published(visual_prompt(TRAINED_SYSTEM, ""), behind_headers, ("+", "-")),
        file("mm_prm_trained"): Published(mm_prompt("\n\n", ""), at_token("<prm>"), ("Yes", "No")),
        file("yes_no"): Published(yes_no_prompt(), behind_headers, ("Yes", "No")),
        file("one_zero"): Published(one_zero_prompt(), at_token("<extra_0>", shift=-1), ("1", "0")),
    }


def file(name: str) -> str:
    """What ``--prm-format`` calls an example."""
    return str(EXAMPLES / f"{name}.yaml")


def chain() -> Chain:
    made = Chain()
    pieces = [*(Piece("step", step) for step in STEPS), Piece("answer", "9")]
    for index, piece in enumerate(pieces):
        end = "answer" if piece.kind == "answer" else "step"
        made = made.then(Candidate(path=(0,) * (index + 1), written=(1,), tokens=1, piece=piece, end=end))
    return made


async def growing(name: str, prm: Reader, question: Question) -> tuple[list[float | None], int]:
    """The scores of all prefixes of the chain, and how many tokens were cached."""
    judged = Judged(vocabulary=prm.vocabulary, grammar=ParagraphGrammar(prm.vocabulary))
    session = await menu.choose(name, prm, judged).open(question)
    whole = chain()
    prefixes = [Chain(whole.candidates[:size]) for size in range(1, len(whole.candidates) + 1)]
    read = [await session.score(prefix) for prefix in prefixes]
    return [reading.score for reading in read], sum(reading.cached_tokens for reading in read)
