"""Detectors of pytorch-ood; only the tests that compute scores need this package to be installed."""

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from callbacks.detection import DetectionReport
from datamodules.classification.digits import Digits
from datamodules.classification.ood_images import OtherDigits, UniformNoise
from datamodules.classification.out_of_distribution import OutOfDistribution
from datamodules.loading import Loading
from lightning_modules.baselines import OODScores
from lightning_modules.interfaces import Detector, require
from lightning_modules.networks.mlp import MLP
from tests.trainers import quiet

DETECTORS: dict[str, dict[str, float]] = {
    "EnergyBased": {}, "MaxSoftmax": {}, "KLMatching": {}, "KNN": {"k": 5}, "ViM": {"d": 8}, "SHE": {},
}  # fmt: skip


def data() -> OutOfDistribution:
    others: Any = {"noise": UniformNoise(50), "other": OtherDigits([8, 9])}
    return OutOfDistribution(
        others, images=Digits(num_classes=8), batch_size=100, loading=Loading(seed=0, num_workers=0)
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return MLP(64, [32], 8)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("pytorch_ood"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'noiseworks\[ood\]'"):
        OODScores(network(), 8)


def test_a_trained_classifier_tells_other_images_by_all_scores(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_ood")
    module = OODScores(network(), 8, DETECTORS, optimizer=lambda p: torch.optim.Adam(p, lr=0.01))
    require(module, Detector, "a test")
    trainer = quiet(max_epochs=4, default_root_dir=tmp_path, callbacks=[DetectionReport()])
    set_of = data()
    trainer.fit(module, set_of)
    [*measured] = [trainer.test(module, set_of, verbose=False)[0]]
    [noise, other] = module.detections
    assert (noise.target, other.target) == ("noise", "other")
    assert list(noise.confidence) == list(DETECTORS)
    assert measured[0]["test/accuracy"] > 0.85
    for name in DETECTORS:
        assert noise.metrics(name)["auroc"] > 0.7, name
        assert measured[0][f"test/auroc_{name}_noise"] == pytest.approx(noise.metrics(name)["auroc"])
    with torch.no_grad():
        logits = module(torch.stack([set_of.test_set.source.image[row] / 16 for row in noise.index[:5]]))  # type: ignore[union-attr]
    expected = torch.logsumexp(logits, dim=1)
    torch.testing.assert_close(noise.confidence["EnergyBased"][:5].float(), expected)
    torch.testing.assert_close(noise.confidence["MaxSoftmax"][:5].float(), logits.softmax(dim=1).amax(dim=1))
    assert {path.name for path in tmp_path.glob("detection*.csv")} == {"detection.csv", "detection_scores.csv"}
