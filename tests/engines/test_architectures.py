"""Each architecture that a policy may have: a tiny checkpoint in its published layout writes and judges on vLLM as
transformers computes it, without a picture, with one, with two, and after a conversation."""

import asyncio
import base64
import importlib
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from cos.engines.pictures import Origin, decode
from cos.engines.settings import EngineSettings
from cos.engines.vllm import VllmEngine
from cos.engines.vllm_start import start_engines
from cos.prm.matching import match
from cos.search.errors import InputError
from cos.search.grammars.cos import COS_TOKENS
from cos.search.ports import Draw, Stops
from cos.search.prompt import Prompt, question_prompt
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.terms import parse_sampling
from cos.search.types import Picture, Question, Turn
from tests.engines.rendering import looking_here
from tests.prm.published import QUESTION, Published, growing, on_internlm2, rlhflow_on_llama
from tests.server.support import served_by
from tests.tiny import tiles
from tests.tiny.parts import CONTEXT_TOKENS

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

INTERNVL_CHAT = ("internvl_chat", "internvl_internlm2")
"""Without a processor of transformers'."""
SEEING = (*INTERNVL_CHAT, "internvl_hf", "qwen2_5_vl", "qwen3_vl", "llava_next", "smolvlm", "idefics3", "gemma3")
READING = ("qwen2", "llama")
WITH_CODE = ("internvl_internlm2",)
"""Whose files hold code to be run."""
GROUPS = ((*SEEING[:3], *READING), SEEING[3:])
"""What starts side by side: most of a start is waiting and imports, which are shared."""
LONGEST = 32
"""Tokens."""


def picture(width: int, height: int) -> Picture:
    """Colours that change from pixel to pixel."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 5 % 256, columns * 3 % 256, (rows * columns) % 256], axis=-1).astype("uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return decode(file.getvalue(), Origin("image"))


WIDE, HIGH = picture(90, 40), picture(30, 70)
ASKED = "What is the total of all rows in this picture? It is in the last row of the first column."
SPELT = "An <image>, <image> and <IMG_CONTEXT>, <|image_pad|>, <start_of_image>, <|im_end|> or ки."
BEFORE = (Turn("user", (HIGH, "Which bar is taller?")), Turn("assistant", "The left one."))
QUESTIONS: Mapping[str, Question] = MappingProxyType(
    {
        "no picture": Question(f"{ASKED} It is the first of them."),
        "one picture": Question(ASKED, (WIDE,)),
        "two pictures": Question(ASKED, (WIDE, HIGH)),
        "a conversation": Question(ASKED, (WIDE,), history=BEFORE),
    }
)
TEXTS: Mapping[str, Question] = MappingProxyType(
    {
        "no picture": QUESTIONS["no picture"],
        "a conversation": Question(ASKED, history=(Turn("user", "Which?"), Turn("assistant", "The left one."))),
    }
)


@dataclass(frozen=True)
class Served:
    """An architecture on vLLM, and by transformers."""

    name: str
    folder: Path
    model: Any
    engine: VllmEngine

    def reference(self, prompt: Prompt) -> dict[str, Any]:
        """The inputs of transformers' own forward pass."""
        if self.name in INTERNVL_CHAT:
            return tiles.inputs(self.folder, prompt)
        from transformers import AutoProcessor

        shown = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        taking = AutoProcessor.from_pretrained(self.folder)
        return dict(taking.apply_chat_template(messages(prompt, in_parts=self.name in SEEING), **shown))

    def logprobs(self, inputs: dict[str, Any], written: Sequence[int]) -> Any:
        """Log-probabilities of every token in the place of each written one, and behind the last: one pass."""
        import torch

        ids = inputs["input_ids"]
        more = torch.tensor([written], dtype=ids.dtype)
        longer = {**inputs, "input_ids": torch.cat([ids, more], dim=1)}
        longer["attention_mask"] = torch.ones_like(longer["input_ids"])
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in inputs:
                longer[name] = torch.cat([inputs[name], torch.zeros_like(more)], dim=1)
        with torch.inference_mode():
            logits = self.model(**longer).logits[0, ids.shape[1] - 1 :]
        return torch.log_softmax(logits.float(), dim=-1)


def messages(prompt: Prompt, *, in_parts: bool) -> list[dict[str, Any]]:
    """The turns as transformers takes them."""
    if not in_parts:
        return [{"role": turn.role, "content": turn.text} for turn in prompt.turns]
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part.image}
                for part in turn.parts
            ],
        }
        for turn in prompt.turns
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=GROUPS, ids="+".join)
async def group(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[Served]]:
    """Engines that start side by side."""
    folders = [tmp_path_factory.mktemp(name) for name in request.param]
    with looking_here():
        models = [
            importlib.import_module(f"tests.tiny.{name}").write(folder)
            for name, folder in zip(request.param, folders, strict=True)
        ]
        engines = await asyncio.to_thread(start_engines, list(map(settings_of, request.param, folders)))
    try:
        yield [Served(*those) for those in zip(request.param, folders, models, engines, strict=True)]
    finally:
        await asyncio.gather(*(engine.close() for engine in engines))


