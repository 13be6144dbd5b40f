import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn

from callbacks.early_learning.watch import EarlyLearning
from callbacks.image_grid import ImageGrid
from datamodules.corruptions.mask_noise import ErosionDilation
from datamodules.segmentation.shapes import Shapes
from lightning_modules.baselines.segmentation_cross_entropy import SegmentationCrossEntropy
from lightning_modules.noisy_labels.adele.correction import EvaluationPassCorrection, TrainingPassCorrection
from lightning_modules.noisy_labels.adele.label_rules import (
    categories_due,
    confident_prediction,
    merged_label,
    updated_label,
)
from lightning_modules.noisy_labels.adele.module import ADELE
from lightning_modules.noisy_labels.adele.multi_scale import (
    confident_images,
    consistency,
    mixture,
    multi_scale_cross_entropy,
    multi_scale_logits,
)
from lightning_modules.training.parameter_groups import learning_rate_groups, scale_learning_rates

B, K, H, W = 3, 4, 5, 6
THIRDS = torch.full((3,), 1 / 3, dtype=torch.float64)


@pytest.fixture
def logits() -> list[Tensor]:
    torch.manual_seed(0)
    return [2 * torch.randn(B, K, H, W, dtype=torch.float64, requires_grad=True) for _ in range(3)]


@pytest.fixture
def label() -> Tensor:
    torch.manual_seed(1)
    label = torch.randint(K, (B, H, W))
    label[:, 0, :2] = 255
    return label


# the losses


def test_cross_entropy_of_equal_scales_is_that_at_temperature_three_for_each(label: Tensor) -> None:
    z = torch.randn(B, K, H, W, dtype=torch.float64)
    known = label[:, 1:]
    expected = 3 * F.cross_entropy(z[:, :, 1:] / 3, known)
    torch.testing.assert_close(multi_scale_cross_entropy([z[:, :, 1:]] * 3, known, THIRDS), expected)


def test_ignored_pixels_count_in_the_mean_with_no_loss(logits: list[Tensor], label: Tensor) -> None:
    weight = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    expected = sum(
        -(w * z).log_softmax(1).gather(1, label.clamp(max=K - 1)[:, None])[:, 0][label < 255].sum() / label.numel()
        for w, z in zip(weight, logits, strict=True)
    )
    torch.testing.assert_close(multi_scale_cross_entropy(logits, label, weight), expected)


def test_consistency_is_the_sum_of_divergences_from_the_mixture_in_confident_images(
    logits: list[Tensor], label: Tensor
) -> None:
    weight = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    p = [z.detach().softmax(1) for z in logits]
    q = sum(w * each for w, each in zip(weight, p, strict=True)).clamp(1e-3, 1 - 1e-3)
    highest = q.amax(1).masked_fill(label == 255, 0).flatten(1).amax(1)
    threshold = float(highest.sort().values[1])  # two of the three images
    expected = 0.0
    for b in range(B):
        if highest[b] >= threshold:
            for each in p:
                expected += float((each[b] * (each[b] / q[b]).log()).sum()) / (B * H * W)
    assert consistency(logits, label, weight, threshold).item() == pytest.approx(expected, rel=1e-12)


def test_gradients_flow_through_predictions_mixture_and_weights(label: Tensor) -> None:
    torch.manual_seed(2)
    z = torch.randn(3, 2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    v = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, v: consistency(list(z), label[:2, 1:3, :2], v.softmax(0), 0.3), (z, v))


def test_agreeing_scales_are_consistent_up_to_the_clamp(label: Tensor) -> None:
    z = torch.randn(B, K, H, W, dtype=torch.float64)
    assert consistency([z] * 3, label, THIRDS, 0.0).abs() < 1e-10
    certain = 50 * F.one_hot(torch.zeros(B, H, W, dtype=torch.int64), K).movedim(-1, 1).double()
    assert 0 < consistency([certain] * 3, label, THIRDS, 0.0) < 2e-2


