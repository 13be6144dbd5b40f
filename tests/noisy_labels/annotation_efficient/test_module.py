import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor
from torch.multiprocessing import ProcessRaisedException

from callbacks.guards.seeding import SeedEveryBatch
from datamodules.loading import Loading
from datamodules.segmentation.ellipse_images import EllipseImages
from datamodules.segmentation.ellipses import Ellipses
from datamodules.segmentation.folder_sets import MaskFolders
from datamodules.segmentation.unpaired_masks import UnpairedMasks
from lightning_modules.networks.unet import UNet
from lightning_modules.noisy_labels.annotation_efficient import AnnotationEfficient
from lightning_modules.noisy_labels.annotation_efficient.label_quality import without_holes_and_islands
from lightning_modules.noisy_labels.annotation_efficient.measures import dice
from lightning_modules.noisy_labels.annotation_efficient.stages import CycleLossWeights, StageSchedule
from lightning_modules.noisy_labels.annotation_efficient.translation import discriminator_loss, generator_terms
from tests.noisy_labels.annotation_efficient.test_translation import images_and_masks, translation, vae
from tests.trainers import quiet

in_double = functools.partial(quiet, precision="64-true")


STAGES = StageSchedule(1, 2, warm_up_epochs=2, rounds=1, round_epochs=2, stop_early=False)
WITHOUT_ROUNDS = StageSchedule(1, 2, warm_up_epochs=0, rounds=0)


def module(**options: Any) -> AnnotationEfficient:
    """Create a module that completes all stages in seven epochs."""
    torch.manual_seed(3)
    adam = functools.partial(torch.optim.Adam, lr=1e-3)
    parts: dict[str, Any] = {"vae": vae(), "translation": translation(mask_noise=0.1)}
    decay = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    return AnnotationEfficient(
        UNet(1, 2, [4, 8]),
        **{**parts, "stages": STAGES, **options},
        optimizer=adam,
        lr_scheduler=decay,
        vae_optimizer=adam,
        translation_optimizer=functools.partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999)),
    ).double()


def data() -> UnpairedMasks:
    return UnpairedMasks(
        EllipseImages(num_training=20, num_validation=8, num_test=8), batch_size=8, loading=Loading(num_workers=0)
    )


class Watch(Callback):
    """Records, for each epoch, which parts of the module it changed, the learning rates, and the labels at its end."""

    def __init__(self) -> None:
        self.changed: list[set[str]] = []
        self.rates: list[tuple[float, float]] = []
        self.kept: list[Tensor] = []
        self.labels: list[Tensor] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.before = {name: value.detach().clone() for name, value in pl_module.named_parameters()}
        self.rates.append(tuple(optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers[:2]))  # type: ignore[arg-type]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        now = dict(pl_module.named_parameters())
        self.changed.append({name.split(".")[0] for name in now if not torch.equal(now[name], self.before[name])})
        self.kept.append(pl_module.kept.clone())
        loader = trainer.datamodule.training_images_dataloader()  # type: ignore[attr-defined]
        self.labels.append(torch.cat([batch["label"] for batch in loader]))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[AnnotationEfficient, Watch, Path]:
    directory, watch, trained = tmp_path_factory.mktemp("whole"), Watch(), module()
    logger = CSVLogger(directory, name="", version="")
    trainer = in_double(max_epochs=7, logger=logger, callbacks=[SeedEveryBatch(0), watch])
    trainer.fit(trained, datamodule=data())
    return trained, watch, directory


Run = tuple[AnnotationEfficient, Watch, Path]


def test_each_stage_trains_its_networks_alone_at_rates_of_its_own(whole_run: Run) -> None:
    _, watch, _ = whole_run
    assert watch.changed == [{"vae"}, {"translation"}, {"translation"}, *[{"network"}] * 4]
    segmentation, translated = zip(*watch.rates, strict=True)
    assert segmentation == pytest.approx([1e-3] * 4 + [5e-4, 2.5e-4, 1.25e-4])
    assert translated[1:3] == pytest.approx([1e-3, 5e-4])  # the rate falls to half in the second of two epochs


