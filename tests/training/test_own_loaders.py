"""Methods train, test and predict with a user's own DataLoaders, without a DataModule of this project."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.labels.report import LabelReport
from datamodules.classification.clustered import Clustered
from lightning_modules.baselines import CrossEntropy, SimCLR
from lightning_modules.networks.mlp import MLP
from lightning_modules.noisy_labels.elr import ELR
from lightning_modules.noisy_labels.elr_plus import ELRPlus
from lightning_modules.noisy_labels.nmtune import NMTune
from lightning_modules.robustness.adversarial_training import AdversarialTraining
from lightning_modules.robustness.consistency import Consistency
from lightning_modules.views import AddedNoise
from tests.noisy_labels.lsa.small import NOISY, one_network, two_networks
from tests.trainers import quiet
from tests.two_processes import in_two_processes

NUM_TRAIN, NUM_CLASSES = 100, 6


def clusters() -> tuple[TensorDataset, TensorDataset]:
    images = Clustered(num_clean=NUM_TRAIN, num_foreign=0, num_test=30)
    sources: list[Any] = [images.training(), images.test()]
    train, test = (TensorDataset(each.image / each.data_range, each.label) for each in sources)
    return train, test


def network() -> MLP:
    torch.manual_seed(0)
    return MLP(in_features=24, hidden_features=[16], out_features=NUM_CLASSES)


def frozen(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


METHODS: dict[str, Callable[[], LightningModule]] = {
    "cross_entropy": lambda: CrossEntropy(network(), NUM_CLASSES),
    "elr": lambda: ELR(network(), NUM_CLASSES),
    "elr_plus": lambda: ELRPlus(network(), network(), NUM_CLASSES),
    "lsa": lambda: one_network(**NOISY).float(),
    "lsa_plus": lambda: two_networks(**NOISY).float(),
    "nmtune": lambda: NMTune(network(), NUM_CLASSES, NUM_CLASSES),
    "consistency": lambda: Consistency(network(), NUM_CLASSES),
    "adversarial_training": lambda: AdversarialTraining(network(), NUM_CLASSES, steps=2),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_train_test_and_predict_from_pairs(name: str) -> None:
    train, test = clusters()
    module, trainer = METHODS[name](), quiet(max_epochs=2)
    before = [parameter.clone() for parameter in module.parameters()]
    trainer.fit(module, DataLoader(train, 32, shuffle=True), DataLoader(test, 32))
    assert any((new != old).any() for new, old in zip(module.parameters(), before, strict=True))
    (metrics,) = trainer.test(module, DataLoader(test, 32), verbose=False)
    accuracy = metrics["test/accuracy_under_noise" if name == "consistency" else "test/accuracy"]
    assert 0 <= accuracy <= 1
    predicted: Any = trainer.predict(module, DataLoader(test, 32, shuffle=True))
    index, label = (torch.cat([each[key] for each in predicted]) for key in ("index", "prediction"))
    right = label == test.tensors[1][index]
    assert name == "consistency" or right.float().mean() == pytest.approx(accuracy)


def test_features_are_learned_from_images_alone() -> None:
    module = SimCLR(network(), NUM_CLASSES, view=AddedNoise(0.05))
    trainer = quiet(max_epochs=1)
    trainer.fit(module, DataLoader(clusters()[0].tensors[0], 32, shuffle=True))  # type: ignore[arg-type]
    assert trainer.global_step == 4


class OwnData(LightningDataModule):
    """A user's DataModule that does not use this project."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(clusters()[0], 32, shuffle=True)


@pytest.mark.parametrize("kind", ["loader", "workers", "datamodule"])
def test_targets_belong_to_their_samples_in_whatever_order(kind: str) -> None:
    """With learning rate zero, the network always predicts p, so after k visits, the target is t = (1 - beta^k) p."""
    train, _ = clusters()
    module = ELR(network(), NUM_CLASSES, momentum=0.7, optimizer=frozen)
    workers = {"num_workers": 1, "persistent_workers": True} if kind == "workers" else {}
    data: Any = OwnData() if kind == "datamodule" else DataLoader(train, 32, shuffle=True, **workers)
    quiet(max_epochs=2).fit(module, data)
    p = module.eval()(train.tensors[0]).softmax(dim=1).clamp(1e-4, 1 - 1e-4)
    torch.testing.assert_close(
        module.targets.gather(), (1 - 0.7**2) * p / p.sum(dim=1, keepdim=True), rtol=0, atol=1e-6
    )


def _fit_elr(rank: int = 0) -> None:
    train, _ = clusters()
    module = ELR(network(), NUM_CLASSES, momentum=0.7, optimizer=frozen)
    trainer = quiet(max_epochs=1, devices=2, strategy="ddp", use_distributed_sampler=True)
    trainer.fit(module, DataLoader(train, 32, shuffle=True))
    p = module.network.eval()(train.tensors[0]).softmax(dim=1).clamp(1e-4, 1 - 1e-4)
    targets = module.targets.gather()
    if trainer.is_global_zero:
        torch.testing.assert_close(targets, 0.3 * p / p.sum(dim=1, keepdim=True), rtol=0, atol=1e-6)


def test_two_processes_keep_every_target() -> None:
    in_two_processes(_fit_elr)


def test_labels_of_the_loaders_set_are_reported(tmp_path: Any) -> None:
    train, test = clusters()
    module = CrossEntropy(network(), NUM_CLASSES)
    trainer = quiet(max_epochs=1, default_root_dir=tmp_path, callbacks=[LabelReport(num_images=4)])
    trainer.fit(module, DataLoader(train, 32, shuffle=True))
    trainer.test(module, DataLoader(test, 32), verbose=False)
    table = pd.read_csv(tmp_path / "label_report.csv").sort_values("index")
    logits: Tensor = module(train.tensors[0])
    assert table["given"].tolist() == train.tensors[1].tolist()
    assert table["proposed"].tolist() == logits.argmax(dim=1).tolist()


class Pixels(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1)[:, :NUM_CLASSES]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            (torch.zeros(2, 24, dtype=torch.uint8), torch.zeros(2)),
            "but the dataloader's images are torch.uint8",
        ),
        ((torch.zeros(2), torch.zeros(2), torch.zeros(2)), "pairs of the two, but the dataloader's batches are tuple"),
    ],
)
def test_batches_of_another_kind_are_refused(batch: Any, message: str) -> None:
    module = CrossEntropy(Pixels(), NUM_CLASSES)
    module.trainer = quiet()
    with pytest.raises(TypeError, match=message):
        module.on_before_batch_transfer(batch, 0)
