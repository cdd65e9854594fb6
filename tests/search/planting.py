"""Searches over a tree written by hand."""

import random

from cos.engines.scripted import Script, ScriptedEngine
from cos.search.grammars.cos import Step, answer_text, step_text
from cos.search.place import seed_of
from cos.search.prompt import Prompt
from cos.search.types import Path

Tree = dict[Path, tuple[str, float]]
"""What stands at a place: "step" or an answer, and its score."""


def planted(tree: Tree) -> tuple[ScriptedEngine, ScriptedEngine]:
    """A policy that writes this tree and a PRM that scores it; every text names its place. At temperature 0 it writes
    what stands at the first place."""
    places = {random.Random(seed_of(0, path)).getstate(): path for path in tree}

    def newest(written: str) -> Path:
        return max(tree, key=lambda path: (written.rfind(f"{path}"), len(path)))

    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt
        path = places.get(rng.getstate()) or (*(newest(written) if written else ()), 0)
        kind, _ = tree[path]
        mark = f"{path}"
        if kind == "step":
            return step_text(Step("At", mark, ""), first=not written)
        return answer_text(f"{kind} {mark}", first=not written)

    def judge(prompt: Prompt, written: str) -> float:
        del prompt
        return tree[newest(written)][1]

    return ScriptedEngine(Script(writer=write)), ScriptedEngine(Script(judge=judge))
