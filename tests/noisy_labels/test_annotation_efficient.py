import copy
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import Tensor, nn
from torch.multiprocessing import ProcessRaisedException

from callbacks.guards.seeding import SeedEveryBatch
from datamodules.segmentation.ellipse_images import EllipseImages
from datamodules.segmentation.ellipses import EllipseShapes
from datamodules.segmentation.unpaired_masks import UnpairedMasks
from lightning_modules.losses.segmentation import weighted_dice
from lightning_modules.networks.cycle_generator import ResNetGenerator, UNetGenerator
from lightning_modules.networks.mlp import MLP
from lightning_modules.networks.patch_discriminator import PatchDiscriminator
from lightning_modules.networks.shape_vae import ShapeVAE
from lightning_modules.networks.unet import UNet
from lightning_modules.noisy_labels.annotation_efficient.label_quality import (
    MeanDice,
    best_part,
    dice,
    label_quality,
    without_holes_and_islands,
)
from lightning_modules.noisy_labels.annotation_efficient.module import (
    AnnotationEfficient,
    mean_over_kept,
)
from lightning_modules.noisy_labels.annotation_efficient.stages import Stages, constant_then_linear
from lightning_modules.noisy_labels.annotation_efficient.translation import (
    ChannelCalibration,
    Fakes,
    Translation,
    cycle_term,
    discriminator_loss,
    generator_terms,
    held_fixed,
    judged_false,
    judged_real,
)
from tests.experiments.test_resume import assert_same

