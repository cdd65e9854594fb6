"""What the line of a request tells of its pictures."""

import logging

import pytest

from tests.server.support import body, served


async def test_it_tells_how_many_there_are_and_nothing_where_they_were_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    picture = body()["image"]
    part = {"type": "image_url", "image_url": {"url": picture}}
    said = [
        {"role": "user", "content": [part, part, {"type": "text", "text": "Which?"}]},
        {"role": "assistant", "content": "Both."},
        {"role": "user", "content": [part, {"type": "text", "text": "And this one?"}]},
    ]
    two = {"question": "Same?", "images": [picture, picture]}
    asked = (
        ("/solve", {"question": "How much?"}, 0),
        ("/solve", body(), 1),
        ("/v1/chat/completions", {"model": "scripted", "messages": said}, 3),
        ("/v1/score", {"items": [{**two, "steps": ["a"]}, {**two, "answer": "1"}]}, 2),
        ("/solve", body(image="%"), None),
    )
    caplog.set_level(logging.INFO, "cos.server.access")
    async with served() as server:
        for path, fields, _ in asked:
            await server.http.post(path, json=fields)
    lines = [record.args for record in caplog.records if record.name == "cos.server.access"]
    assert [line["pictures"] for line in lines if isinstance(line, dict)] == [pictures for _, _, pictures in asked]