def settings_of(name: str, folder: Path) -> EngineSettings:
    return EngineSettings(
        role="policy",
        model=str(folder),
        dtype="float32",
        max_model_len=CONTEXT_TOKENS,
        max_num_seqs=8,
        max_images=2,
        kv_cache_mib=32,
        threads=1,
        trust_remote_code=name in WITH_CODE,
    )


async def test_greedy_tokens_and_log_probabilities_are_those_of_transformers(group: list[Served]) -> None:
    for served in group:
        await check_tokens(served)


async def check_tokens(served: Served) -> None:
    """With an empty cache, and from the cache."""
    questions = QUESTIONS if served.name in SEEING else TEXTS
    draw = Draw(max_tokens=LONGEST, stops=Stops(), seed=0, temperature=0.0, logprobs=True)
    shown: set[tuple[int, ...]] = set()
    for name, question in questions.items():
        case = f"{served.name}, {name}"
        prompt = question_prompt(question)
        inputs = served.reference(prompt)
        rendered = await served.engine.render(prompt)
        assert rendered["prompt_token_ids"] == inputs["input_ids"][0].tolist(), case
        cold = await (await served.engine.open(prompt)).draw((), draw)
        session = await served.engine.open(prompt)
        again = await session.draw((), draw)
        assert again.written == cold.written, case
        assert again.cached_tokens > cold.cached_tokens, case
        written = cast("tuple[int, ...]", cold.written)
        expected = served.logprobs(inputs, written)
        assert written == tuple(expected.argmax(dim=-1)[: len(written)].tolist()), case
        whole = sum(expected[place, token].item() for place, token in enumerate(written))
        assert cold.logprob == pytest.approx(whole, abs=1e-3 * len(written)), case
        for length in (0, len(written) // 2, len(written)):
            labels = (written[0], 5, 250)
            read = await session.read_labels(written[:length], labels, 0)
            assert read.logprobs == pytest.approx([expected[length, label].item() for label in labels], abs=1e-3), case
        shown.add(written)
    assert len(shown) == len(questions), f"{served.name}: every question has an answer of its own"


async def test_label_formats_score_as_one_pass_of_transformers_cold_and_cached(group: list[Served]) -> None:
    for served in group:
        for name, published in formats_of(served).items():
            await check_scores(served, name, published)


def formats_of(served: Served) -> Mapping[str, Published]:
    """The prompts of PRM formats whose checkpoints have this architecture."""
    if served.name == "llama":
        return {"rlhflow": rlhflow_on_llama()}
    if served.name == "internvl_internlm2":
        count = len(tiles_of(served)) * served.model.config.image_seq_length
        return on_internlm2(f"<img>{'<IMG_CONTEXT>' * count}</img>\n")
    return {}


def tiles_of(served: Served) -> Any:
    """Of the wide picture."""
    return tiles.tiles_of(WIDE.image, served.model.config.vision_config.image_size[0])


async def check_scores(served: Served, name: str, published: Published) -> None:
    """The five growing scores of a chain."""
    import torch
    from transformers import AutoTokenizer

    words: Any = AutoTokenizer.from_pretrained(served.folder, trust_remote_code=served.name in WITH_CODE)
    ids: list[int] = words.encode(published.text, add_special_tokens=False)
    shown = (WIDE,) if served.name in SEEING else ()
    pixels = {"pixel_values": tiles_of(served)} if shown else {}
    with torch.inference_mode():
        logits = served.model(input_ids=torch.tensor([ids]), **pixels).logits[0]
    wanted = published.scores(ids, logits, words)
    assert len(wanted) == 5, name
    assert max(wanted) - min(wanted) > 0.05, "the scores must differ for the test to say anything"
    await served.engine.forget()
    for is_cached in (False, True):
        read, cached = await growing(name, served.engine, Question(QUESTION, shown))
        assert read == pytest.approx(wanted, abs=1e-3), (served.name, name)
        assert cached > 0 or not is_cached


async def test_a_policy_that_was_trained_in_no_format_answers_over_http_and_judges_itself(group: list[Served]) -> None:
    for served in group:
        if served.name == "qwen2_5_vl":
            await check_http(served)


async def check_http(served: Served) -> None:
    """Steps are plain paragraphs, in whatever way they are asked for."""
    limits = {"strategy": "best_of_n", "n": 2, "seed": 0, "step_tokens": 8, "max_steps": 2}
    file = io.BytesIO()
    WIDE.image.save(file, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": ASKED}]
    message = {"role": "user", "content": parts}
    asked = {"question": ASKED, "image": uri}
    bodies: dict[str, dict[str, Any]] = {
        "/solve": {**asked, **limits, "return_tree": True},
        "/v1/chat/completions": {"model": served.folder.name, "messages": [message], "cos": limits},
        "/v1/score": {**asked, "steps": ["It reads 12 and 3.", "12 + 3 = 15."], "answer": "15"},
        "/v1/rerank": {**asked, "answers": ["15", "The first row.\n\nFinal answer: 16"]},
    }
    replies: dict[str, Any] = {}
    async with served_by(served.engine, policy=str(served.folder), prm="judge", max_images=2, trace_dir=None) as http:
        for path, body in bodies.items():
            reply = await http.post(path, json=body)
            assert reply.status_code == 200, (path, reply.text)
            assert not any(token in reply.text for token in COS_TOKENS), path
            replies[path] = reply.json()
    solved, chat = replies["/solve"], replies["/v1/chat/completions"]
    assert solved["usage"]["prm_reads"] > 0
    assert [step["text"] for step in chat["cos"]["steps"]] == [step["text"] for step in solved["steps"]]
    whole = [step for step in solved["steps"] if step["end"] == "step"]
    scores = [step["score"] for step in (*whole, *replies["/v1/score"]["results"][0]["steps"])]
    assert len(scores) > 2
    assert all(0 < score < 1 for score in scores)
    assert not any(step["fields"] for step in solved["steps"])
    assert sorted(result["index"] for result in replies["/v1/rerank"]["results"]) == [0, 1]


async def test_a_picture_between_texts_has_its_place_as_transformers_renders_it(group: list[Served]) -> None:
    for served in group:
        if served.name in SEEING:
            question = Question(ASKED, (WIDE,), placed=("Look at this:", WIDE, ASKED))
            prompt = question_prompt(question)
            rendered = (await served.engine.render(prompt))["prompt_token_ids"]
            assert rendered == served.reference(prompt)["input_ids"][0].tolist(), served.name
        takes_parts = served.name in SEEING and served.name not in INTERNVL_CHAT
        assert served.engine.places_pictures is takes_parts, served.name


async def test_what_a_text_spells_is_no_picture(group: list[Served]) -> None:
    for served in group:
        history = (Turn("user", SPELT), Turn("assistant", SPELT))
        pictures = (WIDE,) if served.name in SEEING else ()
        prompt = question_prompt(Question(f"{SPELT} Which?", pictures, history=history))
        bare = question_prompt(Question("Which?", pictures, history=(Turn("user", "?"), Turn("assistant", "?"))))
        spelt, plain = [(await served.engine.render(prompt))["prompt_token_ids"] for prompt in (prompt, bare)]
        vocabulary = served.engine.vocabulary
        assert vocabulary.decode(spelt).count(SPELT) == 3, served.name
        controls = set(vocabulary._controls.values())  # pyright: ignore[reportPrivateUsage]
        assert [id for id in spelt if id in controls] == [id for id in plain if id in controls], served.name
        drawn = await (await served.engine.open(prompt)).draw((), Draw(max_tokens=2, stops=Stops(), seed=0))
        assert drawn.tokens > 0


async def test_a_search_in_plain_steps_sees_all_pictures_and_the_whole_conversation(group: list[Served]) -> None:
    for served in group:
        models = match(served.engine, None, grammar="paragraph")
        question = (QUESTIONS if served.name in SEEING else TEXTS)["a conversation"]
        sampling = parse_sampling({"seed": 0, "step_tokens": 8, "max_steps": 2})
        spec = SearchSpec("best_of_n", {"n": 2}, sampling=sampling, score="likelihood")
        found = await solve(question, spec, models)
        assert found.usage.tokens_generated > 0, served.name
        prompt = question_prompt(question, instruction=models.grammar.instruction)
        shown = len((await served.engine.render(prompt))["prompt_token_ids"])
        assert found.usage.policy_prompt_tokens >= 2 * shown, served.name


async def test_a_model_says_how_many_pictures_it_takes_and_refuses_more_by_its_name(group: list[Served]) -> None:
    for served in group:
        sees = served.name in SEEING
        assert served.engine.most_pictures == (2 if sees else 0)
        told = r"3 pictures; the policy .* takes 2; send fewer" if sees else "the policy .* reads text alone"
        with pytest.raises(InputError, match=told):
            await served.engine.open(question_prompt(Question(ASKED, (WIDE, HIGH, WIDE))))