QUIET: dict[str, Any] = {
    **{"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0},
    **{"accelerator": "cpu", "precision": "64-true", "use_distributed_sampler": False, "enable_checkpointing": False},
}


def translation(shape: bool = True, calibrated: bool = True, mask_noise: float = 0.0) -> Translation:
    torch.manual_seed(0)
    return Translation(
        ResNetGenerator(1, 1, 4, 1),
        UNetGenerator(1, 1, 4, 2),
        PatchDiscriminator(1, 4, 2),
        PatchDiscriminator(1, 4, 2),
        MLP(3, [32], 1) if shape else None,
        mask_noise,
        calibrated,
    ).double()


def vae() -> ShapeVAE:
    torch.manual_seed(1)
    return ShapeVAE(32, 3, (4, 4, 4, 4)).double()


def images_and_masks(number: int = 3) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    image = 2 * torch.rand(number, 1, 32, 32, generator=random, dtype=torch.float64) - 1
    return image, EllipseShapes().masks(torch.arange(number), 32, seed=0)[:, None].double()


# calibration


def test_at_first_calibration_leaves_everything_as_it_is() -> None:
    networks, (image, _) = translation(), images_and_masks()
    assert isinstance(networks.calibration, ChannelCalibration)
    assert torch.equal(networks.calibration(torch.randn(2, 16, 5, 5).double()), torch.ones(2, 4, 1, 1).double())
    assert torch.equal(networks(image), networks.mask_generator(image))


def test_calibration_is_the_two_passes_of_the_definition() -> None:
    networks, (image, _) = translation(), images_and_masks()
    assert networks.calibration is not None
    first, last = (layer for layer in networks.calibration.layers if isinstance(layer, nn.Conv2d))
    nn.init.normal_(last.weight)
    nn.init.normal_(last.bias)
    h = networks.mask_discriminator.forward_features(networks.mask_generator(image).sigmoid())  # type: ignore[operator]
    pooled = h.mean(dim=(2, 3))
    hidden = (pooled @ first.weight[:, :, 0, 0].T + first.bias).relu()
    a = (hidden @ last.weight[:, :, 0, 0].T + last.bias).sigmoid()
    seen: list[Tensor] = []
    handle = networks.mask_generator.last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    logits = networks(image)
    handle.remove()
    features = networks.mask_generator.forward_features(image)  # type: ignore[operator]
    torch.testing.assert_close(seen[-1], 2 * a[:, :, None, None] * features)
    assert not torch.allclose(logits, networks.mask_generator(image))


def test_nothing_flows_back_through_what_guides_the_calibration() -> None:
    networks, (image, _) = translation(), images_and_masks()
    assert networks.calibration is not None
    nn.init.normal_(networks.calibration.layers[-1].weight)  # type: ignore[arg-type]
    networks(image).sum().backward()
    assert all(parameter.grad is None for parameter in networks.mask_discriminator.parameters())
    assert all(parameter.grad is not None for parameter in networks.calibration.parameters())


# losses


def test_least_squares_terms() -> None:
    ones, zeros = torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    assert judged_real(ones) == judged_false(zeros) == 0
    assert judged_real(zeros) == judged_false(ones) == 1
    assert judged_real(torch.tensor([3.0, 1.0])) == 2


def test_generators_that_are_judged_real_have_no_adversarial_loss() -> None:
    networks, (image, mask) = translation(), images_and_masks()
    for discriminator in networks.discriminators():
        last = discriminator.last if isinstance(discriminator, PatchDiscriminator) else discriminator.layers[-1]
        nn.init.zeros_(last.weight)  # type: ignore[arg-type, union-attr]
        nn.init.ones_(last.bias)  # type: ignore[arg-type, union-attr]
    terms, fakes = generator_terms(networks, vae(), image, mask, 0.5)
    assert {name for name, term in terms.items() if term == 0} == {"image", "mask", "shape"}
    # Such a discriminator is right of the real ones and wrong of the false ones.
    assert discriminator_loss(networks, vae(), image, mask, fakes).item() == 3 * 0.5


class Negative(nn.Module):
    """Images are masks from -1 to 1: x = 2z - 1. The logits are large, so that sigmoid and tanh are 0 or 1 and -1 or
    1."""

    def forward(self, image: Tensor) -> Tensor:
        return 100 * (image if image.min() < 0 else 2 * image - 1)


def test_inverse_generators_have_no_cycle_loss() -> None:
    networks, (_, mask) = translation(calibrated=False), images_and_masks()
    networks.mask_generator = networks.image_generator = Negative()
    image = 2 * mask.flip(0) - 1
    terms, fakes = generator_terms(networks, None if networks.shape_discriminator is None else vae(), image, mask, 0.5)
    assert terms["cycle"] < 1e-12
    torch.testing.assert_close(fakes.image, 2 * mask - 1)
    torch.testing.assert_close(fakes.mask, mask.flip(0))


def test_cycle_term_is_l1_plus_weighted_cross_entropy() -> None:
    image, again, logits = torch.randn(3, 2, 1, 4, 4, dtype=torch.float64)
    mask = (torch.rand(2, 1, 4, 4) < 0.5).double()
    p = logits.sigmoid()
    entropy = -(mask * p.log() + (1 - mask) * (1 - p).log()).mean()
    expected = (again - image).abs().mean() + 0.3 * entropy
    torch.testing.assert_close(cycle_term(again, image, logits, mask, 0.3), expected)


def test_terms_are_those_of_the_definition() -> None:
    networks, shapes, (image, mask) = translation(), vae(), images_and_masks()
    terms, fakes = generator_terms(networks, shapes, image, mask, 0.5)
    made, drawn = networks(image).sigmoid(), networks.image_generator(mask).tanh()
    torch.testing.assert_close(fakes.mask, made)
    torch.testing.assert_close(fakes.image, drawn)
    d_x, d_z, d_vae = networks.discriminators()
    torch.testing.assert_close(terms["image"], ((d_x(drawn) - 1) ** 2).mean())
    torch.testing.assert_close(terms["mask"], ((d_z(made) - 1) ** 2).mean())
    torch.testing.assert_close(terms["shape"], ((d_vae(shapes.encode(made)[0]) - 1) ** 2).mean())
    again = networks.image_generator(made).tanh()
    torch.testing.assert_close(terms["cycle"], cycle_term(again, image, networks(drawn), mask, 0.5))
    expected = sum(
        0.5 * ((d(real) - 1) ** 2).mean() + 0.5 * (d(false) ** 2).mean()
        for d, real, false in (
            (d_x, image, drawn),
            (d_z, mask, made),
            (d_vae, shapes.encode(mask)[0], shapes.encode(made)[0]),
        )
    )
    torch.testing.assert_close(discriminator_loss(networks, shapes, image, mask, fakes), expected)


def changed(module: nn.Module) -> bool:
    return any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in module.parameters())


