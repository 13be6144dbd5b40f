import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from lightning_modules.interfaces import Classifier, SmoothedClassifier
from lightning_modules.losses.mixing import SoftLabels
from lightning_modules.networks.time_conditioned_mlp import TimeConditionedMLP
from lightning_modules.robustness.certificates.statistics import gaussian_radius
from lightning_modules.robustness.rrcm.finetuning import RRCM, pretrained_encoder
from lightning_modules.robustness.rrcm.noise_conditioned import noise_level
from lightning_modules.robustness.rrcm.pretraining import Projector
from tests.command import ROOT
from tests.robustness.rrcm.small import digits_like, pretraining, small_encoder
from tests.robustness.smoothed_training.by_hand import assert_same_with_gradients, loss_by_hand


def test_the_last_norm_may_be_left_behind_and_what_is_missing_is_named(tmp_path: Path) -> None:
    module = pretraining(network=small_encoder(), projector=Projector(12, 10, 6))
    torch.save({"state_dict": module.state_dict()}, tmp_path / "run.ckpt")
    encoder = pretrained_encoder(small_encoder(final_norm=False), str(tmp_path / "run.ckpt"))
    assert torch.equal(encoder.get_parameter("pos_embed"), module.average.get_parameter("pos_embed"))
    with pytest.raises(FileNotFoundError, match=r"no weights at .*elsewhere\.ckpt"):
        pretrained_encoder(small_encoder(), str(tmp_path / "elsewhere.ckpt"))
    with pytest.raises(ValueError, match=r"missing: blocks\.2"):
        pretrained_encoder(small_encoder(depth=3), str(tmp_path / "run.ckpt"))
    torch.save({"state_dict": small_encoder().state_dict()}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="average"):
        pretrained_encoder(small_encoder(), str(tmp_path / "other.ckpt"))


def test_noise_on_pixels_is_twice_the_noise_on_the_trajectory() -> None:
    encoder = small_encoder().double()
    module = RRCM(encoder, num_features=12, num_classes=3, sigma=0.25).double()
    nn.init.normal_(module.network.head.weight)
    assert isinstance(module, SmoothedClassifier)
    assert isinstance(module, Classifier)
    image, noise = torch.rand(4, 1, 8, 8).double(), torch.randn(4, 1, 8, 8).double()
    for sigma, level in ((0.25, noise_level(53, 81)), (0.5, noise_level(48, 81)), (1.0, noise_level(42, 81))):
        x = 2 * image - 1 + 2 * sigma * noise
        time = torch.full((4,), 250 * math.log(level), dtype=torch.float64)
        expected = module.network.head(encoder(x / math.sqrt(level**2 + 0.25), time))
        torch.testing.assert_close(module.smoothed_logits(image, noise, sigma), expected[None])
        assert module.certified_radius([0.9], sigma) == gaussian_radius(0.9, sigma)
    torch.testing.assert_close(module(image + 0.25 * noise), module.smoothed_logits(image, noise, 0.25)[0])


def test_a_step_of_fine_tuning_regularises_independent_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    module = RRCM(TimeConditionedMLP(64, 12, 1), 12, 3, sigma=0.5, num_copies=2, consistency_weight=4.0).double()
    nn.init.normal_(module.network.head.weight)
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    batch = {**digits_like(), "label": torch.tensor([0, 1, 2, 1, 0])}
    torch.manual_seed(1)
    step = module.training_step(batch, 0)  # type: ignore[arg-type]
    torch.manual_seed(1)
    noise = torch.randn(2, 5, 1, 8, 8, dtype=torch.float64)
    logits = torch.stack([module(batch["image"] + 0.5 * e) for e in noise])
    expected = loss_by_hand(logits, batch["label"], 4.0, 0.5)
    assert_same_with_gradients(step["loss"], expected, module.network.parameters())
    torch.testing.assert_close(step["logits"], logits[0])


class Inverted(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 1 - image


def test_training_images_are_augmented_before_mixing_and_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, Any] = {"num_features": 12, "num_classes": 3, "soft_labels": SoftLabels(mixup_alpha=0.8)}
    encoder = TimeConditionedMLP(64, 12, 1)
    plain, viewed = (RRCM(encoder, **kept, view=view).double() for view in (None, Inverted()))
    nn.init.normal_(plain.network.head.weight)
    viewed.load_state_dict(plain.state_dict())
    batch = {**digits_like(), "label": torch.tensor([0, 1, 2, 1, 0])}
    losses = []
    for module, image in ((plain, 1 - batch["image"]), (viewed, batch["image"])):
        monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
        torch.manual_seed(1)
        losses.append(module.training_step({**batch, "image": image}, 0)["loss"])  # type: ignore[arg-type]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_fine_tuning_decays_no_weight(name: str) -> None:
    config = yaml.safe_load((ROOT / "configs" / "rrcm" / f"{name}.yaml").read_text())
    assert config["model"]["init_args"]["optimizer"]["init_args"]["weight_decay"] == 0.0