def test_consistency_does_not_depend_on_the_order_of_equal_weights(logits: list[Tensor], label: Tensor) -> None:
    reordered = consistency([logits[2], logits[0], logits[1]], label, THIRDS, 0.5)
    torch.testing.assert_close(reordered, consistency(logits, label, THIRDS, 0.5))


def test_the_gate_is_per_image_and_sees_no_ignored_pixel(logits: list[Tensor], label: Tensor) -> None:
    assert consistency(logits, label, THIRDS, 1.0) == 0  # q is at most 0.999
    assert consistency(logits, torch.full_like(label, 255), THIRDS, 0.8) == 0
    mixed = torch.full((2, K, 2, 2), 0.1)
    mixed[0, 2, 1, 1] = 0.8
    ignored = torch.zeros(2, 2, 2, dtype=torch.int64)
    assert confident_images(mixed, ignored, 0.8).tolist() == [1, 0]
    ignored[0, 1, 1] = 255
    assert confident_images(mixed, ignored, 0.8).tolist() == [0, 0]
    torch.testing.assert_close(mixture([mixed] * 3, THIRDS.float()), mixed)


def test_half_precision_logits_give_single_precision_terms_and_finite_gradients() -> None:
    z = (200 * torch.randn(1, K, 2, 2)).half().requires_grad_()
    label = torch.zeros(1, 2, 2, dtype=torch.int64)
    terms = [consistency([z, -z, z], label, THIRDS.float(), 0.5)]
    terms.append(multi_scale_cross_entropy([z, -z, z], label, THIRDS.float()))
    assert all(term.dtype == torch.float32 for term in terms)
    sum(terms).backward()
    assert z.grad.isfinite().all()


def test_each_scale_is_seen_and_its_logits_are_brought_back() -> None:
    sizes = []

    def network(image: Tensor) -> Tensor:
        sizes.append(tuple(image.shape[-2:]))
        return torch.cat([image, -image], dim=1)[..., ::2, ::2]  # smaller than the image, as some networks' logits

    image = torch.rand(2, 1, 40, 20, dtype=torch.float64)
    found = multi_scale_logits(network, image, [0.7, 1.0, 1.5], flip=True)
    assert sizes == [(28, 14), (28, 14), (40, 20), (40, 20), (60, 30), (60, 30)]
    assert {tuple(z.shape) for z in found} == {(2, 2, 40, 20)}


def test_a_linear_image_has_the_same_logits_at_all_scales_and_mirrored() -> None:
    """With aligned corners, bilinear resizing keeps what is linear in place."""
    ramp = torch.linspace(0, 1, 41, dtype=torch.float64)
    image = (ramp[:, None] + 2 * ramp)[None, None]
    for z in multi_scale_logits(lambda x: 3 * x, image, [0.7, 1.0, 1.5], flip=True):
        torch.testing.assert_close(z, 3 * image)


# the rules


