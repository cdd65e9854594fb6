"""One real engine in both roles: the embedded policy judges its own steps, with the scores of transformers."""

import asyncio
import base64
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from rich.console import Console

from cos.checkpoints import embedded, example
from cos.engines.pictures import Origin, decode
from cos.engines.ports import Runtime
from cos.prm.judge import ANSWER_ASKED, STEP_ASKED, JudgePrm
from cos.prm.verdicts import Writer, without_turn_end
from cos.search.ports import Draw, Stops
from cos.search.prompt import Prompt
from cos.search.types import Chain, Question, Turn
from cos.server.app import create_app
from cos.server.golden import prefixes
from cos.server.selfcheck import self_check
from cos.server.service import Service
from cos.server.settings import Settings
from tests.real.test_watch import engine_processes
from tests.server.support import served_by, until

pytestmark = pytest.mark.real

FOLDER = str(embedded("policy"))
BLOCK = 32
"""Tokens in a block of the prefix cache on CPU."""


def image() -> str:
    return "data:image/png;base64," + base64.b64encode(example().image_path.read_bytes()).decode()


@asynccontextmanager
async def serving() -> AsyncGenerator[tuple[FastAPI, httpx.AsyncClient]]:
    """A server in this process, so that its engine can be asked directly, too."""
    app = create_app(Settings(policy="cos-tiny", prm="judge", dtype="float32", trace_dir=None))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=120) as http,
    ):
        yield app, http


def references(chains: list[Chain], judge: JudgePrm) -> list[float]:
    """P(Yes) of Yes and No for each chain, one forward pass of transformers each, by the published way to render."""
    import torch
    from PIL import Image
    from transformers import AutoProcessor, InternVLForConditionalGeneration

    task = example()
    processor: Any = AutoProcessor.from_pretrained(FOLDER)
    model = InternVLForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32).eval()
    found: list[float] = []
    for chain in chains:
        asked = ANSWER_ASKED if chain.is_answered else STEP_ASKED
        written = processor.tokenizer.decode(chain.prefix, skip_special_tokens=False)
        turns = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": task.question}]},
            {"role": "assistant", "content": [{"type": "text", "text": written}]},
            {"role": "user", "content": [{"type": "text", "text": asked}]},
        ]
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=text, images=[Image.open(task.image_path).convert("RGB")], return_tensors="pt")
        with torch.inference_mode():
            told = model(**inputs).logits[0, -1].log_softmax(dim=-1)
        yes, no = told[list(judge.yes)].logsumexp(0), told[list(judge.no)].logsumexp(0)
        found.append(torch.sigmoid(yes - no).item())
    return found


async def verdicts_are_written_read_and_broken_off(engine: Runtime, judge: JudgePrm) -> None:
    """What the formats that write need of a runtime."""
    labels = (judge.yes[0], judge.no[0])
    # Longer than a block of the cache.
    writer, prompt = Writer(engine, labels), Prompt((Turn("user", " ".join([example().question] * 4)),))
    draw = Draw(max_tokens=8, stops=Stops(), seed=0, temperature=0.0)
    likely = await (await engine.open(prompt)).draw((), draw)
    stop = likely.text[:5]
    draw = msgspec.structs.replace(draw, stops=Stops(strings=(stop,)))
    more = engine.vocabulary.encode(" or not")
    drawn, reading = await writer.judged(prompt, (), draw, lambda drawn: (*without_turn_end(drawn), *more))
    assert drawn.stop == stop
    assert stop in drawn.text
    assert reading.tokens == drawn.tokens == len(without_turn_end(drawn))
    assert reading.score is not None
    read = await (await engine.open(prompt)).read_labels((*without_turn_end(drawn), *more), labels, 0)
    yes, no = read.logprobs
    assert reading.score == pytest.approx(1 / (1 + math.exp(no - yes)), abs=1e-4)
    assert reading.cached_tokens > 0, "the read goes on from what was written"

    cut, none = await writer.judged(prompt, (), msgspec.structs.replace(draw, max_tokens=1), lambda _: None)
    assert (cut.finish, none.score, none.tokens) == ("length", None, 1)
    endless = Draw(max_tokens=400, stops=Stops(strings=("\0",)), seed=0, temperature=2.0)
    steps = engine.steps
    writing = asyncio.create_task(writer.judged(prompt, (), endless, lambda _: None))
    await until(lambda: engine.steps > steps + 3 or writing.done(), 20)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert writing.cancelled() is (writer.tokens_aborted > 0)


async def test_the_embedded_policy_judges_itself_over_http_with_one_engine_as_transformers_does() -> None:
    others = engine_processes()
    task = example()
    async with serving() as (app, http):
        service: Service = app.state.service
        assert len(engine_processes() - others) == 1
        await self_check(service, Console(quiet=True))

        asked: dict[str, Any] = {"image": image(), "question": task.question, "seed": 0, "return_tree": True}
        reply = (await http.post("/solve", json={**asked, "strategy": "beam", "n": 4})).json()
        usage = reply["usage"]
        assert reply["complete"], reply
        assert usage["prm_reads"] > 0
        scores = [node["score"] for node in reply["tree"] if node["end"] in ("step", "answer")]
        assert scores
        assert all(0 < score < 1 for score in scores)
        parts: list[Any] = [
            {"type": "text", "text": task.question},
            {"type": "image_url", "image_url": {"url": image()}},
        ]
        chat = {"model": "cos-tiny", "messages": [{"role": "user", "content": parts}]}
        answered = (await http.post("/v1/chat/completions", json=chat)).json()
        assert answered["choices"][0]["message"]["content"] == answered["cos"]["answer"]

        async with served_by(service.engines.policy, policy="cos-tiny", prm="none", trace_dir=None) as alone:
            found = (await alone.post("/solve", json={**asked, "strategy": "best_of_n", "n": 4})).json()
            told = (await alone.post("/v1/chat/completions", json={**chat, "cos": {"n": 4}})).json()
            refused = await alone.post("/v1/score", json={"image": image(), "question": task.question, "answer": "1"})
        assert found["complete"], found
        assert found["usage"]["prm_reads"] == 0
        assert told["choices"][0]["message"]["content"] == told["cos"]["answer"]
        assert refused.status_code == 422

        # The policy has computed prompt and chain: a read computes what is asked, and the remainder of two blocks.
        judge = service.models.scorer
        assert isinstance(judge, JudgePrm)
        computed = (usage["prm_prompt_tokens"] - usage["prm_cached_tokens"]) / usage["prm_reads"]
        assert computed < len(service.engines.policy.vocabulary.encode(STEP_ASKED)) + 2 * BLOCK

        await verdicts_are_written_read_and_broken_off(service.engines.policy, judge)

        chains = [chain for solution in (task.right, task.wrong) for chain in prefixes(solution, service.models)]
        session = await judge.open(Question(task.question, (decode(task.image_path.read_bytes(), Origin("example")),)))
        read = [[(await session.score(chain)) for chain in chains] for _ in range(2)]
    reference = references(chains, judge)
    for again in read:
        for reading, theirs in zip(again, reference, strict=True):
            assert reading.score == pytest.approx(theirs, abs=1e-4)
            assert reading.score is not None
            assert math.log(reading.score / (1 - reading.score)) == pytest.approx(
                math.log(theirs / (1 - theirs)), abs=1e-3
            )
    assert all(reading.cached_tokens > 0 for reading in read[1])
