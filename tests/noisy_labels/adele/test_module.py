import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn

from callbacks.early_learning.watch import EarlyLearning
from datamodules.corruptions.mask_noise import ErosionDilation
from datamodules.loading import Loading
from datamodules.segmentation.labelled_masks import LabelledMasks
from datamodules.segmentation.shapes import Shapes
from lightning_modules.baselines import SegmentationCrossEntropy
from lightning_modules.noisy_labels.adele import ADELE, EvaluationPassCorrection, TrainingPassCorrection
from lightning_modules.noisy_labels.adele.label_rules import confident_prediction, merged_label, updated_label
from lightning_modules.noisy_labels.adele.multi_scale import multi_scale_logits
from tests.trainers import quiet

NUM_TRAIN = 14


class SmallSegmenter(nn.Module):
    """Two convolutions without BatchNorm, with fixed initial weights."""

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
    """Create a module that corrects labels from epoch 2 on, because with r = 0, early learning ends at epoch 2."""
    correction = TrainingPassCorrection(**TRAINING_PASS) if rule == "training" else None
    if rule == "evaluation":
        correction = EvaluationPassCorrection(**EVALUATION_PASS)
    settings = {"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.2), "learn_scale_weights": True} | settings
    # Lightning loads a checkpoint before it converts the module to float64, which would round the loaded values.
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
    """Train on 14 images in batches of 5, 5 and 4, in double precision."""
    trainer = quiet(
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        precision="64-true",
        max_epochs=epochs,
        default_root_dir=directory,
        callbacks=[EarlyLearning(r=0.0, reference="current", background=0), *callbacks],
        **{"enable_checkpointing": True, "log_every_n_steps": 1, **settings},
    )
    images = Shapes(num_train=NUM_TRAIN, num_test=2, image_size=16)
    data = LabelledMasks(images, 5, ErosionDilation(1, 1), loading=Loading(num_workers=0, seed=0))
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return trainer


def corrections(checkpoint: Path) -> dict[str, Tensor]:
    return torch.load(checkpoint, weights_only=True)["LabelledMasks"]["corrected_labels"]


def assert_same_end(one: Path, two: Path) -> None:
    first, second = (torch.load(path / "end.ckpt", weights_only=True) for path in (one, two))
    for key, value in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][key], value, rtol=0, atol=1e-10, msg=key)
    for key, value in first["LabelledMasks"]["corrected_labels"].items():
        assert torch.equal(second["LabelledMasks"]["corrected_labels"][key], value), key


