"""Conversations over POST /v1/chat/completions: who is shown which turns and pictures."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cos.engines.scripted import Script, ScriptedEngine
from cos.search.grammars.cos import answer_text
from cos.search.prompt import Prompt
from tests.server.support import Served, data_uri, error_of, picture_bytes, served
from tests.server.test_chat import IMAGE, TEXT, ask, messages


async def test_system_messages_go_before_the_question() -> None:
    before = ({"role": "system", "content": "Be brief."}, {"role": "developer", "content": [TEXT]})
    shown: list[Prompt] = []
    async with served(Script(writer=noting(shown))) as server:
        cos = (await ask(server, messages=messages(IMAGE, TEXT, before=before)))["cos"]
    assert cos["question"] == "How many rows?"
    assert [(turn.role, turn.text) for turn in shown[0].turns] == [
        ("system", "Be brief.\nHow many rows?"),
        ("user", "How many rows?"),
    ]


def noting(shown: list[Prompt]) -> Any:
    """A writer that answers, and keeps the prompts that it is shown."""

    def write(prompt: Prompt, before: str, rng: random.Random) -> str:
        del rng
        shown.append(prompt)
        return answer_text("15", first=not before)

    return write


def judging(shown: list[Prompt]) -> Callable[[Prompt, str], float]:
    """A PRM that notes what it is shown."""

    def judge(prompt: Prompt, written: str) -> float:
        del written
        shown.append(prompt)
        return 0.9

    return judge


async def test_a_conversation_is_the_prompt_of_policy_and_prm_and_its_last_user_message_the_question() -> None:
    drawn: list[Prompt] = []
    judged: list[Prompt] = []
    wide = {"type": "image_url", "image_url": data_uri(picture_bytes(64, 10))}
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Here: "}, IMAGE, {"type": "text", "text": "How many?"}]},
        {"role": "assistant", "content": "4", "refusal": None, "annotations": [], "reasoning": "Step 1"},
        {"role": "user", "content": [{"type": "text", "text": "Which is tallest?"}, wide]},
    ]
    async with served(Script(writer=noting(drawn), judge=judging(judged))) as server:
        cos = (await ask(server, messages=turns))["cos"]
    assert cos["question"] == "Which is tallest?"
    for prompt in (drawn[0], judged[0]):
        before, last = [turn for turn in prompt.turns if turn.role != "system"][:2], prompt.turns
        asked = next(turn for turn in last if "Which is tallest?" in turn.text)
        assert [part if isinstance(part, str) else part.image.size for part in before[0].parts] == [
            "Here: ",
            (32, 24),
            "How many?",
        ]
        assert (before[1].role, before[1].text) == ("assistant", "4")
        assert [picture.image.size for picture in asked.pictures] == [(64, 10)]


async def test_a_picture_stays_between_texts_for_the_policy_and_before_them_for_a_prm_that_was_trained_so() -> None:
    drawn: list[Prompt] = []
    judged: list[Prompt] = []
    parts = [{"type": "text", "text": "In this: "}, IMAGE, {"type": "text", "text": "how many rows?"}]
    async with served(Script(writer=noting(drawn), judge=judging(judged)), policy_suffix="Think.") as server:
        cos = (await ask(server, messages=messages(*parts)))["cos"]
    assert cos["question"] == "In this: \nhow many rows?"
    assert places(drawn[0]) == ["In this: ", (32, 24), "how many rows?\nThink."]
    assert places(judged[0]) == [(32, 24), "In this: \nhow many rows?"]


async def test_a_policy_whose_template_takes_text_alone_is_shown_pictures_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Prompt] = []
    monkeypatch.setattr(ScriptedEngine, "places_pictures", False)
    async with served(Script(writer=noting(drawn))) as server:
        await ask(server, messages=messages(TEXT, IMAGE))
    assert places(drawn[0]) == [(32, 24), "How many rows?"]


def places(prompt: Prompt) -> list[Any]:
    """The parts of the last turn of the user's, a picture as its size."""
    asked = next(turn for turn in reversed(prompt.turns) if turn.role == "user")
    return [part if isinstance(part, str) else part.image.size for part in asked.parts]


async def test_the_pictures_of_a_message_are_shown_in_their_order() -> None:
    shown: list[Prompt] = []
    pictures = [{"type": "image_url", "image_url": data_uri(picture_bytes(width))} for width in (10, 20, 30)]
    async with served(Script(writer=noting(shown))) as server:
        await ask(server, messages=messages(pictures[0], TEXT, *pictures[1:]))
    assert [picture.image.width for picture in shown[0].pictures] == [10, 20, 30]


async def test_a_policy_that_knows_questions_alone_is_asked_the_last_one_about_the_last_picture() -> None:
    shown: list[Prompt] = []
    turns = [
        {"role": "user", "content": [TEXT, IMAGE]},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Which is tallest?"},
    ]
    async with served(Script(writer=noting(shown))) as server:
        server.app.state.service = replace(server.service, takes_system_text=False)
        cos = (await ask(server, messages=turns))["cos"]
    assert [(turn.role, turn.text, len(turn.pictures)) for turn in shown[0].turns] == [("user", "Which is tallest?", 1)]
    assert any(warning.startswith("the conversation before the question was left out") for warning in cos["warnings"])


async def test_a_conversation_at_solve_is_refused_by_a_policy_that_knows_questions_alone(server: Served) -> None:
    server.app.state.service = replace(server.service, takes_system_text=False)
    refused = await server.solve(history=[{"role": "user", "content": "Hello."}])
    assert (refused.status_code, error_of(refused)["param"]) == (422, "history")
    assert "was trained on questions alone" in error_of(refused)["message"]
    assert (await server.solve(history=[])).status_code == 200


async def test_a_conversation_at_solve_is_the_prompt() -> None:
    shown: list[Prompt] = []
    wide = data_uri(picture_bytes(64, 10))
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [TEXT, IMAGE]},
        {"role": "assistant", "content": "4"},
    ]
    async with served(Script(writer=noting(shown))) as server:
        reply = await server.solve(question="Which is tallest?", image=wide, history=history)
    assert reply.status_code == 200, reply.text
    turns = [(turn.role, turn.text, [picture.image.width for picture in turn.pictures]) for turn in shown[0].turns]
    assert turns == [
        ("system", "Be brief.", []),
        ("user", "How many rows?", [32]),
        ("assistant", "4", []),
        ("user", "Which is tallest?", [64]),
    ]
