"""Rollouts: the policy's own chains over digits it has never seen, to train the PRM on its real mistakes."""

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from cos.engines.launch import launch
from cos.engines.settings import EngineSettings
from cos.prm.pair import Pair, pair
from cos.search.search import solve
from cos.search.spec import Sampling, SearchSpec
from cos.search.types import Picture, Question
from cos.training.batches import Batch, pad
from cos.training.chains import Encoded, encode_prm
from cos.training.ledger import Problem, derive, sample_problem
from cos.training.mnist import Digits
from cos.training.models import IMAGE_TOKENS, token_id
from cos.training.render import Renderer, cells_of

CONCURRENT = 16


async def write_rollouts(folder: Path, policy: Path, digits: Digits, problems: int, each: int, seed: int) -> None:
    """Samples ``each`` whole chains at temperature 1 for every problem; writes chains.jsonl and pictures.npy."""
    rng = random.Random(f"rollouts/{seed}")
    renderer = Renderer(digits)
    engines = await launch(EngineSettings(role="policy", model=str(policy)), None)
    try:
        matched = pair(engines.policy, None)
        drawn = [sample_problem(rng) for _ in range(problems)]
        generator = torch.Generator().manual_seed(seed)
        pictures = torch.cat([renderer.draw(torch.tensor([cells_of(p.rows)]), generator) for p in drawn])
        gate = asyncio.Semaphore(CONCURRENT)
        with tqdm(total=problems, desc="rollouts") as bar:

            async def roll(index: int) -> list[str]:
                async with gate:
                    found = await _chains(
                        matched, drawn[index], pictures[index].permute(1, 2, 0).numpy(), each, seed + index
                    )
                bar.update()
                return [json.dumps({"problem": index, **asdict(drawn[index]), **chain}) for chain in found]

            lines = await asyncio.gather(*(roll(index) for index in range(problems)))
    finally:
        await engines.close()
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "pictures.npy", pictures.numpy())
    (folder / "chains.jsonl").write_text("\n".join(line for some in lines for line in some) + "\n", encoding="utf-8")


async def _chains(matched: Pair, problem: Problem, pixels: np.ndarray, each: int, seed: int) -> list[dict[str, object]]:
    spec = SearchSpec("self_consistency", {"n": each}, sampling=Sampling(seed=seed), score="likelihood", explain=False)
    question = Question(problem.question, Picture(Image.fromarray(pixels), str(seed)))
    result = await solve(question, spec, matched.policy, None, matched.grammar)
    by_path = {candidate.path: candidate for candidate in result.tree}
    ends = [candidate for candidate in result.tree if candidate.end == "answer"]
    return [
        {"segments": [by_path[end.path[: i + 1]].text for i in range(len(end.path))], "answer": end.answer}
        for end in ends
    ]


def rollout_batches(folder: Path, tokenizer: PreTrainedTokenizerFast, size: int) -> list[Batch]:
    """The stored chains, labelled by the exact checker, sorted by length and cut into batches."""
    pictures = torch.from_numpy(np.load(folder / "pictures.npy"))
    chains = sorted(_read(folder / "chains.jsonl", tokenizer), key=lambda pair: len(pair[1].ids))
    padding = token_id(tokenizer, "<|endoftext|>")
    return [
        pad([chain for _, chain in some], pictures[[index for index, _ in some]], padding)
        for some in (chains[start : start + size] for start in range(0, len(chains) - size + 1, size))
    ]


def _read(path: Path, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[int, Encoded]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        problem = Problem(tuple(row["rows"]), row["kind"], tuple(row["pair"]), row["limit"])
        gold = derive(problem)
        right = row["answer"] == gold.answer
        yield row["problem"], encode_prm(tokenizer, problem.question, row["segments"], gold, IMAGE_TOKENS, right)
