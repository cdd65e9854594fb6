"""What an engine process on CPU does otherwise than vLLM 0.32: it draws the numbers of seeded requests ahead, and takes
those back whose samples are thrown away; and it keeps an adapter from requests that are not for it."""

import os
from typing import Any

from cos.engines.seeds import NumbersAhead
from cos.engines.vllm_plugin import register


def prepare(threads: int, *, has_adapter: bool = False) -> None:
    """Readies the engine process that calls it. ``threads``: how many it computes with. ``has_adapter``: whether it
    will run some requests with a LoRA adapter."""
    use_threads(threads)
    register()
    draw_ahead()
    if has_adapter:
        keep_adapters_apart()


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


def keep_adapters_apart() -> None:
    """Changes the engine process that calls it.

    Of a batch in which some requests have an adapter and some have none, vLLM's operations for CPU
    (vllm/lora/ops/torch_ops/lora_ops.py) run all with it: "none" is the index -1, by which they take the last adapter.
    These leave such rows alone. They multiply all rows of an adapter at once; vLLM's copy its matrix for each row.
    """
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    def shrink(inputs: Any, weights: Any, output: Any, adapters: Any, scaling: float = 1.0) -> None:
        product = by_adapter(inputs, weights, adapters, output.dtype)
        output[:, : product.shape[1]] = scaling * product

    def expand(inputs: Any, weights: Any, output: Any, adapters: Any, add_inputs: bool = True) -> None:
        product = by_adapter(inputs, weights, adapters, output.dtype)
        # Model and adapter may be padded to different widths.
        put(product[:, : output.shape[1]], output[:, : product.shape[1]], add_inputs=add_inputs)

    def expand_slice(
        inputs: Any, weights: Any, output: Any, adapters: Any, start: int, width: int, add_inputs: bool = True
    ) -> None:
        product = by_adapter(inputs, weights, adapters, output.dtype)
        put(product, output[:, start : start + width], add_inputs=add_inputs)

    def put(product: Any, output: Any, *, add_inputs: bool) -> None:
        if add_inputs:
            output += product
        else:
            output[:] = product

    # Those for whole prompts find these in their module.
    module: Any
    for module in (lora_ops, punica_cpu):
        module.bgmv_shrink, module.bgmv_expand, module.bgmv_expand_slice = shrink, expand, expand_slice


def by_adapter(inputs: Any, weights: Any, adapters: Any, dtype: Any) -> Any:
    """Each row times the matrix of its adapter, rows x outputs; zeros for a row without one. ``inputs``: rows x inputs.
    ``weights``: adapters x outputs x inputs, with a dimension of 1 behind the first or without. ``adapters``: the index
    of each row's, -1 for none."""
    matrices = weights.flatten(0, 1) if weights.ndim == 4 else weights
    product = inputs.new_zeros((len(inputs), matrices.shape[1]), dtype=dtype)
    for adapter in adapters.unique().tolist():
        if adapter >= 0:
            rows = adapters == adapter
            product[rows] = inputs[rows].to(dtype) @ matrices[adapter].to(dtype).T
    return product
