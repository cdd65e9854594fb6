"""What an engine process on CPU does otherwise than vLLM 0.32: it draws the numbers of seeded requests ahead, and takes
those back whose samples are thrown away."""

import os
from typing import Any

from cos.engines.seeds import NumbersAhead


def prepare(threads: int) -> None:
    """Readies the engine process that calls it. ``threads``: how many it computes with."""
    use_threads(threads)
    draw_ahead()


def use_threads(threads: int) -> None:
    """Has the process that calls it compute with so many threads, and those that it starts in turn."""
    import torch

    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def draw_ahead() -> None:
    """Changes the engine process that calls it.

    Numbers: as ``TopKTopPSampler.forward_cpu`` draws them (vllm/v1/sample/ops/topk_topp_sampler.py), one for one. A
    request whose prompt is read in parts (its picture had to wait for others', or its tokens for room in the batch) is
    sampled after each part, and the sample thrown away. vLLM then sets its generator's offset back
    (``GPUModelRunner._bookkeeping_sync``), which a CPU's generator does not have: the engine would die of it.
    """
    import torch
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    as_it_was, numbers = TopKTopPSampler.forward_cpu, NumbersAhead()
    keep_books = GPUModelRunner._bookkeeping_sync  # pyright: ignore[reportPrivateUsage]

    def forward_cpu(self: Any, logits: Any, generators: Any, k: Any, p: Any) -> Any:
        if self.use_fp64_gumbel or "processed" in self.logprobs_mode:
            return as_it_was(self, logits, generators, k, p)
        logits = apply_top_k_top_p(logits, k, p)
        seeds = torch.randint(0, 2**31, (len(logits),), dtype=torch.long)
        if generators:
            seeds[list(generators)] = numbers.next(generators.values())
        return torch.ops._C.fused_gumbel_argmax(logits.to(torch.float32), seeds), None

    def bookkeeping(self: Any, *given: Any, **named: Any) -> Any:
        batch = self.input_batch
        thrown_away = self.discard_request_mask.np[: batch.num_reqs].nonzero()[0].tolist()
        if not thrown_away:
            return keep_books(self, *given, **named)
        generators = batch.generators
        numbers.give_back(generators[row] for row in thrown_away if row in generators)
        batch.generators = {row: generator for row, generator in generators.items() if row not in thrown_away}
        try:
            return keep_books(self, *given, **named)
        finally:
            batch.generators = generators

    TopKTopPSampler.forward_cpu = forward_cpu
    GPUModelRunner._bookkeeping_sync = bookkeeping  # pyright: ignore[reportPrivateUsage]
