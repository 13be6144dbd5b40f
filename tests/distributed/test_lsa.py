"""Two processes that train by PLS, PLS-LSA, PLS-LSA+ or SimCLR give what one gives, uneven last batches included.

Without mixup and random views, which each process draws for its own share.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from datamodules.classification.clustered import Clustered
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.baselines.simclr import SimCLR
from lightning_modules.networks.mlp import MLP
from lightning_modules.noisy_labels.lsa.pls_lsa import PLSLSA
from lightning_modules.noisy_labels.lsa.pls_lsa_plus import PLSLSAPlus

QUIET: dict[str, Any] = {
    **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
    **{"accelerator": "cpu", "precision": "64-true", "use_distributed_sampler": False, "num_sanity_val_steps": 0},
}


class Darker(nn.Module):
    """A view without chance."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image**2


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.2, momentum=0.9)


def network() -> MLP:
    return MLP(24, [12, 10], 6)


def module(kind: str) -> LightningModule:
    torch.manual_seed(0)
    if kind == "simclr":
        return SimCLR(network(), 6, Darker(), hidden_features=12, projection_features=8, optimizer=sgd)
    options: dict[str, Any] = {
        **{"num_classes": 6, "weak_view": nn.Identity(), "strong_view": Darker(), "contrastive_view": Darker()},
        **{"feature_layer": "layers.1", "threshold": 0.6, "mixup_alpha": 0.0, "penalty": True, "optimizer": sgd},
    }
    if kind == "plus":
        return PLSLSAPlus(network(), network(), **options)
    if kind == "pls":
        options |= {"detectors": ["loss"], "guess_views": 2, "confidence_contrast": True}
    return PLSLSA(network(), **options)


class SaveAtTheEnd(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)


def trained(kind: str, processes: int, path: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The checkpoint and the last epoch's metrics: 157 samples in batches of 49, of which the last has 10, 5 a process,
    and in sweeps of 32, of which the last has 29, 15 + 14."""
    data = LabelledImages(
        Clustered(num_clean=90, num_foreign=67, num_test=12),
        batch_size=49,
        evaluation_batch_size=32,
        passes_per_epoch=2 if kind == "plus" else 1,
        seed=1,
    )
    strategy = "auto"
    if processes > 1:
        strategy = "ddp_fork_find_unused_parameters_true" if kind == "plus" else "ddp_fork"
    trainer = Trainer(max_epochs=3, devices=processes, strategy=strategy, callbacks=[SaveAtTheEnd(path)], **QUIET)
    trainer.fit(module(kind).double(), datamodule=data)
    return torch.load(path, weights_only=True), {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("kind", ["lsa", "pls", "plus", "simclr"])
def test_two_processes_equal_one(kind: str, tmp_path: Path) -> None:
    (one, metrics), (two, others) = (trained(kind, processes, tmp_path / str(processes)) for processes in (1, 2))
    initial = module(kind).double().state_dict()
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=0, atol=1e-10, msg=name)
    assert any(not torch.equal(value, initial[name]) for name, value in one["state_dict"].items())
    assert others == pytest.approx(metrics, abs=1e-6)
    if kind == "simclr":
        return
    assert 0 < one["images"]["is_noisy"].sum() < 157
    assert torch.equal(two["images"]["is_noisy"], one["images"]["is_noisy"])
    torch.testing.assert_close(two["images"]["weight"], one["images"]["weight"], rtol=0, atol=1e-8)
    for ours, theirs in zip(one["images"]["guesses"], two["images"]["guesses"], strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-10)