def random_case(seed: int, num_images: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Labels with few categories in an image and some ignored pixels, confident probabilities, categories on."""
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(K, (num_images, H, W), generator=random)
    absent = torch.randint(K, (num_images, 1, 1), generator=random)
    label = torch.where((label == absent) & (absent > 0), 0, label)
    label[0] = 0
    label[torch.rand(num_images, H, W, generator=random) < 0.1] = 255
    probability = (3 * torch.randn(num_images, K, H, W, generator=random)).softmax(1)
    on = torch.rand(K, generator=random) < 0.5
    return label, probability, on


def merged_one_by_one(label: np.ndarray, p: np.ndarray, on: set[int], tau_fg: float, tau_bg: float) -> np.ndarray:
    new = label.copy()
    shown = set(np.unique(label))
    if not shown & on:
        return new
    for at in np.ndindex(label.shape):
        k = int(p[:, at[0], at[1]].argmax())
        confident = p[1:, at[0], at[1]].max() > tau_fg or p[0, at[0], at[1]] > tau_bg
        if confident and label[at] in on | {0} and k in on | {0} and k in shown | {0}:
            new[at] = k
    return new


def updated_one_by_one(label: np.ndarray, p: np.ndarray, on: set[int], tau: float) -> np.ndarray:
    shown = set(np.unique(label)) - {255}
    if not shown & on and shown - {0}:
        return label
    new = label.copy()
    for at in np.ndindex(label.shape):
        k = int(p[:, at[0], at[1]].argmax())
        if p[k, at[0], at[1]] > tau and k in on | {0} and (k in shown or not shown - {0}):
            new[at] = k
    known = label != 255
    before, after = ((each != 0)[known].sum() for each in (label, new))
    return label if after < 0.5 * before and (new == 0)[known].mean() > 0.95 else new


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_rules_equal_their_definition_pixel_by_pixel(seed: int) -> None:
    label, p, on = random_case(seed)
    categories = set(on.nonzero().flatten().tolist()) - {0}
    merged = merged_label(label, confident_prediction(p, 0.7, 0.6), on)
    highest, k = p.max(1)
    updated = updated_label(label, k, highest, on, 0.6)
    for b in range(len(label)):
        y, each = label[b].numpy(), p[b].numpy()
        np.testing.assert_array_equal(merged[b], merged_one_by_one(y, each, categories, 0.7, 0.6))
        np.testing.assert_array_equal(updated[b], updated_one_by_one(y, each, categories, 0.6))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_merging_is_idempotent_and_introduces_no_category(seed: int) -> None:
    label, p, on = random_case(seed)
    predicted = confident_prediction(p, 0.5, 0.5)
    merged = merged_label(label, predicted, on)
    assert torch.equal(merged_label(merged, predicted, on), merged)
    for before, after in zip(label, merged, strict=True):
        assert set(after.unique().tolist()) <= set(before.unique().tolist()) | {0}
    assert torch.equal(merged_label(label, predicted, torch.tensor([True, False, False, False])), label)


def test_a_confidence_of_exactly_tau_is_not_enough() -> None:
    p = torch.zeros(1, K, 1, 3, dtype=torch.float64)
    p[0, 1, 0, :2], p[0, 2, 0, :2] = torch.tensor([0.75, 0.76]), torch.tensor([0.25, 0.24])
    p[0, 0, 0, 2], p[0, 1, 0, 2] = 0.75, 0.25
    assert confident_prediction(p, 0.75, 0.75).tolist() == [[[255, 1, 255]]]
    assert confident_prediction(p, 0.75, 0.7).tolist() == [[[255, 1, 0]]]
    label, on = torch.tensor([[[2, 2, 1]]]), torch.tensor([False, True, True, False])
    highest, k = p.max(1)
    assert updated_label(label, k, highest, on, 0.75).tolist() == [[[2, 1, 1]]]


def test_update_skips_images_that_would_nearly_lose_their_foreground() -> None:
    label = torch.zeros(2, 10, 10, dtype=torch.int64)
    label[0, 0, :9], label[1, :2] = 1, 1  # 9 and 20 pixels of foreground, of 100
    k = torch.zeros_like(label)
    k[0, 0, :4], k[1, 0, :9] = 1, 1  # 4 and 9 remain: 96 and 91 of background
    on = torch.tensor([False, True])
    certain = torch.ones(2, 10, 10)
    new = updated_label(label, k, certain, on, 0.8)
    assert torch.equal(new[0], label[0])
    assert torch.equal(new[1], k[1])
    filled = [F.pad(each, (0, 7, 0, 3), value=value) for each, value in ((label, 255), (k, 0))]
    assert torch.equal(updated_label(*filled, torch.ones(2, 13, 17), on, 0.8)[:, :10, :10], new)


def test_background_enters_an_image_that_shows_none_by_merging_alone() -> None:
    label, k = torch.ones(1, 1, 3, dtype=torch.int64), torch.tensor([[[0, 1, 2]]])
    on = torch.tensor([False, True, True])
    assert merged_label(label, k, on).tolist() == [[[0, 1, 1]]]
    assert updated_label(label, k, torch.ones(1, 1, 3), on, 0.8).tolist() == [[[1, 1, 1]]]


def test_update_gives_images_of_background_alone_any_category_that_is_on() -> None:
    label, k = torch.zeros(1, 1, 3, dtype=torch.int64), torch.tensor([[[1, 2, 0]]])
    on = torch.tensor([False, True, False])
    assert updated_label(label, k, torch.ones(1, 1, 3), on, 0.8).tolist() == [[[1, 0, 0]]]


def test_a_category_is_corrected_at_the_first_epoch_of_each_stretch_of_ten_at_which_it_has_ended() -> None:
    """Categories 1 and 2 end at epochs 5 and 12, counted from 1; for 1 the test says no again from 18 to 23."""
    corrected = torch.zeros(3, dtype=torch.bool)
    found: dict[int, list[int]] = {}
    for number in range(1, 41):
        ended = torch.tensor([False, number >= 5 and not 18 <= number <= 23, number >= 12])
        on, corrected = categories_due(ended, corrected, number - 1, 10)
        if on.any():
            found[number] = on.nonzero().flatten().tolist()
    assert found == {5: [1], 10: [1], 12: [2], 20: [2], 24: [1], 30: [1, 2], 40: [1, 2]}


# the optimizer


def test_new_layers_and_biases_learn_faster_and_norms_do_not() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.Conv2d(2, 3, 1)))
    optimizer = torch.optim.SGD(learning_rate_groups(network, ["2"]), lr=0.5, weight_decay=0.1)
    scale_learning_rates(optimizer)
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    first, last = network[0], network[2][0]
    assert found == {first.weight: (0.5, 0.1), first.bias: (1, 0), last.weight: (5, 0.1), last.bias: (10, 0)}
    assert {name for name, p in network.named_parameters() if not p.requires_grad} == {"1.weight", "1.bias"}
    with pytest.raises(ValueError, match=r"new_layers.*'head'"):
        learning_rate_groups(network, ["head"])


class Tokens(nn.Module):
    """Has parameters of its own, attention, whose input weights are no layer's, and a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)
        self.shared = self.head
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_every_parameter_that_is_trained_is_in_one_group() -> None:
    network = Tokens()
    names = {parameter: name for name, parameter in network.named_parameters()}
    found = {
        group["lr_factor"]: [names[p] for p in group["params"]] for group in learning_rate_groups(network, ["head"])
    }
    assert found == {
        1: ["position", "attention.in_proj_weight", "attention.out_proj.weight"],
        2: ["attention.in_proj_bias", "attention.out_proj.bias"],
        10: ["head.weight"],
        20: ["head.bias"],
    }
    in_a_group = {name for group in found.values() for name in group}
    assert {name for name, p in network.named_parameters() if p.requires_grad} == in_a_group


# the module

NUM_TRAIN = 14


class SmallSegmenter(nn.Module):
    """Two convolutions without BatchNorm, whose weights depend on nothing."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(3)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=random)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image - 0.5)


class SaveAt(Checkpoint):
    """Writes one checkpoint after a batch, and one at the end."""

    def __init__(self, directory: Path, epoch: int = -1, batch: int = -1) -> None:
        self.directory, self.epoch, self.batch = directory, epoch, batch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if (trainer.current_epoch, args[-1]) == (self.epoch, self.batch):
            trainer.save_checkpoint(self.directory / "within.ckpt")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.directory / "end.ckpt")


TRAINING_PASS = {"foreground_threshold": 0.4, "background_threshold": 0.4, "every_n_epochs": 2}
EVALUATION_PASS = {"threshold": 0.4, "scales": [0.75, 1.0], "flip_from_epoch": 3}


def small_adele(rule: str, **settings: Any) -> ADELE:
    """Corrects labels from epoch 2 on, when with r = 0 early learning ends."""
    correction = TrainingPassCorrection(**TRAINING_PASS) if rule == "training" else None
    if rule == "evaluation":
        correction = EvaluationPassCorrection(**EVALUATION_PASS)
    settings = {"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.2), "learn_scale_weights": True} | settings
    # Lightning loads a checkpoint before it makes the module double, which would round what is loaded.
    return ADELE(SmallSegmenter(), 3, correction=correction, **settings).double()


def fit(
    module: LightningModule,
    directory: Path,
    *callbacks: Any,
    epochs: int = 5,
    processes: int = 1,
    resume: Path | None = None,
    **settings: Any,
) -> Trainer:
    """Trains on 14 images in batches of 5, 5 and 4, in double precision."""
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        precision="64-true",
        max_epochs=epochs,
        default_root_dir=directory,
        callbacks=[EarlyLearning(r=0.0, reference="current", background=0), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        **{"logger": False} | settings,
    )
    data = Shapes(5, ErosionDilation(1, 1), num_train=NUM_TRAIN, num_test=2, image_size=16, seed=0)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return trainer


def corrections(checkpoint: Path) -> dict[str, Tensor]:
    return torch.load(checkpoint, weights_only=True)["Shapes"]["corrected_masks"]


@pytest.fixture(scope="module", params=["training", "evaluation"])
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    directory = tmp_path_factory.mktemp(request.param)
    fit(small_adele(request.param), directory, SaveAt(directory, epoch=3, batch=1))
    return request.param, directory


def assert_same_end(one: Path, two: Path) -> None:
    first, second = (torch.load(path / "end.ckpt", weights_only=True) for path in (one, two))
    for key, value in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][key], value, rtol=0, atol=1e-10, msg=key)
    for key, value in first["Shapes"]["corrected_masks"].items():
        assert torch.equal(second["Shapes"]["corrected_masks"][key], value), key


def test_a_run_that_was_killed_within_an_epoch_ends_as_if_it_had_not_been(
    uninterrupted: tuple[str, Path], tmp_path: Path
) -> None:
    rule, directory = uninterrupted
    saved = torch.load(directory / "within.ckpt", weights_only=True)["training_predictions"]
    assert len(saved.get("index", [])) == (10 if rule == "training" else 0)
    fit(small_adele(rule), tmp_path, SaveAt(tmp_path), resume=directory / "within.ckpt")
    assert_same_end(directory, tmp_path)


def labels(trainer: Trainer) -> tuple[Tensor, Tensor, Tensor]:
    """Images, given labels and labels as they now are."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batches = [trainer.strategy.batch_to_device(batch) for batch in data.training_images_dataloader()]
    image, old, new = (torch.cat([batch[key] for batch in batches]) for key in ("image", "original_label", "label"))
    return image, old, new


def test_labels_are_updated_from_the_given_ones_by_the_last_weights(tmp_path: Path) -> None:
    module = small_adele("evaluation")
    module.correction = EvaluationPassCorrection(threshold=0.9, scales=[0.75, 1.0], flip_from_epoch=3)
    trainer = fit(module, tmp_path, epochs=4)  # the last epoch is the first with mirror images
    image, old, new = labels(trainer)

    def updated(temperature: float, flip: bool) -> Tensor:
        with torch.no_grad():
            z = torch.stack(multi_scale_logits(module.network, image, [0.75, 1.0], flip))
        probability, k = (z.mean(0) / temperature).softmax(1).max(1)
        return updated_label(old, k, probability, torch.tensor([False, True, True]), 0.9)

    assert torch.equal(new, updated(3, flip=True))
    for other in (old, updated(1, flip=True), updated(3, flip=False)):
        assert (new != other).any()
    assert module.training


def test_labels_are_merged_with_what_was_predicted_in_training(tmp_path: Path) -> None:
    """Nothing is learned, so that predictions do not change; corrections accumulate, here to no effect."""
    module = small_adele("training", optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0))
    trainer = fit(module, tmp_path, epochs=4)
    image, old, new = labels(trainer)
    with torch.no_grad():
        predicted = confident_prediction(module(image).softmax(1), 0.4, 0.4)
    assert torch.equal(new, merged_label(old, predicted, torch.tensor([False, True, True])))
    assert (new != old).any()
    assert trainer.callback_metrics["early_learning/ended"] == 2


