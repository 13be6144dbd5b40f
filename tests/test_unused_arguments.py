"""An argument that has no effect in a mode is rejected in this mode."""

import ast
from typing import Any

import pytest
from torch import nn

from datamodules.classification.webvision import WebVision
from datamodules.tables.streams import LinearLosses
from lightning_modules.backbones.adaptation import adapt
from lightning_modules.denoising.noiser import NoiSER
from lightning_modules.dynamics.batch_lr.learner import OnlineLearner
from lightning_modules.efficiency.nm_sparsity import NMSparsity
from lightning_modules.efficiency.nm_sparsity.flow import Flow, Pattern
from lightning_modules.networks.mlp import MLP
from lightning_modules.optimization.mbbo import BSVRB
from lightning_modules.optimization.mbbo.blocks import BlockRates
from lightning_modules.optimization.subgm import SubGM
from lightning_modules.probabilistic.singular_density import SingularDensity
from lightning_modules.probabilistic.tester_learner import TesterLearner
from lightning_modules.restoration.sgmse import SGMSE
from lightning_modules.robustness.diffusion_guard import DiffusionGuard
from lightning_modules.sde.samplers import PredictorCorrector
from tests.robustness.diffusion_guard.linear_inpainter import LinearInpainter, guarding
from tests.unused_arguments import Reads, constructor, unused_arguments


def test_no_option_leaves_an_argument_unread_without_a_word() -> None:
    assert unused_arguments() == {}, "reject these with datamodules.arguments.only_with"


def test_the_search_follows_conditions_returns_and_what_stands_for_none() -> None:
    [owner] = ast.parse(
        """
class Filter:
    def __init__(self, kind: Literal["mean", "median", "none"], size=None, rank=0.5, scale=1.0):
        at_least(1, size=size)
        self.kind = kind
        self.size = 3 if size is None else size
        self.rank = rank
        self.scale = scale

    def __call__(self, x):
        if self.kind == "none":
            return x * self.scale
        y = median(x, self.size, self.rank) if self.kind == "median" else mean(x, self.size)
        return y * self.scale
"""
    ).body
    assert isinstance(owner, ast.ClassDef)
    init = constructor(owner)
    assert init is not None
    read = Reads(owner, init).read
    assert read["size", "kind"] == {"mean", "median"}
    assert read["rank", "kind"] == {"median"}
    assert read["scale", "kind"] == {"mean", "median", "none"}


def perceptron(**options: Any) -> NMSparsity:
    return NMSparsity(MLP(32, [4], 2), 2, Pattern(1, 4), ["layers.0"], Flow(**options))


def singular(**options: Any) -> SingularDensity:
    return SingularDensity(MLP(1, [], 2), latent_dim=1, **options)


def guard(**options: Any) -> DiffusionGuard:
    return guarding(LinearInpainter(), **options)


@pytest.mark.parametrize(
    ("make", "mode", "unread", "needed"),
    [
        *((perceptron, {"way": way}, {"decay_rate": 0.1}, "way mdgf") for way in ("ste", "sr_ste", "sdgf_geometric")),
        (guard, {"objective": "encoder"}, {"timestep": 5}, "objective noise_norm"),
        (guard, {"objective": "denoising_error"}, {"timestep": 5}, "objective noise_norm"),
        (guard, {"objective": "random"}, {"iterations": 800}, "an objective other than random"),
        (guard, {"objective": "random"}, {"step_size": 0.1}, "an objective other than random"),
        (guard, {"objective": "random"}, {"augmentation": "single"}, "an objective other than random"),
        (lambda **o: SubGM(4, **o), {"step_rule": "constant"}, {"q": 0.4}, "step_rule quantile"),
        (lambda **o: SubGM(4, **o), {"step_rule": "constant"}, {"rho": 0.9}, "step_rule geometric"),
        (lambda **o: SGMSE(nn.Identity(), **o), {"sampler": "flow"}, {"num_steps": 4}, "sampler predictor_corrector"),
        (PredictorCorrector, {"corrector": "none"}, {"snr": 0.1}, "a corrector"),
        (lambda **o: NoiSER(nn.Identity(), **o), {"source": "palette"}, {"noise_mean": 1.0}, "source noise"),
        (lambda **o: NoiSER(nn.Identity(), **o), {"source": "colour"}, {"block": 4}, "source palette"),
        (OnlineLearner, {"rule": "rayleigh"}, {"signed": True}, "another rule than rayleigh"),
        (LinearLosses, {"drift": "signs"}, {"changes": 3}, "drift turns or jumps"),
        (WebVision, {}, {"imagenet_dir": "there"}, "test_on imagenet"),
        (lambda **o: TesterLearner(3, **o), {"tests": False}, {"delta": 0.1}, "tests true"),
        (lambda **o: BSVRB(5, 2, rates=BlockRates(**o)), {}, {"tau_v": 0.5}, "variant v2"),
        (
            lambda **o: SingularDensity(MLP(1, [], 2), 1, **o),
            {"perturbation": 0.1},
            {"smoothness": 1.0},
            "perturbation",
        ),
        (lambda **o: adapt(MLP(1, [], 2), **o), {}, {"trainable": ["layers"]}, "tuning lora or frozen"),
    ],
)
def test_an_argument_that_nothing_reads_is_rejected(make: Any, mode: Any, unread: Any, needed: str) -> None:
    make(**mode)
    [(key, value)] = unread.items()
    message = f"{key} is used only with {needed}.*: .*, got {value}".replace("[", r"\[")
    with pytest.raises(ValueError, match=rf"^(\w+\.)?{message}"):
        make(**mode, **unread)
