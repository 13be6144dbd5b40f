import copy
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn
from transformers import ResNetConfig

from datamodules.files.module_hash import hash_of_module
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.backbones.resized import Resized
from lightning_modules.networks.mlp import MLP
from lightning_modules.robustness.adaptive_smoothing.mixture import AlphaRange, MixingPerceptron, Mixture
from lightning_modules.robustness.denoised_smoothing import DenoisedSmoothing
from lightning_modules.robustness.drs.checkerboard import Partition
from lightning_modules.robustness.drs.module import DRS
from lightning_modules.robustness.rrcm.noise_conditioned import NoiseConditionedClassifier


def test_the_hash_sees_every_weight() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).to(torch.bfloat16)
    seen = {hash_of_module(module)}
    for tensor in module.state_dict().values():
        tensor.view(-1)[-1] += 1
        seen.add(hash_of_module(module))
    assert len(seen) == 1 + len(module.state_dict())


def network() -> nn.Module:
    torch.manual_seed(0)
    return MLP(64, [4], 3)


def denoised(prediction: str) -> nn.Module:
    scheduler = DDPMScheduler(num_train_timesteps=10, prediction_type=prediction)
    return DenoisedSmoothing(network(), nn.Identity(), scheduler, num_classes=3)


def mixture(**options: Any) -> nn.Module:
    names = {"accurate_features": ["layers.1"], "robust_features": ["layers.1"]}
    torch.manual_seed(1)
    return Mixture(network(), network(), MixingPerceptron(8, [2]), **names, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "different",
    [
        [Normalized(network(), [0.5], [1.0]), Normalized(network(), [0.4], [1.0]), Normalized(network(), [0.5], [0.9])],
        [Resized(network(), 8), Resized(network(), 16), Resized(network(), 8, "bicubic")],
        [DRS(network(), network(), 3), DRS(network(), network(), 3, partition=Partition(layout="official"))],
        [DRS(network(), network(), 3), DRS(network(), network(), 3, partition=Partition("gather_nearest"))],
        [denoised("epsilon"), denoised("v_prediction"), denoised("sample")],
        [NoiseConditionedClassifier(network(), 3, 3, sigma) for sigma in (0.25, 0.5)],
        [mixture(), mixture(alpha=0.9), mixture(evaluation=AlphaRange(gamma_bias=1.0)), mixture(policy_graph=False)],
        [nn.Sequential(nn.Linear(2, 2), activation) for activation in (nn.ReLU(), nn.SiLU())],
    ],
)
def test_the_hash_sees_what_is_in_no_saved_tensor(different: list[nn.Module]) -> None:
    for module in different:
        for parameter in module.parameters():
            nn.init.constant_(parameter, 0.5)
    assert len({hash_of_module(module) for module in different}) == len(different)
    assert different[0].state_dict().keys() == different[1].state_dict().keys()


class Attributes(nn.Module):
    def __init__(self, said: Any = "", **attributes: Any) -> None:
        super().__init__()
        self.extra_repr = lambda: f"function={said}"  # type: ignore[method-assign]
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"options": {"scale": 1.0}}, {"options": {"scale": 2.0}}),
        ({"options": {"mean": [0.5, (1, 2)]}}, {"options": {"mean": [0.5, (1, 3)]}}),
        ({"_out_features": ["stage3"]}, {"_out_features": ["stage4"]}),
        ({"kept": {"a", "b"}}, {"kept": {"a", "c"}}),
        ({"act": nn.functional.relu}, {"act": nn.functional.gelu}),
        ({"computes_in": torch.float32}, {"computes_in": torch.float16}),
        ({"config": ResNetConfig(layer_type="basic")}, {"config": ResNetConfig(layer_type="bottleneck")}),
    ],
)
def test_attributes_are_seen_where_they_are_asked_for(one: Any, other: Any) -> None:
    modules = [Attributes(**attributes) for attributes in (one, copy.deepcopy(one), other)]
    first, again, different = (hash_of_module(module, attributes=True) for module in modules)
    assert first == again != different
    assert len({hash_of_module(module) for module in modules}) == 1


def test_the_mode_the_process_and_its_addresses_do_not_count() -> None:
    norm = nn.BatchNorm1d(3)
    assert hash_of_module(norm, attributes=True) == hash_of_module(norm.eval(), attributes=True)
    assert list({0, 8}) != list({8, 0})
    for alike in (Attributes(kept={0, 8}), Attributes(kept={8, 0})), [Attributes(thing=object()) for _ in range(2)]:
        one, other = (hash_of_module(each, attributes=True) for each in alike)
        assert one == other
    assert hash_of_module(Attributes(lambda: 0)) == hash_of_module(Attributes(lambda: 0))
    assert hash_of_module(mixture()) == hash_of_module(mixture())
