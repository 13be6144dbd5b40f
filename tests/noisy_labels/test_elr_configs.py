"""The settings of ELR and ELR+ are those of the paper's tables."""

from typing import Any

import pytest

from experiments.claims.arms import Arm
from tests.conformance.experiments import CONFIGS, HEADER_ARMS, experiments, name
from tests.conformance.test_configs import paper_pairs

pytestmark = pytest.mark.nightly  # parsing each of its configs takes half a second


KINDS = {"_asymmetric": "--data.label_noise.class_path", "_cosine": "CosineAnnealingWarmRestarts"}


def parsed(key: str) -> Any:
    """Parse a configuration; with a kind of `KINDS` at the end of its name, add the overrides of its header."""
    kind = next((kind for kind in KINDS if key.endswith(kind)), "")
    path = CONFIGS / f"{key.removesuffix(kind)}.yaml"
    arm = next(arm for arm in HEADER_ARMS if arm.config == path and KINDS[kind] in str(arm)) if kind else Arm(path)
    return experiments().config(*arm.arguments)


def test_there_are_baselines_for_the_papers_tables() -> None:
    pairs = [(name(method.config), baseline.settings) for method, baseline in paper_pairs()]
    noise = {(of, given.get("data.label_noise.class_path", "").rpartition(".")[2]) for of, given in pairs}
    tables = {("elr/cifar10", "AsymmetricCIFAR10"), ("elr/cifar100", "BlocksCIFAR100")}
    tables |= {(f"{method}/cifar{k}", "Symmetric") for method in ("elr", "elr_plus") for k in (10, 100)}
    assert noise == {*tables, ("elr/clothing1m", ""), ("elr/webvision", ""), ("elr/cifar10_resnet20", "Symmetric")}


MULTI_STEP = "torch.optim.lr_scheduler.MultiStepLR"
# epochs, batch size, learning rate, weight decay, milestones, gamma (Liu et al., 2020, appendices G.2 and G.3)
SCHEDULES: dict[str, tuple[int, int, float, float, list[int], float]] = {
    "elr/cifar10": (120, 128, 0.02, 1e-3, [40, 80], 0.01),
    "elr/cifar10_asymmetric": (120, 128, 0.02, 1e-3, [40, 80], 0.01),
    "elr/cifar100": (150, 128, 0.02, 1e-3, [80, 120], 0.01),
    "elr/cifar100_asymmetric": (150, 128, 0.02, 1e-3, [80, 120], 0.01),
    "elr/clothing1m": (10, 64, 0.001, 1e-3, [5], 0.01),
    "elr/webvision": (120, 32, 0.02, 5e-4, [40, 80], 0.01),
    "elr_plus/cifar10": (200, 128, 0.02, 5e-4, [150], 0.1),
    "elr_plus/cifar10_asymmetric": (200, 128, 0.02, 5e-4, [150], 0.1),
    "elr_plus/cifar100": (250, 128, 0.02, 5e-4, [200], 0.1),
    "elr_plus/cifar100_asymmetric": (250, 128, 0.02, 5e-4, [200], 0.1),
    "elr_plus/clothing1m": (15, 64, 0.002, 1e-3, [7], 0.1),
    "elr_plus/webvision": (100, 32, 0.02, 5e-4, [50], 0.1),
}
# lambda and beta (appendix G.4)
TARGETS = {"cifar10": (3, 0.7), "cifar10_asymmetric": (1, 0.9), "cifar100": (7, 0.9), "cifar100_asymmetric": (7, 0.9)}
TARGETS |= {"clothing1m": (3, 0.7), "webvision": (3, 0.7), "cifar10_cosine": (3, 0.7), "cifar100_cosine": (7, 0.9)}
# mixup's alpha, decay of the average, its ramp, ramp of the regularisation, re-weighting (G.4 and the authors' configs)
PLUS = {
    "cifar10": (1, 0.997, 40000, 0, False),
    "cifar10_asymmetric": (1, 0.997, 40000, 0, False),
    "cifar100": (1, 0.997, 40000, 40000, True),
    "cifar100_asymmetric": (1, 0.997, 40000, 40000, True),
    "clothing1m": (1, 0.9999, None, 0, False),
    "webvision": (1.5, 0.997, None, 0, False),
}


@pytest.mark.parametrize("key", SCHEDULES)
def test_schedules_are_the_papers(key: str) -> None:
    config = parsed(key)
    model, data = config.model.init_args, config.data.init_args
    assert (model.optimizer.class_path, model.lr_scheduler.class_path) == ("torch.optim.SGD", MULTI_STEP)
    optimizer, schedule = model.optimizer.init_args, model.lr_scheduler.init_args
    assert optimizer.momentum == 0.9
    found = (optimizer.lr, optimizer.weight_decay, list(schedule.milestones), schedule.gamma)
    assert (config.trainer.max_epochs, data.batch_size, *found) == SCHEDULES[key]
    assert (config.checkpoint.test_checkpoint, config.checkpoint.monitor) == ("best", "val/accuracy")


@pytest.mark.parametrize("key", ["elr/cifar10_cosine", "elr/cifar100_cosine"])
def test_the_cosine_schedule_restarts_every_ten_epochs(key: str) -> None:
    config = parsed(key)
    schedule = config.model.init_args.lr_scheduler
    assert schedule.class_path == "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"
    assert (schedule.init_args.T_0, schedule.init_args.T_mult, schedule.init_args.eta_min) == (10, 1, 0.001)
    assert (config.trainer.max_epochs, config.model.init_args.optimizer.init_args.lr) == (150, 0.02)


@pytest.mark.parametrize("method", ["elr", "elr_plus"])
@pytest.mark.parametrize("data_set", TARGETS)
def test_strengths_are_the_papers(method: str, data_set: str) -> None:
    if method == "elr_plus" and data_set.endswith("cosine"):
        return
    model = parsed(f"{method}/{data_set}").model.init_args
    assert (model.strength, model.momentum) == TARGETS[data_set]
    if method == "elr_plus":
        average = (model.average_decay, model.average_ramp_steps)
        assert (model.mixup_alpha, *average, model.ramp_steps, model.reweight_labels) == PLUS[data_set]


@pytest.mark.parametrize(
    ("key", "batches"), [("elr/clothing1m", 2000), ("cross_entropy/clothing1m", 2000), ("elr_plus/clothing1m", 3000)]
)
def test_epochs_of_clothing1m_have_the_papers_length(key: str, batches: int) -> None:
    assert parsed(key).data.init_args.batches_per_epoch == batches
