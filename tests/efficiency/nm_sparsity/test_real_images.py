"""CIFAR-10 with a small ViT at 1:8 within two minutes on one core: 5,120 images, six epochs."""

import os
from pathlib import Path

import pytest
import timm
import torch

from datamodules.classification.cifar import CIFAR10
from datamodules.classification.labelled_images import LabelledImages
from datamodules.loading import Loading
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.efficiency.nm_sparsity import NMSparsity
from lightning_modules.efficiency.nm_sparsity.flow import Flow, Pattern
from tests.trainers import quiet

CHANCE = 0.1


@pytest.mark.data
@pytest.mark.parametrize("way", ["sr_ste", "mdgf_exponential", "sdgf_stepwise"])
def test_a_small_vit_learns_at_one_of_eight(way: str) -> None:
    root = os.environ.get("NOISEWORKS_DATA")
    if not root or not Path(root, "cifar10").is_dir():
        pytest.skip("NOISEWORKS_DATA has no cifar10: CIFAR-10 is not at hand")
    torch.manual_seed(0)
    vit = timm.models.VisionTransformer(
        img_size=32, patch_size=4, embed_dim=64, depth=4, num_heads=4, num_classes=10, mlp_ratio=2
    )
    module = NMSparsity(
        Normalized(vit, [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]),
        num_classes=10,
        pattern=Pattern(1, 8),
        layers=["*.fc1", "*.fc2"],
        flow=Flow(way, 0.05 if way.startswith("mdgf") else None, fine_tune_epochs=2),  # type: ignore[arg-type]
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-3),
    )
    data = LabelledImages(CIFAR10(root), batch_size=128, loading=Loading(evaluation_batch_size=500, seed=0))
    trainer = quiet(max_epochs=6, limit_train_batches=40, limit_test_batches=4)
    trainer.fit(module, datamodule=data)
    [metrics] = trainer.test(module, datamodule=data, verbose=False)
    assert metrics["test/accuracy"] > 3 * CHANCE
    weights, layers = module.effective_weights()
    assert len(layers) == 8
    for name in layers:
        assert (weights[f"{name}.weight"].view(-1, 8) != 0).sum(dim=1).le(1).all()
