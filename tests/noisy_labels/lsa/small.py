"""Small networks and data for the tests of LSA."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from callbacks.guards.seeding import SeedEveryBatch
from datamodules.classification.clustered import Clustered
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.backbones import Normalized
from lightning_modules.noisy_labels.lsa.correction_steps import Heads
from lightning_modules.noisy_labels.lsa.detection import Detection
from lightning_modules.noisy_labels.lsa.module import PLSLSA, PLSLSAPlus
from lightning_modules.noisy_labels.lsa.objective import StepLoss
from lightning_modules.views import AddedNoise
from tests.grouped import grouped
from tests.trainers import quiet

PLAIN: dict[str, Any] = {
    "weak_view": nn.Identity(),
    "contrastive_view": nn.Identity(),
    "loss": StepLoss(mixup_alpha=0.0),
}
NOISY: dict[str, Any] = {"weak_view": AddedNoise(0.05), "contrastive_view": AddedNoise(0.1)}


def network(batch_norm: bool = False) -> nn.Module:
    layers = [nn.Linear(24, 16), nn.BatchNorm1d(16) if batch_norm else nn.Identity(), nn.ReLU(), nn.Linear(16, 6)]
    return Normalized(nn.Sequential(nn.Flatten(), *layers), [0.5], [0.125])


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


SMALL: dict[str, Any] = {
    "detection": Detection(feature_layer="3"),
    "heads": Heads(projection_features=8),
    "optimizer": sgd,
}


def one_network(batch_norm: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    return PLSLSA(network(batch_norm), num_classes=6, **{**SMALL, **options})


def two_networks(batch_norm: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    return PLSLSAPlus(network(batch_norm), network(batch_norm), num_classes=6, **{**SMALL, **options})


def data(**options: Any) -> LabelledImages:
    images = Clustered(num_clean=120, num_foreign=81, num_test=30)
    return LabelledImages(images, **grouped(LabelledImages, {"batch_size": 50, "seed": 3, **options}))


def fit(module: LightningModule, epochs: int, into: Any = None, **options: Any) -> Any:
    trainer = quiet(max_epochs=epochs, precision="64-true", **{"callbacks": [SeedEveryBatch(3)], **options})
    into = into or data(passes_per_epoch=2 if isinstance(module, PLSLSAPlus) else 1)
    trainer.fit(module.double(), datamodule=into)
    return trainer


class Standing:
    """A stand-in for a trainer in a given epoch of two batches."""

    num_training_batches = 2
    datamodule = None
    callbacks = ()

    def __init__(self, epoch: int) -> None:
        self.current_epoch = epoch


class Step:
    """A module's step in double precision on 50 of 201 images; 67 of the 201 are noisy, with weights from 0 to 1."""

    def __init__(self, module: Any, epoch: int = 1) -> None:
        generator = torch.Generator().manual_seed(1)
        index = torch.randperm(201, generator=generator)[:50]
        image = torch.rand(50, 1, 1, 24, generator=generator, dtype=torch.float64)
        self.batch: Any = {"image": image, "label": index % 6, "index": index, "global_batch_size": 50}
        self.module = module.double()
        module.trainer = Standing(epoch)
        module.log_dict = lambda *args, **kwargs: None
        module.images.allocate(201, "cpu", torch.float64)
        module.images.is_noisy[::3] = True
        module.images.weight[::3] = torch.linspace(0, 1, 67, dtype=torch.float64)
        self.noisy, self.weight = module.images.is_noisy[index], module.images.weight[index]
        self.outputs = module.training_step(self.batch, 0)

    def target(self, guess: Tensor) -> Tensor:
        """Return the guess for noisy images, and the given label for the other images."""
        return torch.where(self.noisy[:, None], guess, F.one_hot(self.batch["label"], 6)).detach()

    def kept_guess(self, network: int) -> Tensor:
        return self.module.images.guesses[network].gather()[self.batch["index"]]

    def expect(self, loss: Tensor) -> None:
        """Compare the step's loss and gradients with those of an equation."""
        torch.testing.assert_close(self.outputs["loss"], loss, rtol=1e-10, atol=0)
        parameters = list(self.module.parameters())
        own, expected = (
            torch.autograd.grad(each, parameters, allow_unused=True, materialize_grads=True)
            for each in (self.outputs["loss"], loss)
        )
        for gradient, other in zip(own, expected, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-12)
