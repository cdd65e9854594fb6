"""A PRM that is a LoRA adapter over the policy's weights: one engine of vLLM in both roles gives the PRM's scores and
the policy's tokens that transformers and PEFT give."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from cos.engines.vllm import VllmEngine
from cos.engines.vllm_adapter import AdaptedEngine, adapt
from cos.search.errors import InputError
from cos.search.ports import Draw, Stops
from cos.search.prompt import question_prompt
from cos.search.types import Question
from cos.server.app import create_app
from cos.server.service import Service
from cos.server.settings import Settings
from tests.prm.published import QUESTION, growing, sighted
from tests.prm.test_picture_parity import CONTEXT_TOKENS, picture, scores
from tests.real.test_watch import engine_processes
from tests.server.support import data_uri, picture_bytes
from tests.tiny import lora, qwen2_5_vl

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

FORMAT = "vl_prm"
DRAW = Draw(max_tokens=32, stops=Stops(), seed=0, temperature=0.0, logprobs=True)


class Serving(NamedTuple):
    """A server whose PRM is an adapter, and the same by transformers."""

    service: Service
    http: httpx.AsyncClient
    model: Any
    """The policy with the adapter."""
    processor: Any
    processes: int
    """How many engines run."""

    @property
    def policy(self) -> VllmEngine:
        policy = self.service.engines.policy
        assert isinstance(policy, VllmEngine)
        return policy

    @property
    def prm(self) -> AdaptedEngine:
        prm = self.service.engines.prm
        assert isinstance(prm, AdaptedEngine)
        return prm

    def one_pass(self, shade: int, model: Any = None) -> list[float]:
        """The scores of one pass over the whole prompt."""
        shown, published = picture(shade), sighted(qwen2_5_vl.PICTURE)[FORMAT]
        inputs = self.processor(text=[published.text], images=[shown.image], return_tensors="pt")
        return scores(published, model or self.model, dict(inputs), self.processor.tokenizer)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    from transformers import AutoProcessor

    base, adapter = tmp_path_factory.mktemp("policy"), tmp_path_factory.mktemp("adapter")
    model = lora.write(adapter, qwen2_5_vl.write(base, context_tokens=CONTEXT_TOKENS), base=base)
    settings = Settings(
        policy=str(base), prm_lora=str(adapter), prm_format=FORMAT, dtype="float32", kv_cache_mib=64, max_num_seqs=16
    )
    others = engine_processes()
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=120) as http,
    ):
        processes = len(engine_processes() - others)
        yield Serving(app.state.service, http, model, AutoProcessor.from_pretrained(base), processes)


async def test_scores_with_the_adapter_are_those_of_peft_cold_and_cached(serving: Serving) -> None:
    prm, wanted = serving.prm, [serving.one_pass(shade) for shade in (0, 90)]
    with serving.model.disable_adapter():
        assert serving.one_pass(0) != pytest.approx(wanted[0], abs=5e-3), "the adapter must count"
    assert wanted[0] != pytest.approx(wanted[1], abs=5e-3), "the picture must count"
    await prm.forget()
    for shade, expected in zip((0, 90), wanted, strict=True):
        question = Question(QUESTION, (picture(shade),))
        cold, _ = await growing(FORMAT, prm, question)
        again, cached = await growing(FORMAT, prm, question)
        assert cached > 0
        assert cold == pytest.approx(expected, abs=1e-3)
        assert again == pytest.approx(expected, abs=1e-3)


async def test_the_policy_writes_what_it_writes_without_the_adapter_while_the_prm_reads(serving: Serving) -> None:
    import torch

    prompt = question_prompt(Question(QUESTION, (picture(0),)))
    await serving.policy.forget()
    session = await serving.policy.open(prompt)
    alone = await session.draw((), DRAW)
    reads = [growing(FORMAT, serving.prm, Question(QUESTION, (picture(shade),))) for shade in (0, 90)]
    beside, _ = await asyncio.gather(session.draw((), DRAW), asyncio.gather(*reads))
    assert beside.written == alone.written
    assert isinstance(alone.written, tuple)
    inputs = dict(
        serving.processor(text=[await text_of(serving, prompt)], images=[picture(0).image], return_tensors="pt")
    )
    ids = inputs["input_ids"]
    longer = torch.cat([ids, torch.tensor([alone.written])], dim=1)
    inputs |= {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
    inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(alone.written)))
    with torch.inference_mode(), serving.model.disable_adapter():
        expected = serving.model(**inputs).logits[0, ids.shape[1] - 1 : -1].log_softmax(dim=-1)
    assert alone.written == tuple(expected.argmax(dim=-1).tolist())
    whole = sum(expected[place, token].item() for place, token in enumerate(alone.written))
    assert alone.logprob == pytest.approx(whole, abs=1e-3 * len(alone.written))


async def text_of(serving: Serving, prompt: Any) -> str:
    """A prompt as text, with one token for its picture."""
    ids = (await serving.policy.render(prompt))["prompt_token_ids"]
    pad = serving.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    kept = [own for own, before in zip(ids, [None, *ids[:-1]], strict=True) if own != pad or before != pad]
    return serving.processor.tokenizer.decode(kept)


async def test_neither_is_given_what_the_other_has_computed_of_the_same_text(serving: Serving) -> None:
    prompt = question_prompt(Question(f"{QUESTION} {QUESTION}"))
    await serving.policy.forget()
    drawn = [await (await serving.policy.open(prompt)).draw((), DRAW) for _ in range(2)]
    read = [await (await serving.prm.open(prompt)).read_labels((), (5, 250), 0) for _ in range(2)]
    assert [one.cached_tokens > 0 for one in (*drawn, *read)] == [False, True, False, True]
    own = await (await serving.policy.open(prompt)).read_labels((), (5, 250), 0)
    assert own.cached_tokens > 0
    assert own.logprobs != pytest.approx(read[1].logprobs, abs=1e-2)


async def test_a_server_searches_and_scores_with_one_engine_for_both(serving: Serving) -> None:
    assert serving.processes == 1
    assert serving.service.engines.all == (serving.policy,)
    image = data_uri(picture_bytes())
    chain: dict[str, Any] = {"image": image, "question": "How much is it?"}
    asked = {**chain, "seed": 0, "step_tokens": 8, "max_steps": 2, "strategy": "beam", "n": 2}
    reply = (await serving.http.post("/solve", json=asked)).json()
    assert reply["usage"]["prm_reads"] > 0, reply
    assert all(0 < step["score"] < 1 for step in reply["steps"])
    scored = (await serving.http.post("/v1/score", json={**chain, "steps": ["One.", "Two."], "answer": "3"})).json()
    assert "results" in scored, scored
    steps = scored["results"][0]["steps"]
    assert len(steps) == 2
    assert all(0 < step["score"] < 1 for step in steps)
    metrics = (await serving.http.get("/metrics")).text
    assert 'cos_engine_up{engine="prm"}' not in metrics
    assert (await serving.http.get("/health")).status_code == 200


async def test_an_adapter_that_vllm_refuses_or_that_changes_nothing_is_told(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = serving.prm.model

    async def same(*_: object) -> dict[int, float]:
        return {1: -0.5}

    with monkeypatch.context() as patched:
        patched.setattr(AdaptedEngine, "likeliest", same)
        with pytest.raises(InputError, match="changes nothing of what the policy says"):
            await adapt(serving.policy, name)

    async def fails(*_: object) -> bool:
        raise ValueError("Call to add_lora method failed: no such layer.")

    with monkeypatch.context() as patched:
        patched.setattr(serving.policy._llm, "add_lora", fails)  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(InputError, match=r"vLLM cannot load it \(no such layer\); merge it") as error:
            await adapt(serving.policy, name)
    assert error.value.param == "prm_lora"
    assert serving.policy.is_alive


async def test_the_merged_checkpoint_has_the_same_scores(serving: Serving) -> None:
    wanted = serving.one_pass(0)
    found, _ = await growing(FORMAT, serving.prm, Question(QUESTION, (picture(0),)))
    merged = serving.model.merge_and_unload()
    assert serving.one_pass(0, merged) == pytest.approx(wanted, abs=1e-4)
    assert found == pytest.approx(serving.one_pass(0, merged), abs=1e-3)