def test_the_shape_term_moves_the_mask_generator_and_neither_vae_nor_discriminator() -> None:
    networks, shapes, (image, mask) = translation(), vae(), images_and_masks()
    terms, _ = generator_terms(networks, shapes, image, mask, 0.5)
    terms["shape"].backward()
    assert changed(networks.mask_generator)
    for other in (shapes, *networks.discriminators(), networks.image_generator):
        assert not changed(other)
    assert all(parameter.requires_grad for parameter in [*networks.parameters(), *shapes.parameters()])


def test_each_step_moves_its_own_networks_alone() -> None:
    networks, shapes, (image, mask) = translation(), vae(), images_and_masks()
    generators = [networks.mask_generator, networks.image_generator]
    terms, fakes = generator_terms(networks, shapes, image, mask, 0.5)
    torch.stack(list(terms.values())).sum().backward()
    assert all(changed(network) for network in generators)
    assert not any(changed(network) for network in (*networks.discriminators(), shapes))
    networks.zero_grad()
    discriminator_loss(networks, shapes, image, mask, fakes).backward()
    assert all(changed(network) for network in networks.discriminators())
    assert not any(changed(network) for network in (*generators, shapes))


def test_one_step_of_both_is_cyclegans_two_steps() -> None:
    """Generators first, against the old discriminators; then discriminators, on the fakes of the old generators."""
    networks, shapes, (image, mask) = translation(calibrated=False), vae(), images_and_masks()
    apart = copy.deepcopy(networks)
    descent = torch.optim.SGD(networks.parameters(), lr=0.1)
    terms, fakes = generator_terms(networks, shapes, image, mask, 0.5)
    (sum(terms.values()) + discriminator_loss(networks, shapes, image, mask, fakes)).backward()  # type: ignore[union-attr]
    descent.step()
    generators = [*apart.mask_generator.parameters(), *apart.image_generator.parameters()]
    first = torch.optim.SGD(generators, lr=0.1)
    second = torch.optim.SGD([p for d in apart.discriminators() for p in d.parameters()], lr=0.1)
    terms, fakes = generator_terms(apart, shapes, image, mask, 0.5)
    torch.stack(list(terms.values())).sum().backward()
    first.step()
    second.zero_grad()
    discriminator_loss(apart, shapes, image, mask, Fakes(*(fake.detach() for fake in fakes))).backward()
    second.step()
    for name, value in networks.state_dict().items():
        torch.testing.assert_close(apart.state_dict()[name], value, msg=name)


def stop(layer: nn.Linear) -> None:
    assert not layer.weight.requires_grad
    raise ValueError("stop")


def test_what_is_held_fixed_is_free_again_after_an_error() -> None:
    layer, frozen = nn.Linear(1, 1), nn.Linear(1, 1).requires_grad_(False)
    with pytest.raises(ValueError, match="stop"), held_fixed(layer, frozen):
        stop(layer)
    assert layer.weight.requires_grad
    assert not frozen.weight.requires_grad


def test_noise_on_judged_masks_has_the_given_level() -> None:
    networks, seen = translation(mask_noise=0.3), []
    networks.mask_discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mask = torch.full((64, 1, 32, 32), 0.5, dtype=torch.float64)
    networks.judge_mask(mask)
    assert float((seen[0] - mask).std()) == pytest.approx(0.3, rel=0.02)


# quality of labels


def test_dice_of_known_masks() -> None:
    one, other = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    one[0, :2], other[0, 1:3] = 1, 1
    assert dice(one, other).tolist() == [0.5, 1.0]
    assert dice(one[:1], 1 - one[:1]).tolist() == [0.0]


