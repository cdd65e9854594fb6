"""Quantised checkpoints in their published layouts, on vLLM for CPU: they write and judge as transformers computes with
the weights that are stored there."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio

from cos.engines.demand import demand_of
from cos.engines.settings import EngineSettings
from cos.engines.vllm_start import start_engines
from cos.engines.weights import tensors_of
from cos.search.ports import Draw, Stops
from cos.search.prompt import question_prompt
from tests.engines.test_architectures import LONGEST, TEXTS, Served
from tests.tiny import quantized
from tests.tiny.parts import CONTEXT_TOKENS

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

TOLERANCE = 5e-3
"""Of a log-probability."""
LAYOUTS = ("awq", "gptq", "compressed-tensors, 4 bits")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def every(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Served]]:
    """Engines that start side by side."""
    folders = [tmp_path_factory.mktemp("quantized") for _ in LAYOUTS]
    models = [quantized.write(folder, layout) for folder, layout in zip(folders, LAYOUTS, strict=True)]
    engines = await asyncio.to_thread(start_engines, [settings_of(folder) for folder in folders])
    try:
        yield [Served(*those) for those in zip(LAYOUTS, folders, models, engines, strict=True)]
    finally:
        await asyncio.gather(*(engine.close() for engine in engines))


def settings_of(folder: Path) -> EngineSettings:
    return EngineSettings(
        role="policy", model=str(folder), max_model_len=CONTEXT_TOKENS, max_num_seqs=8, kv_cache_mib=32, threads=1
    )


async def test_tokens_and_log_probabilities_are_those_of_the_stored_weights(every: list[Served]) -> None:
    """With an empty cache, and from the cache. The engines compute in 16 bits: of two tokens that are as likely, either
    may be written."""
    draw = Draw(max_tokens=LONGEST, stops=Stops(), seed=0, temperature=0.0, logprobs=True)
    for served in every:
        prompt = question_prompt(TEXTS["a conversation"])
        inputs = served.reference(prompt)
        for _ in ("cold", "cached"):
            session = await served.engine.open(prompt)
            drawn = await session.draw((), draw)
            written = cast("tuple[int, ...]", drawn.written)
            expected = served.logprobs(inputs, written)
            found = [expected[place, token].item() for place, token in enumerate(written)]
            best = expected.max(dim=-1).values.tolist()
            assert found == pytest.approx(best[: len(written)], abs=2 * TOLERANCE), served.name
            assert drawn.logprob == pytest.approx(sum(found), abs=TOLERANCE * len(written)), served.name
            for length in (0, len(written) // 2, len(written)):
                labels = (written[0], 5, 250)
                read = await session.read_labels(written[:length], labels, 0)
                wanted = [expected[length, label].item() for label in labels]
                assert read.logprobs == pytest.approx(wanted, abs=TOLERANCE), served.name
        assert drawn.cached_tokens > 0


async def test_their_size_is_that_of_what_is_stored(every: list[Served]) -> None:
    for served in every:
        tensors = tensors_of(served.folder)
        found = demand_of(settings_of(served.folder), on_cpu=True).weights_bytes
        assert found == sum(tensor.stored_bytes for tensor in tensors)
        numbers = sum(parameter.numel() for parameter in served.model.parameters())
        assert found is not None
        assert found < 2 * numbers