def test_the_loss_is_that_of_the_definition(tmp_path: Path) -> None:
    module = small_adele("training", consistency_weight=0.7, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0))
    trainer = fit(module, tmp_path, epochs=1)
    image, old, _ = labels(trainer)
    z = multi_scale_logits(module.network, image, [0.7, 1.0, 1.5])
    cross_entropy = multi_scale_cross_entropy(z, old, THIRDS)
    regular = consistency(z, old, THIRDS, 0.8)
    assert trainer.callback_metrics["train/cross_entropy"].item() == pytest.approx(cross_entropy.item(), rel=1e-6)
    assert trainer.callback_metrics["train/consistency"].item() == pytest.approx(regular.item(), rel=1e-6)
    expected = (cross_entropy + 0.7 * regular).item() / 3
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(expected, rel=1e-6)


def test_one_scale_without_consistency_and_correction_is_the_baseline(tmp_path: Path) -> None:
    plain = SegmentationCrossEntropy(SmallSegmenter(), 3, optimizer=lambda p: torch.optim.SGD(p, lr=0.2))
    alone = ADELE(
        SmallSegmenter(), 3, scales=[1.0], consistency_weight=0, optimizer=lambda p: torch.optim.SGD(p, lr=0.2)
    )
    for name, module in (("plain", plain), ("alone", alone)):
        fit(module, tmp_path / name, epochs=2)
    for ours, theirs in zip(alone.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_weights_of_the_scales_are_trained_if_asked_for_and_without_weight_decay(tmp_path: Path) -> None:
    for learn in (True, False):
        module = small_adele("none", learn_scale_weights=learn)
        fit(module, tmp_path, epochs=1)
        assert bool((module.scale_weights == 1).all()) != learn
    module = small_adele(
        "none", learn_scale_weights=True, optimizer=lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=0.1)
    )
    [optimizer], _ = module.configure_optimizers()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_pictures_are_drawn_when_early_learning_ends_and_at_the_end(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger
    from matplotlib.image import imread

    logger = CSVLogger(tmp_path, name="", version="")
    trainer = fit(small_adele("training"), tmp_path, ImageGrid("label_correction", "train", 3), epochs=3, logger=logger)
    found = sorted(path.name for path in Path(str(trainer.log_dir), "figures").glob("label_*"))
    assert found == ["label_correction.png", "label_correction_epoch_002.png"]
    picture = imread(Path(str(trainer.log_dir), "figures", found[1]))
    assert min(picture.shape[:2]) > 300
    assert picture[..., :3].std() > 0.05


# what is refused


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scales", [0.7, 1.5]),
        ("scales", [1.0, 0.0]),
        ("consistency_weight", -1.0),
        ("consistency_threshold", 1.5),
        ("lr_interval", "batch"),
        ("new_layers", ["head"]),
    ],
)
def test_bad_arguments_are_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        ADELE(SmallSegmenter(), 3, **{key: value})


