"""Networks with 2:4 weights in semi-structured kernels, compared with the same weights in dense kernels."""

import copy

import timm
import torch

from lightning_modules.efficiency.nm_sparsity import in_semi_structured_kernels
from lightning_modules.efficiency.nm_sparsity.flow import Flow, sparsify
from tests.benchmarks.pairs import paired_ratio
from tests.gpu.place import Place, Row, largest_difference


@torch.inference_mode()
def kernels(at: Place) -> None:
    """Compare outputs and time of ViT-B/16 with 2:4 feed-forward layers, in half precision."""
    name, size = at.of(("vit_base_patch16_224", 224), ("vit_tiny_patch16_224", 224))
    for dtype in (torch.float16, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        torch.manual_seed(0)
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
            at.keep(Row(f"{label}: refused on a CPU", str(error), "a sentence", "on a GPU" in str(error)))
            continue
        difference = largest_difference(expected, sparse(image))
        at.keep(Row(f"{label}: outputs, {count} layers", f"{difference:.1e}", "<= 0.05", difference <= 0.05))

        def ours(network: torch.nn.Module = sparse, image: torch.Tensor = image) -> None:
            for _ in range(20):
                network(image)
            at.wait()

        def theirs(network: torch.nn.Module = dense, image: torch.Tensor = image) -> None:
            for _ in range(20):
                network(image)
            at.wait()

        ratio = paired_ratio(ours, theirs, rounds=5)
        at.keep(Row(f"{label}: time over dense weights", f"{ratio:.2f}", "< 1", ratio < 1))
