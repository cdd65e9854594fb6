"""A search in this process is told as a server tells it."""

from pathlib import Path

from cos.clients import local
from cos.engines.launch import Engines
from cos.engines.scripted import Script, ScriptedEngine
from cos.prm.pair import pair
from cos.search.spec import SearchSpec
from cos.search.types import Question
from cos.training.engines import Running
from cos.wire.reply import Answered


def doubtful(question: Question, written: str) -> float:
    del question, written
    return 0.3


async def test_an_answer_that_is_hardly_believed_says_so_here_too(png_path: str) -> None:
    policy, prm = ScriptedEngine(Script(judge=doubtful)), ScriptedEngine(Script(judge=doubtful))
    running = Running(Engines(policy, prm), pair(policy, prm))
    happening = local.stream(running, "scripted", Path(png_path).read_bytes(), "How many?", SearchSpec("greedy"))
    solutions = [event.solution async for event in happening if isinstance(event, Answered)]
    assert "the PRM gives this answer 0.30 of 1, so it is more likely wrong than right" in solutions[0].warnings