@pytest.mark.parametrize(
    ("rule", "key", "value"),
    [
        (TrainingPassCorrection, "foreground_threshold", 1.5),
        (TrainingPassCorrection, "background_threshold", -0.1),
        (TrainingPassCorrection, "every_n_epochs", 0),
        (EvaluationPassCorrection, "threshold", math.inf),
        (EvaluationPassCorrection, "scales", []),
        (EvaluationPassCorrection, "temperature", 0.0),
        (EvaluationPassCorrection, "flip_from_epoch", -1),
    ],
)
def test_bad_settings_of_the_correction_are_named(rule: Any, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        rule(**{key: value})


def test_correction_needs_someone_who_says_when_and_whole_images() -> None:
    class Data:
        def correct_labels(self, index: Tensor, label: Tensor) -> None: ...

    class Mine(EarlyLearning):
        """A user's own, which says when as well."""

    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module = small_adele("training")
    module.trainer = trainer
    trainer.datamodule = object()  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="correct_labels"):
        module.setup("fit")
    trainer.datamodule = data = Data()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="EarlyLearning"):
        module.setup("fit")
    trainer.callbacks.append(Mine())  # type: ignore[attr-defined]
    module.setup("fit")
    data.train_set = type("Set", (), {"source": type("Source", (), {"num_uniform": 3})})  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="crops"):
        module.setup("fit")