def test_images_that_are_empty_in_both_masks_count_in_the_mean_dice() -> None:
    full, empty = torch.ones(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 2, dtype=torch.int64)
    metric = MeanDice()
    metric.update(empty, empty)
    assert float(metric.compute()) == 1
    metric.update(torch.cat([full, empty, empty]), torch.cat([full, full, empty]))
    assert float(metric.compute()) == pytest.approx(3 / 4)


@settings(deadline=None, max_examples=50)
@given(quality=st.lists(st.floats(0, 1), min_size=1, max_size=40), fraction=st.floats(0.01, 1))
def test_the_best_part_is_kept(quality: list[float], fraction: float) -> None:
    kept = best_part(torch.tensor(quality, dtype=torch.float64), fraction)
    assert int(kept.sum()) == math.ceil(fraction * len(quality) - 1e-9)
    inside, outside = (np.array(quality)[chosen.numpy()] for chosen in (kept, ~kept))
    assert not len(outside) or inside.min() >= outside.max()


def test_the_kept_number_is_not_rounded_up_by_rounding() -> None:
    assert best_part(torch.rand(100), 0.07).sum() == 7  # 0.07 * 100 is a little more than 7
    assert best_part(torch.rand(10), 0.75).sum() == 8


@pytest.fixture(scope="module")
def shapes_learned() -> ShapeVAE:
    torch.manual_seed(0)
    learned, shapes = ShapeVAE(32, 4, (8, 16, 16, 16)), EllipseShapes(200)
    masks = shapes.masks(torch.arange(200), 32, seed=0)[:, None].float()
    optimizer = torch.optim.Adam(learned.parameters(), lr=5e-3)
    for _ in range(150):
        loss = learned.negative_elbo(masks[torch.randint(200, (16,))]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return learned.eval()


@torch.no_grad()
def test_a_noisy_mask_is_worse_than_a_clean_ellipse(shapes_learned: ShapeVAE) -> None:
    clean = EllipseShapes(20).masks(torch.arange(20), 32, seed=5).long()
    noise = (torch.rand(20, 32, 32) < 0.3).long()
    good, bad = label_quality(clean, None, shapes_learned), label_quality(noise, None, shapes_learned)
    assert good.min() > bad.max()
    kept = best_part(torch.cat([good, bad]), 0.5)
    assert kept.tolist() == [True] * 20 + [False] * 20


@torch.no_grad()
def test_quality_is_the_product_of_both_agreements(shapes_learned: ShapeVAE) -> None:
    label, before = EllipseShapes(10).masks(torch.arange(10), 32, seed=7).long().split(5)
    again = (shapes_learned(label[:, None].float())[:, 0] > 0).long()
    expected = dice(label, again) * dice(label, before)
    torch.testing.assert_close(label_quality(label, before, shapes_learned), expected)
    torch.testing.assert_close(label_quality(label, before, None), dice(label, before))
    assert label_quality(label, None, None).tolist() == [1.0] * 5


def test_cleaning_keeps_the_largest_part_of_each_mask_and_fills_its_holes() -> None:
    ring = torch.zeros(12, 12, dtype=torch.int64)
    ring[2:8, 2:8] = 1
    ring[4:6, 4:6] = 0
    with_island = ring.clone()
    with_island[10:, 10:] = 1
    full = torch.zeros_like(ring)
    full[2:8, 2:8] = 1
    touching_corners = torch.zeros_like(ring)
    touching_corners[0:3, 0:3] = touching_corners[3:5, 3:5] = 1
    corner = torch.zeros_like(ring)
    corner[0:3, 0:3] = 1
    masks = torch.stack([with_island, torch.zeros_like(ring), touching_corners, full])
    cleaned = without_holes_and_islands(masks)
    assert torch.equal(cleaned, torch.stack([full, torch.zeros_like(ring), corner, full]))
    assert cleaned.dtype == torch.int64


# stages


def test_stages_follow_one_another() -> None:
    stages = Stages(vae_epochs=2, translation_epochs=3, warm_up_epochs=2, rounds=2, round_epochs=3)
    assert [stages.stage(epoch)[0] for epoch in range(stages.total)] == list("ss" + "ttt" + "s" * 8)
    assert [stages.stage(epoch) for epoch in (1, 5)] == ["shape", "segmentation"]
    assert [stages.round(epoch) for epoch in range(stages.total)] == [-1] * 5 + [0] * 2 + [1] * 3 + [2] * 3
    assert [epoch for epoch in range(stages.total + 2) if stages.begins_round(epoch)] == [5, 7, 10]


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [((-1, 1, 1, 1, 1), "vae_epochs must be"), ((0, 0, 0, 0, 4), "nothing to train"), ((1, 1, 0, 2, 4), "rounds 2")],
)
def test_bad_stages_are_named(numbers: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Stages(*numbers)


def test_the_learning_rate_is_constant_and_then_falls_to_nearly_nothing() -> None:
    factors = [constant_then_linear(epoch, 200, 0.5) for epoch in range(200)]
    assert factors[:100] == [1.0] * 100
    assert np.diff(factors[99:]) == pytest.approx(-1 / 101)
    assert factors[-1] == pytest.approx(1 / 101)
    assert [constant_then_linear(epoch, 4, 1.0) for epoch in range(4)] == [1.0] * 4


# the module


def module(**options: Any) -> AnnotationEfficient:
    """All stages in seven epochs."""
    torch.manual_seed(3)
    adam = functools.partial(torch.optim.Adam, lr=1e-3)
    parts: dict[str, Any] = {"vae": vae(), "translation": translation(mask_noise=0.1)}
    epochs = {"vae_epochs": 1, "translation_epochs": 2, "warm_up_epochs": 2, "rounds": 1, "round_epochs": 2}
    decay = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    return AnnotationEfficient(
        UNet(1, 2, [4, 8]),
        **{**parts, **epochs, "stop_early": False, **options},
        optimizer=adam,
        lr_scheduler=decay,
        vae_optimizer=adam,
        translation_optimizer=functools.partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999)),
    ).double()


