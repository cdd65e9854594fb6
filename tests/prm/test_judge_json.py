"""The judge that writes JSON: what it is asked and held to, what is a verdict, and what leaves the schema aside."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from cos.engines.launch import Engines
from cos.engines.remote_wire import Completions, Generate
from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import TURN_END, ScriptedVocabulary
from cos.engines.written import as_drawn
from cos.prm.choice import PrmChoice, choose_prm
from cos.prm.judge_json import ASKED, SCHEMA, JsonJudgePrm, beginnings
from cos.prm.matching import match
from cos.prm.ports import Judged
from cos.search.errors import EngineError, InputError
from cos.search.grammars import choose
from cos.search.ports import Draw, Drawn, Stops
from cos.search.prompt import Prompt
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Candidate, Chain, Piece, Prefix, Question, Turn
from tests.engines.stub_server import Asked, Reply, answer
from tests.engines.stub_vllm import remote, written
from tests.prm.spy import Spy

VOCABULARY = ScriptedVocabulary(())
RIGHT = '{"right": true}'


@dataclass
class Writing(Spy):
    """A judge that writes one text."""

    vocabulary: ScriptedVocabulary = field(default_factory=lambda: VOCABULARY)
    text: str = RIGHT + TURN_END
    draws: list[Draw] = field(default_factory=list[Draw])

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        del prefix
        self.draws.append(draw)
        ids = self.vocabulary.encode_markup(self.text)
        cut = ids[: draw.max_tokens]
        return as_drawn(
            self.vocabulary,
            draw.stops,
            cut,
            is_cut=len(cut) < len(ids),
            stop=None,
            logprob=None,
            prompt_tokens=9,
            cached_tokens=4,
        )


def judge_of(spy: Spy, limit: int | None = None) -> JsonJudgePrm:
    judged = Judged(vocabulary=VOCABULARY, grammar=choose("paragraph", VOCABULARY), verdict_tokens=limit)
    return JsonJudgePrm(spy, judged)


def step(text: str = "4 + 5 = 9.") -> Chain:
    ids = VOCABULARY.encode(f"{text}\n\n")
    return Chain((Candidate(path=(0,), written=ids, tokens=len(ids), piece=Piece("step", text), end="step"),))


async def test_the_verdict_is_held_to_the_schema_and_read_at_its_word() -> None:
    spy = Writing()
    reading = await (await judge_of(spy).open(Question("How many?"))).score(step())
    (draw,) = spy.draws
    assert (draw.json_schema, draw.temperature) == (SCHEMA, 0.0)
    assert json.loads(SCHEMA)["properties"]["right"] == {"type": "boolean"}
    (prefix,) = spy.prefixes
    asked = VOCABULARY.decode(prefix)
    assert ASKED in asked
    assert asked.endswith('{"right": ')
    assert reading.score == pytest.approx(0.87, abs=1e-2)
    assert reading.tokens == len(VOCABULARY.encode_markup(spy.text))
    assert reading.prompt_tokens == 9 + 10 + len(prefix)


@pytest.mark.parametrize("text", ['{"right":false}', '{ "right" :\n true }\n', f"<think>It is true.</think>{RIGHT}"])
async def test_white_space_and_thoughts_change_nothing(text: str) -> None:
    spy = Writing(text=text + TURN_END)
    assert (await (await judge_of(spy).open(Question("?"))).score(step())).score == pytest.approx(0.87, abs=1e-2)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("The step looks fine.", None),
        ('{"right": "true"}', None),
        ('{"right": true, "sure": true}', None),
        (f"{RIGHT} I think.", None),
        ("", None),
        (RIGHT, 9),
    ],
)
async def test_what_is_no_verdict_is_no_score(text: str, limit: int | None) -> None:
    spy = Writing(text=text + TURN_END)
    reading = await (await judge_of(spy, limit).open(Question("?"))).score(step())
    assert reading.score is None
    assert reading.tokens > 0
    assert spy.prefixes == []


def test_words_that_begin_alike_are_refused() -> None:
    class Rough(ScriptedVocabulary):
        def encode(self, text: str) -> tuple[int, ...]:
            return (1, *super().encode(text))

    with pytest.raises(InputError, match="begins 'true' and 'false' with the same token"):
        beginnings(Rough(()), "true", "false")


def test_the_policy_may_be_asked_so_about_itself() -> None:
    for prm in (None, "judge"):
        assert choose_prm("some/policy", prm, "judge_json", paired=()) == PrmChoice("judge", "judge_json")


@pytest.mark.parametrize("route", [Generate(), Completions()], ids=lambda route: route.path)
async def test_a_vllm_elsewhere_is_sent_the_schema_and_never_a_guided_choice(route: Any) -> None:
    def works(asked: Asked) -> Reply:
        return answer(written(Asked(asked.path, asked.headers, {"token_ids": asked.body.get("prompt"), **asked.body})))

    draw = Draw(max_tokens=4, stops=Stops(), seed=1, json_schema=SCHEMA)
    async with remote(works, "prm") as (engine, server):
        engine.served = type(engine.served)(model="m", context_tokens=2048, route=route)
        await (await engine.open(Prompt((Turn("user", "?"),)))).draw((), draw)
    (asked,) = server.asked
    sampling = asked.body.get("sampling_params", asked.body)
    assert sampling["structured_outputs"] == {"json": SCHEMA}
    assert "guided" not in json.dumps(asked.body)


async def test_a_judge_that_leaves_the_schema_aside_ends_the_search_and_gives_no_score() -> None:
    def fine(prompt: Prompt, text: str, rng: object) -> str:
        del prompt, text, rng
        return "The step looks fine."

    policy, prm = ScriptedEngine(Script()), ScriptedEngine(Script(writer=fine), 65_536)
    engines = Engines(policy, prm)
    models = match(engines.policy, engines.prm, prm_format="judge_json")
    with pytest.raises(EngineError, match="failed to score"):
        await solve(Question("How many?"), SearchSpec("beam", {"n": 4, "beam_width": 2}), models)
