"""The PRM's scores through vLLM are those of the same checkpoint in transformers, at every tag."""

import random
from pathlib import Path
from statistics import fmean

import pytest

from cos.checkpoints import embedded, heldout
from cos.engines.launch import launch
from cos.engines.ports import Runtime
from cos.engines.settings import EngineSettings
from cos.engines.vllm import VllmEngine
from cos.ledger.task import clumsy, derive, exact
from cos.prm.matching import match
from cos.training.data.rows import ChainRow
from cos.training.labels.prm_scores import read_chains
from cos.training.learning.parity import compared, reference_scores
from tests.real.heldout_ledgers import ledger_of, problem_row

pytestmark = pytest.mark.real

CHAINS = 100
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}
"""The formats that a PRM may be served in, each with the largest gap that is allowed. On a CPU without AMX vLLM and
transformers round bfloat16 at different places: the gap is up to 0.034 there, and float32 has to be served."""
MEAN = 0.05
"""The mean gap that is allowed, as a share of the largest."""


def chains(folder: Path) -> list[ChainRow]:
    """Every fourth by a careful writer, the others by clumsy ones."""
    found: list[ChainRow] = []
    for index, asked in enumerate(heldout()[:CHAINS]):
        problem, row = ledger_of(asked), problem_row(asked, folder)
        written = derive(problem, exact if index % 4 == 0 else clumsy(random.Random(index), 0.15, 0.1))
        found.append(ChainRow(id=f"{asked.id}/0", problem=row, steps=written.steps, answer=written.answer))
    return found


def computes_in(engine: Runtime) -> str:
    """The format that an engine computes in, as vLLM tells."""
    assert isinstance(engine, VllmEngine)
    return str(engine._llm.model_config.dtype).removeprefix("torch.")  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("asked", ["float32", "auto"])
async def test_the_engine_scores_every_tag_as_transformers_does(asked: str, tmp_path: Path) -> None:
    """Asked for ``auto`` the engine chooses. Whatever it chooses has to be in bounds on this machine."""
    folder, written = str(embedded("prm")), chains(tmp_path)
    engines = await launch(EngineSettings(role="prm", model=folder, dtype=asked), None)
    try:
        dtype = computes_in(engines.policy)
        models = match(engines.policy, engines.policy)
        read = [[*(row.scores or ())] for row in await read_chains(written, models)]
    finally:
        await engines.close()
    assert asked in {"auto", dtype}
    assert dtype in TOLERANCES, f"no bound is known for a PRM in {dtype}"
    tolerance = TOLERANCES[dtype]
    tags = compared(read, reference_scores(folder, written, dtype))
    assert len(tags) > 4 * CHAINS
    assert {tag.reference > 0.5 for tag in tags} == {True, False}, "both kinds of verdict are compared"
    assert fmean(tag.gap for tag in tags) <= MEAN * tolerance
    worst = max(tags, key=lambda tag: tag.gap)
    assert worst.gap <= tolerance, worst
