"""Of a batch on CPU, each row is multiplied by its own adapter, and one without an adapter by none."""

import pytest
import torch

from cos.engines.vllm_process import by_adapter


@pytest.mark.parametrize("extra", [(), (1,)], ids=["three dimensions", "four dimensions"])
def test_each_row_has_its_own_adapter_or_none(extra: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, weights = torch.randn(5, 4, generator=generator), torch.randn(2, 3, 4, generator=generator)
    adapters = torch.tensor([1, -1, 0, -1, 1])
    found = by_adapter(inputs, weights.view(2, *extra, 3, 4), adapters, torch.float32)
    assert found[[1, 3]].count_nonzero() == 0
    for row in (0, 2, 4):
        torch.testing.assert_close(found[row], weights[adapters[row]] @ inputs[row])
