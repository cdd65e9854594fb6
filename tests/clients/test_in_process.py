"""A search in this process is told as a server tells it."""

from pathlib import Path

from cos.clients.in_process import stream
from cos.engines.scripted import Script, ScriptedEngine
from cos.prm.matching import match
from cos.search.prompt import Prompt
from cos.search.spec import SearchSpec
from cos.wire.events import Answered


def doubtful(prompt: Prompt, written: str) -> float:
    del prompt, written
    return 0.3


async def test_an_answer_that_is_hardly_believed_says_so_here_too(png_path: str) -> None:
    models = match(ScriptedEngine(Script(judge=doubtful)), ScriptedEngine(Script(judge=doubtful)))
    happening = stream(models, "scripted", [Path(png_path).read_bytes()], "How many?", SearchSpec("greedy"))
    solutions = [event.solution async for event in happening if isinstance(event, Answered)]
    assert "the PRM gives this answer 0.30 of 1, so it is more likely wrong than right" in solutions[0].warnings
