"""CIFAR-10 with a small ViT with 2-bit weights and activations: two minutes on one core."""

import os
from pathlib import Path

import pytest
import timm
import torch

from datamodules.classification.cifar import CIFAR10
from datamodules.classification.labelled_images import LabelledImages
from datamodules.loading import Loading
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.baselines import CrossEntropy
from lightning_modules.efficiency.ofq import OFQ
from tests.trainers import quiet

CHANCE = 0.1


@pytest.mark.data
@pytest.mark.parametrize("reparametrised", [True, False])
def test_a_small_vit_learns_with_two_bits(reparametrised: bool) -> None:
    root = os.environ.get("NOISEWORKS_DATA")
    if not root or not Path(root, "cifar10").is_dir():
        pytest.skip("NOISEWORKS_DATA has no cifar10: CIFAR-10 is not at hand")
    torch.manual_seed(0)
    vit = timm.models.VisionTransformer(
        img_size=32, patch_size=4, embed_dim=64, depth=4, num_heads=4, num_classes=10, mlp_ratio=2
    )
    network = Normalized(vit, [0.49, 0.48, 0.45], [0.25, 0.24, 0.26])
    data = LabelledImages(CIFAR10(root), batch_size=128, loading=Loading(evaluation_batch_size=500, seed=0))
    first = CrossEntropy(network, 10, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-3))
    quiet(max_epochs=4, limit_train_batches=50).fit(first, datamodule=data)
    module = OFQ(
        network,
        num_classes=10,
        reparametrised=reparametrised,
        annealed_epochs=1,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    )
    trainer = quiet(max_epochs=4, limit_train_batches=30, limit_test_batches=4)
    trainer.fit(module, datamodule=data)
    assert float(trainer.callback_metrics["train/annealed"]) < 0.05
    [metrics] = trainer.test(module, datamodule=data, verbose=False)
    assert metrics["test/accuracy"] > 2.5 * CHANCE
    weights, layers = module.effective_weights()
    for name, told in layers.items():
        if told.get("quantizer") == "statsq" and f"{name}.weight" in weights:
            assert all(len(row.unique()) <= 4 for row in weights[f"{name}.weight"])