def data(**options: Any) -> EllipseImages:
    return EllipseImages(**{"batch_size": 8, "num_training": 20, "num_validation": 8, "num_test": 8, **options})


class Watch(Callback):
    """Notes at the end of each epoch what has changed, learning rates and labels."""

    def __init__(self) -> None:
        self.changed: list[set[str]] = []
        self.rates: list[tuple[float, float]] = []
        self.kept: list[Tensor] = []
        self.labels: list[Tensor] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.before = {name: value.detach().clone() for name, value in pl_module.named_parameters()}
        self.rates.append(tuple(optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers[:2]))  # type: ignore[arg-type]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.changed.append(
            {
                name.split(".")[0]
                for name, value in pl_module.named_parameters()
                if not torch.equal(value, self.before[name])
            }
        )
        self.kept.append(pl_module.kept.clone())
        loader = trainer.datamodule.training_images_dataloader()  # type: ignore[attr-defined]
        self.labels.append(torch.cat([batch["label"] for batch in loader]))


class SaveWithin(Callback):
    """Saves a checkpoint after the first batch of some epochs."""

    def __init__(self, directory: Path, epochs: tuple[int, ...]) -> None:
        self.directory = directory
        self.epochs = epochs

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 and trainer.current_epoch in self.epochs:
            trainer.save_checkpoint(self.directory / f"within_{trainer.current_epoch}.ckpt")


WITHIN = (2, 5)  # translation, and round 1


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[AnnotationEfficient, Watch, Path]:
    from lightning.pytorch.loggers import CSVLogger

    directory, watch, trained = tmp_path_factory.mktemp("whole"), Watch(), module()
    logger = CSVLogger(directory, name="", version="")
    Trainer(
        max_epochs=7, logger=logger, callbacks=[SeedEveryBatch(0), watch, SaveWithin(directory, WITHIN)], **QUIET
    ).fit(trained, datamodule=data())
    return trained, watch, directory


Run = tuple[AnnotationEfficient, Watch, Path]


def test_each_stage_trains_its_networks_alone(whole_run: Run) -> None:
    _, watch, _ = whole_run
    assert watch.changed == [{"vae"}, {"translation"}, {"translation"}, *[{"network"}] * 4]


