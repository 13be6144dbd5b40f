"""The module: training to N:M, averages, exported weights, resuming, and rejections."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.efficiency.nm_sparsity import NMSparsity
from lightning_modules.efficiency.nm_sparsity.flow import Flow, Pattern
from lightning_modules.efficiency.nm_sparsity.masks import nm_mask
from lightning_modules.optim.averages import AveragedWeights
from tests.efficiency.wta_crs.networks import vit
from tests.trainers import quiet

LAYERS = ["*.fc1", "*.fc2"]
FLOW: dict[str, Any] = {
    **{"way": "mdgf_exponential", "decay_rate": 0.5, "gradient": "ste", "dense_epochs": 0, "fine_tune_epochs": 0}
}


def digits() -> LabelledImages:
    return LabelledImages(Digits(train_size=200, num_classes=3), batch_size=16)


def small(**arguments: Any) -> NMSparsity:
    torch.manual_seed(0)
    network = Normalized(vit(), [0.3], [0.4])
    flow = Flow(**{key: arguments.pop(key, default) for key, default in FLOW.items()})
    pattern = Pattern(1, arguments.pop("m", 8), own=arguments.pop("own", {}))
    return NMSparsity(network, 3, pattern, LAYERS, flow, **arguments)


def fitted(epochs: int = 2, **arguments: Any) -> tuple[NMSparsity, Any]:
    module, trainer = small(**arguments), quiet(max_epochs=epochs, limit_train_batches=4)
    trainer.fit(module, datamodule=digits())
    return module, trainer


def test_a_plain_network_of_timm_loads_what_is_exported_and_gives_the_same_logits(tmp_path: Path) -> None:
    module, _ = fitted(own={"*.qkv/v": [2, 4]})
    weights, layers = module.eval().effective_weights()
    save_file(weights, tmp_path / "model.safetensors")
    plain: Any = timm.models.VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, embed_dim=16, depth=2, num_heads=2, num_classes=3
    )
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"))
    image = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(plain.eval()((image - 0.3) / 0.4), module(image), rtol=0, atol=1e-6)
    assert len(layers) == 6
    for name, described in layers.items():
        if name.endswith("qkv"):
            assert described == {"v": {"pattern": "2:4", "along": "inputs"}}
            assert (weights[f"{name}.weight"].chunk(3)[2].view(-1, 4) != 0).sum(dim=1).le(2).all()
        else:
            assert described == {"pattern": "1:8", "along": "inputs"}
            assert (weights[f"{name}.weight"].view(-1, 8) != 0).sum(dim=1).le(1).all()


def test_names_are_the_plain_networks_and_weights_load_before_or_after() -> None:
    before, after, plain = Normalized(vit(), [0.3], [0.4]), small(), Normalized(vit(), [0.3], [0.4])
    assert list(after.network.state_dict()) == list(plain.state_dict())
    before.load_state_dict(plain.state_dict())
    after.network.load_state_dict(plain.state_dict())
    one = NMSparsity(before, 3, Pattern(1, 8), LAYERS, Flow(decay_rate=0.5))
    image = torch.rand(2, 1, 8, 8)
    assert one.eval()(image).equal(after.eval()(image))


def test_pruned_weights_are_trained_straight_through_and_stand_still_when_masked() -> None:
    for gradient, moves in (("ste", True), ("masked", False)):
        module = small(way="sdgf_stepwise", decay_rate=None, gradient=gradient, m=2, optimizer=torch.optim.SGD)
        layer: Any = module.network.get_submodule("network.blocks.0.mlp.fc1")
        weight, pruned = layer.weight.detach().clone(), ~nm_mask(layer.weight, 1, 2)
        trainer = quiet(max_epochs=1, limit_train_batches=1)
        trainer.fit(module, datamodule=digits())
        assert bool((layer.weight != weight)[pruned].any()) == moves
        assert (layer.weight != weight)[~pruned].any()


def test_averaged_weights_are_masked_again() -> None:
    module, _ = fitted(way="ste", decay_rate=None)
    average = AveragedWeights(module.network, lambda update: 0.5)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    average.update(module.network)
    with average.used_by(module.network):
        averaged = dict(module.network.named_parameters())["network.blocks.0.mlp.fc1.weight"].detach().clone()
        weights, _ = module.effective_weights()
    assert weights["blocks.0.mlp.fc1.weight"].equal(averaged * nm_mask(averaged, 1, 8))


@pytest.mark.parametrize("accumulated", [1, 2])
def test_step_and_pattern_come_from_the_trainer_and_go_on_with_it(
    accumulated: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def places(module: NMSparsity, trainer: Any, **options: Any) -> list[tuple[float, Any]]:
        found = []
        step = module.training_step

        def noted(batch: Any, batch_idx: int) -> Any:
            found.append((round(float(module.functions[0].decay), 6), module.functions[0].pattern))
            return step(batch, batch_idx)

        monkeypatch.setattr(module, "training_step", noted)
        trainer.fit(module, datamodule=digits(), **options)
        return found

    options = {"limit_train_batches": 4, "accumulate_grad_batches": accumulated}
    arguments = {"way": "mdgf_linear", "decay_rate": 0.05, "dense_epochs": 1, "fine_tune_epochs": 1}
    whole = places(small(**arguments), quiet(max_epochs=6, **options))
    since = [max(0, batch // accumulated - 4 // accumulated) for batch in range(20)]
    assert [decay for decay, _ in whole] == pytest.approx([1 - 0.05 * step for step in since] + 4 * [0], abs=1e-6)
    arguments |= {"way": "sdgf_stepwise", "decay_rate": None}
    stopped = quiet(max_epochs=10, max_steps=16 // accumulated, **options)
    first = places(small(**arguments), stopped)
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    rest = places(small(**arguments), quiet(max_epochs=10, **options), ckpt_path=tmp_path / "stopped.ckpt")
    expected = [(7, 8), (7, 8), (7, 8), (4, 8), (4, 8), (2, 8), (2, 8), (1, 8), (1, 8), (1, 8)]  # one of which is dense
    assert [pattern for _, pattern in (first + rest)[::4]] == expected


def test_cost_and_second_moment_are_logged() -> None:
    _, trainer = fitted()
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert metrics["train/second_moment"] > 0
    _, sparse = fitted(way="ste", decay_rate=None)
    assert float(sparse.callback_metrics["train/gigaflops_so_far"]) == pytest.approx(
        sparse.max_epochs * float(sparse.callback_metrics["train/gigaflops"])
    )
    ratio = float(sparse.callback_metrics["train/gigaflops"]) / metrics["train/gigaflops"]
    assert 0.4 < ratio < 0.8
    _, plain = fitted(optimizer=torch.optim.SGD)
    assert "train/second_moment" not in plain.callback_metrics


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "flow.decay_rate must be set for way mdgf_exponential"),
        ({"way": "sr_ste", "gradient": "masked"}, "flow.gradient must be ste for way sr_ste, got masked"),
    ],
)
def test_what_does_not_fit_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Flow(**arguments)


def test_a_frozen_layer_and_too_few_epochs_are_named() -> None:
    with pytest.raises(ValueError, match=r"layers: blocks.0.mlp.fc1 is frozen"):
        NMSparsity(vit().requires_grad_(False), 3, Pattern(1, 8), LAYERS, Flow("ste"))
    with pytest.raises(ValueError, match=r"above the sum of flow.dense_epochs 1 and flow.fine_tune_epochs 1, got 2"):
        fitted(dense_epochs=1, fine_tune_epochs=1)
