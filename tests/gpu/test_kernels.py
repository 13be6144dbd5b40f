"""Networks with 2:4 weights in semi-structured kernels, compared with the same weights in dense kernels."""

import copy
from functools import partial

import pytest
import timm
import torch

from lightning_modules.efficiency.nm_sparsity import in_semi_structured_kernels
from lightning_modules.efficiency.nm_sparsity.flow import Flow, sparsify
from tests.benchmarks.pairs import paired_ratio
from tests.gpu.place import Place, largest_difference


@pytest.mark.gpu(minutes=3)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_kernels(dtype: torch.dtype, at: Place) -> None:
    """Semi-structured kernels for 2:4 weights: ViT-B/16 with 2:4 feed-forward layers, in half precision."""
    name, size = at.of(("vit_base_patch16_224", 224), ("vit_tiny_patch16_224", 224))
    kind = str(dtype).removeprefix("torch.")
    sparse = timm.create_model(name, num_classes=10)
    sparsify(sparse, 2, 4, ["*.fc1", "*.fc2"], {}, "inputs", Flow("ste", 0.0))
    sparse = sparse.to(at.device, dtype).eval()
    dense = timm.create_model(name, num_classes=10).to(at.device, dtype).eval()
    image = torch.rand(at.of(64, 1), 3, size, size, device=at.device, dtype=dtype)
    expected = copy.deepcopy(sparse)(image)
    label = f"2:4 layers of ViT-B/16 in semi-structured kernels, {kind}"
    try:
        count = len(in_semi_structured_kernels(sparse))
    except ValueError as error:
        if not at.rehearse:
            raise
        at.keep(f"{label}: refused on a CPU", str(error), "a sentence", "on a GPU" in str(error))
        return
    difference = largest_difference(expected, sparse(image))
    at.keep(f"{label}: outputs, {count} layers", f"{difference:.1e}", "<= 0.05", difference <= 0.05)

    def passes(network: torch.nn.Module) -> None:
        for _ in range(20):
            network(image)
        at.wait()

    ratio = paired_ratio(partial(passes, sparse), partial(passes, dense), rounds=5)
    at.keep(f"{label}: time over dense weights", f"{ratio:.2f}", "< 1", ratio < 1)
