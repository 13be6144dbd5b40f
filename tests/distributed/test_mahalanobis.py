"""The Mahalanobis detector: two processes give the statistics and scores of one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from datamodules.first_digits import FirstDigits
from datamodules.out_of_distribution import OutOfDistribution
from datamodules.unfamiliar_images import OtherDigits, UniformNoise
from lightning_modules.networks.convnet import ConvNet
from lightning_modules.robustness.mahalanobis.detector import Mahalanobis

QUIET: dict[str, Any] = {
    **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
    **{"accelerator": "cpu", "precision": "64-true", "use_distributed_sampler": False},
}


def detector() -> Mahalanobis:
    torch.manual_seed(0)
    return Mahalanobis(
        ConvNet(1, [6, 8], 8), 8, ["relu1", "relu2"], (1, 8, 8), "tuned_on_target", [0.0, 0.01], num_validation=30
    )


def data() -> OutOfDistribution:
    """Training batches of 101, the last one of another size, and test batches of 57: shards differ by one."""
    unfamiliar = {"other": OtherDigits([8, 9]), "noise": UniformNoise(num_images=61)}
    return OutOfDistribution(FirstDigits(batch_size=101, evaluation_batch_size=57), unfamiliar)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    states, metrics = [], []
    for processes in (1, 2):
        module, strategy = detector(), "ddp_fork" if processes > 1 else "auto"
        trainer = Trainer(max_epochs=1, devices=processes, strategy=strategy, default_root_dir=tmp_path, **QUIET)
        trainer.fit(module, datamodule=data())
        states.append(module.gaussians.state_dict())
        trainer = Trainer(devices=processes, strategy=strategy, default_root_dir=tmp_path, **QUIET)
        results = trainer.test(module, datamodule=data(), verbose=False)
        metrics.append({name: value for part in results for name, value in part.items()})
    assert float(states[0]["count"].sum()) == data_size()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-10, atol=1e-10, msg=name)
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-6)
    assert {"test/auroc_other", "test/auroc_tuned_on_target_noise", "test/accuracy"} <= metrics[0].keys()


def data_size() -> int:
    return len(FirstDigits().read_training().label)
