"""The token that ends a model's turn is written, and is no part of what it says."""

import random

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import TURN_END
from cos.search.ports import Draw, Drawn, Stops
from cos.search.prompt import Prompt, Turn


def says(prompt: Prompt, written: str, rng: random.Random) -> str:
    """One paragraph and another one, then the end of its turn."""
    del prompt, rng
    return "Second." if written else "First.\n\n"


async def draw(before: str, *, max_tokens: int = 100) -> Drawn:
    engine = ScriptedEngine(Script(writer=says))
    session = await engine.open(Prompt((Turn("user", "How much?"),)))
    asked = Draw(stops=Stops(strings=("\n\n",)), seed=0, max_tokens=max_tokens)
    return await session.draw(engine.vocabulary.encode(before), asked)


async def test_a_turns_end_is_the_last_token_and_stands_in_no_text() -> None:
    drawn = await draw("First.\n\n")
    assert drawn.text == "Second."
    assert (drawn.finish, drawn.stop) == ("stop", None)
    assert isinstance(drawn.written, tuple)
    assert ScriptedEngine().vocabulary.decode(drawn.written) == f"Second.{TURN_END}"
    assert drawn.tokens == len(drawn.written) == len("Second.") + 1


async def test_a_text_that_something_else_ended_is_told_whole() -> None:
    stopped, cut = await draw(""), await draw("First.\n\n", max_tokens=3)
    assert (stopped.text, stopped.stop) == ("First.\n\n", "\n\n")
    assert (cut.text, cut.finish) == ("Sec", "length")