def test_learning_rates_belong_to_their_stage(whole_run: Run) -> None:
    _, watch, _ = whole_run
    segmentation, translated = zip(*watch.rates, strict=True)
    assert segmentation == pytest.approx([1e-3] * 4 + [5e-4, 2.5e-4, 1.25e-4])
    # Of two epochs the second one falls, to a half
    assert translated[1:3] == pytest.approx([1e-3, 5e-4])


def test_rounds_begin_with_labels_of_the_networks_before(whole_run: Run) -> None:
    """Labels are E's in round 0 and S's afterwards, and the best 75 % of them are kept."""
    trained, watch, _ = whole_run
    assert not watch.labels[0].any()
    assert torch.equal(watch.labels[2], watch.labels[1])  # the callback looks before the module labels
    assert not torch.equal(watch.labels[3], watch.labels[2])
    assert torch.equal(watch.labels[4], watch.labels[3])
    assert [int(kept.sum()) for kept in watch.kept[3:]] == [15] * 4
    source = data()
    source.set_up_training()
    assert source.train_set is not None
    image = 2 * source.train_set.source.image.double() / 255 - 1  # type: ignore[attr-defined]
    assert trained.translation is not None
    with torch.no_grad():
        expected = (trained.translation(image)[:, 0] > 0).to(torch.uint8)
    assert torch.equal(watch.labels[3], expected)


def test_labels_are_written_with_their_qualities(whole_run: Run) -> None:
    _, watch, directory = whole_run
    folder = directory / "pseudo_labels"
    assert sorted(path.name for path in folder.iterdir()) == ["round_0", "round_0.csv", "round_1", "round_1.csv"]
    for number, labels in ((0, watch.labels[3]), (1, watch.labels[-1])):
        files = sorted((folder / f"round_{number}").iterdir())
        assert [path.name for path in files] == [f"{sample:06d}.png" for sample in range(20)]
        written = np.stack([np.asarray(Image.open(path)) for path in files])
        assert np.array_equal(written, 255 * labels.numpy())
    table = pd.read_csv(folder / "round_0.csv")
    assert table["kept"].tolist() == watch.kept[3].tolist()
    assert table.loc[table["kept"], "quality"].min() >= table.loc[~table["kept"], "quality"].max()


def test_only_kept_samples_have_a_loss_and_it_is_their_mean() -> None:
    loss, kept = torch.rand(6, dtype=torch.float64), torch.tensor([True, False, True, True, False, False])
    torch.testing.assert_close(mean_over_kept(loss, kept), loss[kept].mean())
    assert mean_over_kept(loss, torch.zeros_like(kept)) == 0


def test_translation_loss_weights_the_terms_of_the_definition() -> None:
    trained = module(translation=translation(), shape_weight=0.3, cycle_weight=7.0, mask_cycle_weight=0.2)
    image, mask = images_and_masks()
    batch: Any = {"image": (image + 1) / 2, "auxiliary_mask": mask, "global_size": 3}
    found, _ = trained._translation_loss(batch)
    terms, fakes = generator_terms(translation(), vae(), image, mask, 0.2)
    weights = {"image": 1.0, "mask": 1.0, "shape": 0.3, "cycle": 7.0}
    expected = {f"generator_{name}": weight * terms[name] for name, weight in weights.items()}
    expected["discriminators"] = discriminator_loss(translation(), vae(), image, mask, fakes)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("epoch", "gamma"), [(3, 0.0), (5, 3.0)])
def test_segmentation_loss_is_the_noise_weighted_dice_of_the_kept(epoch: int, gamma: float) -> None:
    trained = module()
    trained.trainer = type("Stub", (), {"current_epoch": epoch})()
    trained.kept = torch.tensor([True, False, True, True])
    image, label = torch.rand(3, 1, 32, 32, dtype=torch.float64), (torch.rand(3, 32, 32) < 0.3).long()
    batch: Any = {"image": image, "label": label, "index": torch.tensor([3, 1, 0])}
    terms, _ = trained._segmentation_loss(batch)
    logits = trained.network(image)
    p = (logits[:, 1] - logits[:, 0]).sigmoid()
    w = torch.exp(-gamma * (p - label).abs())
    torch.testing.assert_close(terms["dice_loss"], weighted_dice(p, label.double(), w)[[0, 2]].mean())