def test_rounds_begin_with_labels_of_the_networks_before(whole_run: Run) -> None:
    """Labels come from network E in round 0 and from S afterwards; the best 75 % of them are kept."""
    trained, watch, _ = whole_run
    assert not watch.labels[0].any()
    assert torch.equal(watch.labels[2], watch.labels[1])  # the callback runs before the module labels
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


def test_translation_loss_weights_the_terms_of_the_definition() -> None:
    trained = module(translation=translation(), weights=CycleLossWeights(cycle=7.0, mask_cycle=0.2, shape=0.3))
    image, mask = images_and_masks()
    batch: Any = {"image": (image + 1) / 2, "auxiliary_mask": mask, "global_batch_size": 3}
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
    batch: Any = {"image": image, "label": label, "index": torch.tensor([3, 1, 0]), "global_batch_size": 3}
    terms, _ = trained._segmentation_loss(batch)
    logits = trained.network(image)
    p = (logits[:, 1] - logits[:, 0]).sigmoid()
    w = torch.exp(-gamma * (p - label).abs()).detach()
    overlap, size = ((w * each).sum((1, 2)) for each in (p * label, p + label))
    expected = (1 - (2 * overlap + 1e-5) / (size + 1e-5))[[0, 2]].mean()
    torch.testing.assert_close(terms["dice_loss"], expected)
    weights = list(trained.network.parameters())
    found = torch.autograd.grad(terms["dice_loss"], weights)
    torch.testing.assert_close(found, torch.autograd.grad(expected, weights))


def test_a_round_that_does_not_help_is_the_last_one() -> None:
    class Falling(AnnotationEfficient):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            scores = {0: 0.5, 1: 0.6, 2: 0.6, 3: 0.9}
            self.log("val/dice", scores[self.stages.round(self.trainer.current_epoch)], on_epoch=True)

    trained = Falling(UNet(1, 2, [4, 8]), stages=StageSchedule(0, 0, warm_up_epochs=1, rounds=3, round_epochs=1))
    trainer = in_double(max_epochs=4)
    labelled = data()
    labelled.images.has_training_labels = True
    trainer.fit(trained, datamodule=labelled)
    assert trainer.current_epoch == 3
    state: dict[str, Any] = {}
    trained.on_save_checkpoint(state)
    assert state["rounds"]["stopped"]


