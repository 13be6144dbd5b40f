"""Two processes judge training images by one network: after a step, BatchNorm's statistics are made equal."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn

from callbacks.early_learning.watch import EarlyLearning
from datamodules.classification.clustered import Clustered
from datamodules.classification.labelled_images import LabelledImages
from datamodules.corruptions.mask_noise import ErosionDilation
from datamodules.segmentation.ellipse_images import EllipseImages
from datamodules.segmentation.labelled_masks import LabelledMasks
from datamodules.segmentation.shapes import Shapes
from datamodules.segmentation.unpaired_masks import UnpairedMasks
from lightning_modules.networks.cycle_generator import UNetGenerator
from lightning_modules.networks.mlp import MLP
from lightning_modules.networks.patch_discriminator import PatchDiscriminator
from lightning_modules.networks.shape_vae import ShapeVAE
from lightning_modules.noisy_labels.adele import ADELE, EvaluationPassCorrection
from lightning_modules.noisy_labels.annotation_efficient.module import AnnotationEfficient
from lightning_modules.noisy_labels.annotation_efficient.translation import Translation
from lightning_modules.noisy_labels.lsa.pls_lsa import PLSLSA
from lightning_modules.noisy_labels.lsa.pls_lsa_plus import PLSLSAPlus
from tests.trainers import quiet


def annotation_efficient() -> AnnotationEfficient:
    torch.manual_seed(0)
    segmenter = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    generators = [UNetGenerator(1, 1, 4, 2) for _ in range(2)]
    discriminators = [PatchDiscriminator(1, 4, 1) for _ in range(2)]
    descent = functools.partial(torch.optim.SGD, lr=0.05)
    return AnnotationEfficient(
        segmenter,
        ShapeVAE(32, 3, (4, 4, 4, 4)),
        Translation(*generators, *discriminators, MLP(3, [16], 1)),
        **{"vae_epochs": 1, "translation_epochs": 2, "warm_up_epochs": 1, "rounds": 1, "round_epochs": 1},
        stop_early=False,
        optimizer=descent,
        vae_optimizer=functools.partial(torch.optim.SGD, lr=1e-4),
        translation_optimizer=descent,
    ).double()


class Compared(nn.BatchNorm2d):
    """Refuses to judge in evaluation mode where the processes have seen different statistics, and counts how often."""

    evaluated: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.register_buffer("evaluated", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            first = self.running_var.clone()  # type: ignore[union-attr]
            dist.broadcast(first, src=0)
            assert torch.equal(first, self.running_var), "each process judges by a network of its own"
            self.evaluated += 1
        return super().forward(x)


def segmenter(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Compared(4), nn.ReLU(), nn.Conv2d(4, num_classes, 1))


def classifier() -> nn.Module:
    features = [nn.Flatten(), nn.Linear(24, 10), nn.Unflatten(1, (10, 1, 1)), Compared(10), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*features, nn.Linear(10, 6))


def experiment(method: str) -> tuple[LightningModule, LightningDataModule]:
    if method == "adele":
        shapes = LabelledMasks(
            Shapes(num_train=14, num_test=2, image_size=16), 5, ErosionDilation(1, 1), num_workers=0, seed=0
        )
        correction = EvaluationPassCorrection(scales=[1.0], flip_from_epoch=None)
        return ADELE(segmenter(3), 3, scales=[1.0], consistency_weight=0, correction=correction), shapes
    if method == "annotation_efficient":
        module = annotation_efficient()
        module.network = segmenter(2)
        return module, UnpairedMasks(
            EllipseImages(num_training=21, num_validation=0, num_test=1), batch_size=8, num_workers=0
        )
    views: Any = {"weak_view": nn.Identity(), "contrastive_view": nn.Identity(), "feature_layer": "4"}
    two = method == "lsa_plus"
    images = Clustered(num_clean=90, num_foreign=67, num_test=12)
    clusters = LabelledImages(images, 49, passes_per_epoch=2 if two else 1, seed=1)
    return PLSLSAPlus(classifier(), classifier(), 6, **views) if two else PLSLSA(classifier(), 6, **views), clusters


@pytest.mark.parametrize("method", ["adele", "lsa", "lsa_plus", "annotation_efficient"])
def test_training_images_are_judged_by_one_network(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, data = experiment(method)
    trainer = quiet(
        devices=2,
        strategy="ddp_fork_find_unused_parameters_true",
        precision="64-true",
        max_epochs=5,
        callbacks=[EarlyLearning(r=0.0, background=0)] if method == "adele" else [],
        limit_val_batches=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(module.double(), datamodule=data)
    compared = [layer for layer in module.modules() if isinstance(layer, Compared)]
    assert all(layer.evaluated > 0 for layer in compared)
