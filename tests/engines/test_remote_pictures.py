"""How pictures go to a vLLM elsewhere: once, by their names from then on, and again where they were forgotten."""

import asyncio
from collections.abc import Callable

import pytest
from PIL import Image

from cos.engines.remote_errors import RemoteError
from cos.engines.remote_wire import are_plain
from cos.search.ports import Draw, Stops
from cos.search.prompt import Prompt
from cos.search.types import Picture, Turn
from tests.engines.stub_server import Asked, Reply, answer
from tests.engines.stub_vllm import GENERATE, refusal, remote, works, written

DRAW = Draw(max_tokens=4, stops=Stops(), seed=1)
SHOWN = Prompt((Turn("user", (Picture(Image.new("RGB", (2, 2)), "a-digest"), "?")),))


async def test_a_picture_goes_over_once_and_by_its_name_from_then_on() -> None:
    async with remote(works) as (engine, server):
        session = await engine.open(SHOWN)
        await session.draw((), DRAW)
        await session.read_labels((1,), (3, 4), 0)
    parts = [asked.body["content_parts"] for asked in server.of(GENERATE)]
    assert [[sorted(part) for part in each] for each in parts] == [
        [["type", "url", "uuid"]],
        [["type", "uuid"]],
        [["type", "uuid"]],
    ]
    assert len({part["uuid"] for each in parts for part in each}) == 1


def forgetful(known: set[str]) -> Callable[[Asked], Reply]:
    """A server that has the pictures whose ids are known to it, and learns those that it is sent."""

    def answer(asked: Asked) -> Reply:
        (part,) = asked.body["content_parts"]
        known.update([part["uuid"]] if "url" in part else ())
        return works(asked) if part["uuid"] in known else refusal(400, "Cache miss")

    return answer


async def test_a_picture_that_was_forgotten_goes_over_again() -> None:
    known: set[str] = set()
    async with remote(forgetful(known)) as (engine, server):
        session = await engine.open(SHOWN)
        known.clear()
        assert (await session.draw((), DRAW)).written
        assert (await session.draw((), DRAW)).written
        sent = ["url" in asked.body["content_parts"][0] for asked in server.of(GENERATE)]
    assert sent == [True, False, True, False]


async def test_requests_at_once_that_find_it_forgotten_count_as_one() -> None:
    known: set[str] = set()
    async with remote(forgetful(known)) as (engine, server):
        session = await engine.open(SHOWN)
        known.clear()
        await asyncio.gather(*(session.draw((), DRAW) for _ in range(8)))
        server.asked.clear()
        assert (await session.draw((), DRAW)).written
        assert ["url" in asked.body["content_parts"][0] for asked in server.asked] == [False]


async def test_a_server_that_never_remembers_is_sent_the_picture_each_time() -> None:
    def forgets(asked: Asked) -> Reply:
        (part,) = asked.body["content_parts"]
        return works(asked) if "url" in part else refusal(400, "Cache miss")

    async with remote(forgets) as (engine, server):
        session = await engine.open(SHOWN)
        for _ in range(4):
            assert (await session.draw((), DRAW)).written
        sent = ["url" in asked.body["content_parts"][0] for asked in server.of(GENERATE)]
    assert sent == [True, False, True, False, True, True, True]


async def test_a_server_that_does_not_take_the_picture_is_refused() -> None:
    def blind(asked: Asked) -> Reply:
        return answer({**written(asked), "mm_placeholders": None})

    async with remote(blind) as (engine, _):
        with pytest.raises(RemoteError, match="of 1 pictures its prompt holds 0"):
            await engine.open(SHOWN)


@pytest.mark.parametrize(
    ("prompt", "places", "plain"),
    [
        ((1, 5, 5, 2), ((1, 2),), True),
        ((5, 3, 5, 5), ((0, 1), (2, 2)), True),
        ((1, 3, 5, 5, 5, 4, 2), ((1, 5),), False),
        ((5, 9, 5), ((0, 3),), False),
        ((1, 2), (), False),
    ],
)
def test_a_picture_is_plain_where_nothing_but_its_token_stands(
    prompt: tuple[int, ...], places: tuple[tuple[int, int], ...], plain: bool
) -> None:
    assert are_plain(prompt, places, 5) is plain
    assert not are_plain(prompt, places, None)


async def test_a_prompt_that_was_read_is_continued_as_the_model_reads_it() -> None:
    """So the other side need not find the pictures' places again, nor write the prompt as text to do so."""
    known: set[str] = set()

    def expanding(asked: Asked) -> Reply:
        body, ids = asked.body, asked.body["token_ids"]
        for part in body.get("content_parts", ()):
            known.add(part["uuid"])
        if "features" in body:
            if not known.issuperset(body["features"]["mm_hashes"]["image"]):
                return refusal(500, "Internal server error")
        elif body.get("content_parts"):
            ids = [30, 40, 40, 40, 31, *ids[1:]]
        reply = written(asked) | {"prompt_token_ids": ids, "usage": {"prompt_tokens": len(ids)}}
        return answer(reply | {"mm_placeholders": {"image": [{"offset": 1, "length": 3}]}})

    async with remote(expanding) as (engine, server):
        engine.config = {"image_token_id": 40}
        session = await engine.open(SHOWN)
        first = await session.draw((7, 8), DRAW)
        known.clear()
        second = await session.draw((7, 8), DRAW)
        shown, named, forgotten, again = [asked.body for asked in server.of(GENERATE)]
    assert first.prompt_tokens == second.prompt_tokens == session.prompt_tokens + 2
    assert named["token_ids"][:5] == [30, 40, 40, 40, 31]
    assert named["token_ids"][-2:] == [7, 8]
    assert named["features"] == {
        "mm_hashes": {"image": ["cos-a-digest"]},
        "mm_placeholders": {"image": [{"offset": 1, "length": 3}]},
        "kwargs_data": {"image": [None]},
    }
    assert "content_parts" not in named
    assert forgotten == named
    assert again["token_ids"] == [*shown["token_ids"], 7, 8]
    assert again["content_parts"] == shown["content_parts"]