def test_a_round_that_does_not_help_is_the_last_one() -> None:
    class Falling(AnnotationEfficient):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            scores = {0: 0.5, 1: 0.6, 2: 0.6, 3: 0.9}
            self.log("val/dice", scores[self.stages.round(self.trainer.current_epoch)], on_epoch=True)

    trained = Falling(
        UNet(1, 2, [4, 8]), vae_epochs=0, translation_epochs=0, warm_up_epochs=1, rounds=3, round_epochs=1
    )
    trainer = Trainer(max_epochs=4, logger=False, **QUIET)
    labelled = data()
    labelled.has_training_labels = True
    trainer.fit(trained, datamodule=labelled)
    assert trainer.current_epoch == 3
    state: dict[str, Any] = {}
    trained.on_save_checkpoint(state)
    assert state["rounds"]["stopped"]


def test_without_segmentation_the_mask_generator_predicts_and_its_labels_are_written(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    trained = module(warm_up_epochs=0, rounds=0)
    trainer = Trainer(max_epochs=3, logger=CSVLogger(tmp_path, name="", version=""), **QUIET)
    trainer.fit(trained, datamodule=data())
    assert (tmp_path / "pseudo_labels" / "round_0.csv").is_file()
    (metrics,) = trainer.test(trained, datamodule=data(), verbose=False)
    assert metrics["test/dice"] == metrics["test/pseudo_label_dice"]
    image = torch.rand(2, 1, 32, 32, dtype=torch.float64)
    assert trained.translation is not None
    probability = trained(image).softmax(dim=1)[:, 1]
    torch.testing.assert_close(probability, trained.translation(2 * image - 1)[:, 0].sigmoid())


def test_tested_dice_is_the_mean_over_images_of_the_structures(whole_run: Run) -> None:
    trained, _, _ = whole_run
    (metrics,) = Trainer(logger=False, **QUIET).test(trained, datamodule=data(), verbose=False)
    source = data()
    source.set_up_test()
    assert source.test_set is not None
    images: Any = source.test_set.source
    trained.eval()
    with torch.no_grad():
        prediction = trained(images.image.double() / 255).argmax(dim=1)
    overlap = dice(prediction, images.given)
    assert metrics["test/dice"] == pytest.approx(float(overlap.mean()), abs=1e-6)
    assert set(metrics) == {f"test/{p}{m}" for p in ("", "pseudo_label_") for m in ("dice", "surface_distance")}


@pytest.mark.parametrize("clean_labels", [False, True])
def test_tested_pseudo_labels_are_made_as_those_that_are_trained_on(clean_labels: bool) -> None:
    tested, images = module(clean_labels=clean_labels), data()
    (metrics,) = Trainer(logger=False, **QUIET).test(tested, datamodule=images, verbose=False)
    assert images.test_set is not None
    source: Any = images.test_set.source
    tested.eval()
    assert tested.translation is not None
    with torch.no_grad():
        label = (tested.translation(2 * source.image.double() / 255 - 1)[:, 0] > 0).long()
    cleaned = without_holes_and_islands(label)
    assert not torch.equal(cleaned, label)
    expected = dice(cleaned if clean_labels else label, source.given).mean()
    assert metrics["test/pseudo_label_dice"] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("epochs", [2, 4, 6], ids=["translation", "round 0", "round 1"])
def test_a_resumed_run_ends_bitwise_where_the_whole_one_does(epochs: int, whole_run: Run, tmp_path: Path) -> None:
    whole, _, _ = whole_run
    first = Trainer(max_epochs=epochs, logger=False, callbacks=[SeedEveryBatch(0)], **QUIET)
    first.fit(module(), datamodule=data())
    first.save_checkpoint(tmp_path / "last.ckpt")
    assert_resumes(whole, tmp_path / "last.ckpt")


@pytest.mark.parametrize("epoch", WITHIN)
def test_it_resumes_within_an_epoch(epoch: int, whole_run: Run) -> None:
    whole, _, directory = whole_run
    assert_resumes(whole, directory / f"within_{epoch}.ckpt")


def assert_resumes(whole: AnnotationEfficient, checkpoint: Path) -> None:
    resumed = module()
    trainer = Trainer(max_epochs=7, logger=False, callbacks=[SeedEveryBatch(0)], **QUIET)
    trainer.fit(resumed, datamodule=data(), ckpt_path=checkpoint, weights_only=True)
    assert torch.equal(resumed.kept, whole.kept)
    for name in ("network", "translation", "vae"):
        assert_same(getattr(whole, name).state_dict(), getattr(resumed, name).state_dict(), name)


def test_pseudo_labels_of_a_run_start_another(whole_run: Run, tmp_path: Path) -> None:
    """Images and labels in folders, no translation; the labels' qualities are those of a VAE of ellipses."""
    _, watch, directory = whole_run
    source = data()
    source.set_up_training()
    assert source.train_set is not None
    for sample, image in enumerate(source.train_set.source.image):  # type: ignore[attr-defined]
        path = tmp_path / "images" / f"{sample:06d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    folders = UnpairedMasks(
        *(str(tmp_path), 8, 32),
        shapes=EllipseShapes(50),
        pseudo_labels=str(directory / "pseudo_labels" / "round_0"),
        num_workers=0,
    )
    second = module(translation=None, translation_epochs=0, keep_fraction=0.5)
    labels = Watch()
    Trainer(max_epochs=2, logger=False, callbacks=[labels], **QUIET).fit(second, datamodule=folders)
    assert labels.changed == [{"vae"}, {"network"}]
    assert torch.equal(labels.labels[1], watch.labels[3])
    assert second.kept.sum() == 10


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_classes": 3}, "num_classes must be 2"),
        ({"gamma": -1.0}, "gamma must be at least 0, got -1.0"),
        ({"shape_weight": -1.0}, "shape_weight must be at least 0"),
        ({"keep_fraction": 0.0}, r"keep_fraction must be in \(0, 1\], got 0.0"),
        ({"constant_fraction": 1.5}, "constant_fraction"),
        ({"vae": None}, "vae_epochs is 1, and vae is not given"),
        ({"vae": None, "vae_epochs": 0}, "shape_discriminator, which needs a vae"),
        ({"translation_epochs": 0}, "translation_epochs is 0, and translation is given"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        module(**options)


def test_what_does_not_fit_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"max_epochs is 8, and the stages .* have 7 epochs"):
        Trainer(max_epochs=8, logger=False, **QUIET).fit(module(), datamodule=data())
    given = module(vae=None, vae_epochs=0, translation=None, translation_epochs=0)
    with pytest.raises(ValueError, match=r"set data.pseudo_labels"):
        Trainer(max_epochs=1, logger=False, **QUIET).fit(given, datamodule=data())
    with pytest.raises(ProcessRaisedException, match="ddp_find_unused_parameters_true"):
        Trainer(max_epochs=1, logger=False, devices=2, strategy="ddp_fork", **QUIET).fit(module(), datamodule=data())


def test_networks_that_cannot_be_calibrated_are_refused() -> None:
    with pytest.raises(TypeError, match="mask_generator with forward_features, last, num_features, which Conv2d lacks"):
        Translation(*(nn.Conv2d(1, 1, 1) for _ in range(4)))
    assert Translation(*(nn.Conv2d(1, 1, 1) for _ in range(4)), calibrated=False).calibration is None


def test_binary_cross_entropy_is_taken_of_logits() -> None:
    """Far from zero, where the probability rounds to 1, the term stays exact."""
    logits, mask = torch.full((1, 1, 2, 2), 60.0), torch.zeros(1, 1, 2, 2)
    assert cycle_term(mask, mask, logits, mask, 1.0) == F.softplus(torch.tensor(60.0)) == 60
