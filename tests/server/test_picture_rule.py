"""How many pictures a question may have, and whether it needs one."""

from collections.abc import Sequence
from typing import Any

import pytest

from cos.checkpoints import EMBEDDED
from cos.engines.launch import Engines
from cos.engines.scripted import ScriptedEngine
from cos.prm.matching import match
from cos.search.errors import InputError
from cos.server.picture_rule import PictureRule
from cos.server.settings import Settings
from cos.wire.asked import Sent
from tests.server.support import Served, data_uri, error_of, picture_bytes, served

PICTURE = data_uri(picture_bytes())


class Counting(ScriptedEngine):
    """A runtime that takes so many pictures."""

    most_pictures = 0


def rule(most: int | None = None, prm: int | None = None, **values: Any) -> PictureRule:
    """The rule of a server whose models take so many pictures."""
    engines: list[ScriptedEngine] = []
    for number in (most, prm):
        engine = ScriptedEngine() if number is None else Counting()
        if isinstance(engine, Counting):
            engine.most_pictures = number or 0
        engines.append(engine)
    policy, reader = engines
    given: dict[str, Any] = {"policy": "scripted", **values}
    settings = Settings(**given)
    return PictureRule.of(settings, Engines(policy, reader), match(policy, reader, grammar="cos", prm_format="cos"))


def sent(number: int) -> Sequence[Sent]:
    return [Sent("", f"images[{place}]") for place in range(number)]


def test_a_picture_is_required_only_of_a_policy_that_was_trained_with_one() -> None:
    assert (rule().fewest, rule().most) == (0, 8)
    embedded = rule(policy=EMBEDDED)
    assert (embedded.fewest, embedded.most) == (1, 1)
    assert rule(policy=EMBEDDED, image_required=False).fewest == 0
    with pytest.raises(InputError, match=r"images\[1\]: 2 pictures .* 1 is what the policy cos-tiny was trained on"):
        embedded.check(sent(2))


def test_a_model_that_takes_fewer_than_the_server_is_named() -> None:
    with pytest.raises(InputError, match=r"3 pictures .* 2 is what the policy scripted takes; send fewer"):
        rule(2).check(sent(3))
    with pytest.raises(InputError, match=r"3 pictures .* 2 is what the PRM scripted takes; send fewer"):
        rule(4, 2).check(sent(3))
    with pytest.raises(InputError, match=r"3 pictures .* 2 is this server's limit \(--max-images\)"):
        rule(4, 4, max_images=2).check(sent(3))


def test_a_picture_for_a_policy_that_reads_text_alone_is_refused_by_its_name() -> None:
    with pytest.raises(InputError, match="0 is what the policy scripted takes: it reads text alone"):
        rule(0).check(sent(1))
    rule(0).check([])
    with pytest.raises(InputError, match="--image-required, and 0 is what the policy scripted takes"):
        rule(0, image_required=True)


async def test_several_pictures_are_asked_about_as_json_and_as_a_form(server: Served) -> None:
    shown = [picture_bytes(width) for width in (10, 20)]
    fields = {"question": "Which is wider?", "n": "2", "seed": "0"}
    history = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"}]
    plain = await server.solve(
        question="Which is wider?", image=None, images=[data_uri(data) for data in shown], history=history
    )
    form = await server.http.post(
        "/solve", data={**fields, "history": str(history).replace("'", '"')}, files=[("images", data) for data in shown]
    )
    one = await server.solve(question="Which is wider?")
    assert plain.status_code == form.status_code == 200, (plain.text, form.text)
    assert plain.json()["usage"]["policy_prompt_tokens"] == form.json()["usage"]["policy_prompt_tokens"]
    assert plain.json()["usage"]["policy_prompt_tokens"] > one.json()["usage"]["policy_prompt_tokens"]


async def test_a_form_with_two_files_in_the_field_for_one_is_told_of_the_field_for_several(server: Served) -> None:
    files = [("image", picture_bytes()), ("image", picture_bytes())]
    refused = await server.http.post("/solve", data={"question": "?"}, files=files)
    assert refused.status_code == 400
    assert "send one, or several files as 'images'" in error_of(refused)["message"]
    both = await server.http.post(
        "/solve", data={"question": "?"}, files=[("image", picture_bytes()), ("images", picture_bytes())]
    )
    assert (both.status_code, error_of(both)["param"]) == (400, "images")


async def test_a_missing_picture_is_told_where_one_is_required() -> None:
    async with served(image_required=True) as server:
        refused = await server.solve(image=None)
    assert refused.status_code == 422
    assert (error_of(refused)["param"], "image is missing" in error_of(refused)["message"]) == ("image", True)
