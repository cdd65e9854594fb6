"""Problems with pictures, and a policy that writes by a script."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cos.engines.scripted import Fault, Script, ScriptedEngine
from cos.engines.story import Writer
from cos.evaluation.sampling import ChainSampler, ChainSampling
from cos.prm.matching import match
from cos.search.grammars.cos import STEP_END, Step, answer_text, step_text
from cos.search.prompt import Prompt
from cos.training.data.rows import ProblemRow

STEPS = (Step("Read", "I see 4.", "It is clear."), Step("Add", "4 + 1 = 5.", "It follows."))


def problems(folder: Path, count: int) -> list[ProblemRow]:
    """Problems about one picture; the answer is always 5."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "picture.png"
    Image.new("RGB", (8, 8), "white").save(image)
    return [
        ProblemRow(id=f"p{number}", image=str(image), question=f"What is sum {number}?", answer="5")
        for number in range(count)
    ]


def writer(wrong: float = 0.3) -> Writer:
    """Two steps and an answer; each step goes wrong with probability ``wrong`` and a chain gone wrong ends wrong."""

    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt
        whole: list[str] = []
        while True:
            so_far = written + "".join(whole)
            done = so_far.count(STEP_END)
            if done >= len(STEPS):
                return "".join([*whole, answer_text("6" if "oops" in so_far else "5", first=False)])
            step = STEPS[done]
            if rng.random() < wrong:
                step = Step(step.name, "oops", step.reflection)
            whole.append(step_text(step, first=done == 0))

    return write


def engine(write: Writer | None = None, fault: Fault | None = None) -> ScriptedEngine:
    return ScriptedEngine(Script(writer=write or writer(), fault=fault))


def sampler(
    policy: ScriptedEngine, sampling: ChainSampling | None = None, concurrency: int = 8, *, logprobs: bool = False
) -> ChainSampler:
    """Whole chains of a scripted policy."""
    return ChainSampler(match(policy, None), sampling or ChainSampling(), concurrency, logprobs=logprobs)


def lines(path: Path) -> Sequence[str]:
    return path.read_text(encoding="utf-8").splitlines()


async def until(path: Path, count: int) -> None:
    """Returns once a file has so many lines."""
    while not path.exists() or len(lines(path)) < count:
        await asyncio.sleep(0.001)