def labels(trainer: Trainer) -> tuple[Tensor, Tensor, Tensor]:
    """Return the images, the given labels and the current labels."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batches = [trainer.strategy.batch_to_device(batch) for batch in data.training_images_dataloader()]
    image, old, new = (torch.cat([batch[key] for batch in batches]) for key in ("image", "original_label", "label"))
    return image, old, new


def test_labels_are_updated_from_the_given_ones_by_the_last_weights(tmp_path: Path) -> None:
    module = small_adele("evaluation")
    module.correction = EvaluationPassCorrection(threshold=0.9, scales=[0.75, 1.0], flip_from_epoch=3)
    trainer = fit(module, tmp_path, epochs=4)  # the last epoch is the first one that uses mirror images
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
    """The learning rate is zero, so predictions do not change, and a second correction changes nothing."""
    module = small_adele("training", optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0))
    trainer = fit(module, tmp_path, epochs=4)
    image, old, new = labels(trainer)
    with torch.no_grad():
        predicted = confident_prediction(module(image).softmax(1), 0.4, 0.4)
    assert torch.equal(new, merged_label(old, predicted, torch.tensor([False, True, True])))
    assert (new != old).any()
    assert trainer.callback_metrics["early_learning/ended"] == 2


def defined_loss(module: ADELE, image: Tensor, label: Tensor) -> Tensor:
    """Compute the loss that ADELE uses for SegTHOR from its definition."""
    z = []
    for scale in (0.7, 1.0, 1.5):
        size = [int(scale * side) for side in image.shape[-2:]]
        resized = F.interpolate(image, size=size, mode="bilinear", align_corners=True)
        z.append(F.interpolate(module.network(resized), size=image.shape[-2:], mode="bilinear", align_corners=True))
    v = module.scale_weights
    w, p = v.exp() / v.exp().sum(), [each.exp() / each.exp().sum(1, keepdim=True) for each in z]
    known = label != 255
    at_label = [
        -(w_k * z_k).log_softmax(1).gather(1, (label * known)[:, None])[:, 0] for w_k, z_k in zip(w, z, strict=True)
    ]
    cross_entropy = sum((each * known).mean() for each in at_label)
    q = (w[0] * p[0] + w[1] * p[1] + w[2] * p[2]).clamp(0.001, 0.999)
    confident = (q.amax(1) * known).amax((1, 2)) >= 0.8
    divergence = sum((each * (each / q).log()).sum(1).mean((1, 2)) for each in p)
    return (cross_entropy + 0.7 * (confident * divergence).mean()) / 3


def test_a_step_has_the_loss_and_the_gradients_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    module, reference = (small_adele("training", consistency_weight=0.7) for _ in range(2))
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value}))
    random = torch.Generator().manual_seed(4)
    image = torch.rand(5, 1, 20, 20, dtype=torch.float64, generator=random)
    image[:2] /= 100  # grey images, for which the network is uncertain everywhere
    label = torch.randint(3, (5, 20, 20), generator=random)
    label[:, :3] = 255
    batch: Any = {"image": image, "label": label, "index": torch.arange(5), "global_batch_size": 5}
    loss = module.training_step(batch, 0)["loss"]
    expected = defined_loss(reference, image, label)
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, list(module.parameters()))
    torch.testing.assert_close(found, torch.autograd.grad(expected, list(reference.parameters())))
    torch.testing.assert_close(logged["train/cross_entropy"] + 0.7 * logged["train/consistency"], 3 * expected.detach())


def test_one_scale_without_consistency_and_correction_is_the_baseline(tmp_path: Path) -> None:
    sgd: Any = functools.partial(torch.optim.SGD, lr=0.2)
    plain = SegmentationCrossEntropy(SmallSegmenter(), 3, optimizer=sgd)
    alone = ADELE(SmallSegmenter(), 3, scales=[1.0], consistency_weight=0, optimizer=sgd)
    for name, module in (("plain", plain), ("alone", alone)):
        fit(module, tmp_path / name, epochs=2)
    for ours, theirs in zip(alone.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("learn", [True, False])
def test_weights_of_the_scales_are_trained_if_asked_for_and_without_weight_decay(learn: bool) -> None:
    decaying: Any = functools.partial(torch.optim.SGD, lr=1.0, weight_decay=0.1)
    module = small_adele("none", learn_scale_weights=learn, optimizer=decaying)
    [optimizer], _ = module.configure_optimizers()
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays.get(id(module.scale_weights)) == (0.0 if learn else None)
    assert all(decays[id(parameter)] == 0.1 for parameter in module.network.parameters())


@pytest.mark.parametrize(
    ("refused", "key", "value"),
    [
        (ADELE, "scales", [0.7, 1.5]),
        (ADELE, "scales", [1.0, 0.0]),
        (ADELE, "new_layers", ["head"]),
        (EvaluationPassCorrection, "scales", []),
    ],
)
def test_bad_arguments_are_named(refused: Any, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        refused(*((SmallSegmenter(), 3) if refused is ADELE else ()), **{key: value})


def test_correction_needs_someone_who_says_when_and_whole_images() -> None:
    class Data:
        def correct_labels(self, index: Tensor, label: Tensor) -> None: ...

    class Mine(EarlyLearning):
        """A user's own subclass, which also detects the end of early learning."""

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
    data.augmentation = "any"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="augments"):
        module.setup("fit")


def test_images_of_which_the_scales_are_not_sure_have_no_consistency_term() -> None:
    batch: Any = {"image": torch.rand(3, 1, 16, 16).double(), "label": torch.randint(3, (3, 16, 16))}
    losses = []
    for weight, threshold in ((0.0, 0.0), (1.0, 1.0), (1.0, 0.0)):
        module = small_adele("none", consistency_weight=weight, consistency_threshold=threshold)
        module.log = lambda *args, **options: None  # type: ignore[method-assign, assignment]
        losses.append(float(module.training_step(batch, 0)["loss"].detach()))
    assert losses[1] == losses[0]  # no probability reaches 1
    assert losses[2] > losses[0]