def test_labels_that_a_kill_has_left_out_are_made_by_the_next_call(tmp_path: Path) -> None:
    class Saves(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    table = tmp_path / "pseudo_labels" / "round_0.csv"
    written = []
    for path in (None, tmp_path / "last.ckpt"):
        trainer = in_double(max_epochs=3, logger=CSVLogger(tmp_path, name="", version=""), callbacks=[Saves()])
        trainer.fit(module(stages=WITHOUT_ROUNDS), datamodule=data(), ckpt_path=path, weights_only=False)
        written.append(table.read_text())
        table.unlink()
    assert written[0] == written[1]


def test_without_segmentation_the_mask_generator_predicts_and_its_labels_are_written(tmp_path: Path) -> None:
    trained = module(stages=WITHOUT_ROUNDS)
    trainer = in_double(max_epochs=3, logger=CSVLogger(tmp_path, name="", version=""))
    trainer.fit(trained, datamodule=data())
    assert (tmp_path / "pseudo_labels" / "round_0.csv").is_file()
    (metrics,) = trainer.test(trained, datamodule=data(), verbose=False)
    assert metrics["test/dice"] == metrics["test/pseudo_label_dice"]
    image = torch.rand(2, 1, 32, 32, dtype=torch.float64)
    assert trained.translation is not None
    probability = trained(image).softmax(dim=1)[:, 1]
    torch.testing.assert_close(probability, trained.translation(2 * image - 1)[:, 0].sigmoid())


def test_pictures_say_which_pseudo_labels_are_kept(whole_run: Run) -> None:
    trained = whole_run[0].eval()
    index = torch.tensor([7, 0, 19])
    batch = {"image": torch.rand(3, 1, 32, 32).double(), "label": torch.randint(2, (3, 32, 32)), "index": index}
    columns = trained.image_columns({**batch, "clean_label": 1 - batch["label"]}, None)
    assert list(columns) == ["image", "pseudo label", "prediction", "truth"]
    values, captions, marked, _ = columns["pseudo label"]
    kept = trained.kept[index].tolist()
    assert torch.equal(values, batch["label"])
    assert list(captions) == ["kept" if each else "rejected" for each in kept]
    assert marked == [not each for each in kept]
    assert torch.equal(columns["prediction"], trained(batch["image"]).argmax(dim=1))
    assert "truth" not in trained.image_columns(batch, None)


@pytest.mark.parametrize("clean_labels", [False, True])
def test_tested_dice_is_the_mean_over_images_and_pseudo_labels_are_made_as_in_training(clean_labels: bool) -> None:
    tested, images = module(clean_labels=clean_labels), data()
    (metrics,) = in_double().test(tested, datamodule=images, verbose=False)
    assert images.test_set is not None
    source: Any = images.test_set.source
    image = source.image.double() / 255
    tested.eval()
    assert tested.translation is not None
    with torch.no_grad():
        prediction = tested(image).argmax(dim=1)
        label = (tested.translation(2 * image - 1)[:, 0] > 0).long()
    cleaned = without_holes_and_islands(label)
    assert not torch.equal(cleaned, label)
    pseudo_label = cleaned if clean_labels else label
    assert metrics["test/dice"] == pytest.approx(float(dice(prediction, source.given).mean()), abs=1e-6)
    expected = float(dice(pseudo_label, source.given).mean())
    assert metrics["test/pseudo_label_dice"] == pytest.approx(expected, abs=1e-6)
    assert set(metrics) == {f"test/{p}{m}" for p in ("", "pseudo_label_") for m in ("dice", "surface_distance")}


def test_pseudo_labels_of_a_run_start_another(whole_run: Run, tmp_path: Path) -> None:
    """Images and labels are read from folders, without translation; a VAE of ellipses rates the labels."""
    _, watch, directory = whole_run
    source = data()
    source.set_up_training()
    assert source.train_set is not None
    for sample, image in enumerate(source.train_set.source.image):  # type: ignore[attr-defined]
        path = tmp_path / "images" / f"{sample:06d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    images = MaskFolders(str(tmp_path), 32, training_masks=str(directory / "pseudo_labels" / "round_0"))
    folders = UnpairedMasks(images, Ellipses(50), batch_size=8, loading=Loading(num_workers=0))
    second = module(translation=None, stages=replace(STAGES, translation_epochs=0), keep_fraction=0.5)
    labels = Watch()
    in_double(max_epochs=2, callbacks=[labels]).fit(second, datamodule=folders)
    assert labels.changed == [{"vae"}, {"network"}]
    assert torch.equal(labels.labels[1], watch.labels[3])
    assert second.kept.sum() == 10


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"vae": None}, "vae_epochs is 1, but vae is not given"),
        ({"vae": None, "stages": replace(STAGES, vae_epochs=0)}, "shape_discriminator needs model.vae"),
        ({"stages": replace(STAGES, translation_epochs=0)}, "translation_epochs is 0, but translation is given"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        module(**options)


def test_what_does_not_fit_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"max_epochs is 8, but must be at most 7"):
        in_double(max_epochs=8).fit(module(), datamodule=data())
    given = module(vae=None, translation=None, stages=replace(STAGES, vae_epochs=0, translation_epochs=0))
    with pytest.raises(ValueError, match=r"set data.images.training_masks"):
        in_double(max_epochs=1).fit(given, datamodule=data())
    with pytest.raises(ProcessRaisedException, match="ddp_find_unused_parameters_true"):
        in_double(max_epochs=1, devices=2, strategy="ddp_fork").fit(module(), datamodule=data())
