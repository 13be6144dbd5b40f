import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from callbacks.labels.memorization import Memorization
from callbacks.shifted_accuracy import ShiftedAccuracy
from datamodules.augmentation.crop_and_flip import Augmentation, crop_and_flip
from datamodules.classification.cached_features import CachedFeatures, FeatureSource, source_fingerprint
from datamodules.classification.digits import Digits, TuningDigits
from datamodules.classification.image_sets import ImageFiles
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.ood_images import OtherDigits
from datamodules.classification.selection.split import Split
from datamodules.corruptions.label_noise import Symmetric
from datamodules.corruptions.label_noise.open_set import OpenSetLabelNoise
from datamodules.files.image_files import Crop
from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.randomness.counter import sample_uniform
from lightning_modules.backbones.resized import Resized
from lightning_modules.noisy_labels.nmtune.module import NMTune
from tests.trainers import quiet

D = 16


class Encoder(nn.Module):
    """An encoder that counts the images that it encodes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, D), nn.BatchNorm1d(D))
        self._seen = 0

    def forward(self, image: Tensor) -> Tensor:
        assert not self.training
        self._seen += len(image)
        return self.layers(image)


MOVED = Augmentation(1, True)


def cached(folder: Path, encoder: nn.Module | None = None, images: Any = None, **options: Any) -> CachedFeatures:
    options = {"num_features": D, "encoder_batch_size": 64, "augmentation": MOVED, **options}
    return CachedFeatures(images or Digits(300), encoder or Encoder(), cache_dir=str(folder), **options)


def arrays(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/array.npy")}


def test_features_are_those_of_the_images_with_and_without_augmentation(tmp_path: Path) -> None:
    encoder = Encoder()
    source = cached(tmp_path, encoder, augmented_passes=3, augmentation_seed=5).training()
    digits = Digits(300).training()
    row = torch.tensor([7, 250, 0, 7])
    plain = encoder.layers(digits.image[row].float() / 16)
    torch.testing.assert_close(source.fetch(row, None), plain.detach())
    for epoch in (1, 2, 3):
        uniform = sample_uniform(5, epoch, row, count=3)
        view = encoder.layers(crop_and_flip(digits.image[row], uniform, 1, True).float() / 16)
        chosen = torch.full((4, 1), (epoch - 0.5) / 3)
        torch.testing.assert_close(source.fetch(row, chosen), view.detach())
    assert torch.equal(source.label, digits.label)


def test_every_visit_draws_one_of_the_passes_and_evaluation_takes_the_image_as_it_is(tmp_path: Path) -> None:
    data = LabelledImages(
        cached(tmp_path, augmented_passes=4), 64, split=Split(validation_fraction=0.1), loading=Loading(seed=1)
    )
    data.setup("fit")
    source: Any = data.train_set.source
    assert source.feature.shape == (5, 300, D)
    source.feature = np.broadcast_to(np.arange(5.0)[:, None, None], (5, 300, D))  # the number of the pass
    index = torch.arange(len(data.train_set))
    drawn = [data.train_set[Request(index, epoch, len(index))]["image"][:, 0].long() for epoch in range(50)]
    counts = torch.stack(drawn).flatten().bincount(minlength=5).double()
    assert counts[0] == 0
    expected = counts.sum() / 4
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 16.3  # chi squared, 3 degrees: exceeded in 0.1 %
    held_out = data.validation_set[Request(torch.arange(5), 0, 5)]["image"]
    assert torch.equal(held_out, torch.zeros(5, D, dtype=torch.float64))


def test_second_views_are_other_passes_each_as_often(tmp_path: Path) -> None:
    data = LabelledImages(cached(tmp_path, augmented_passes=3), 64, second_view=True)
    data.setup("fit")
    source: Any = data.train_set.source
    source.feature = np.broadcast_to(np.arange(4.0)[:, None, None], (4, 300, D))  # the number of the pass
    index = torch.arange(300)
    counts = torch.zeros(4, 4)
    for epoch in range(20):
        batch = data.train_set[Request(index, epoch, 300)]
        counts.index_put_(
            (batch["image"][:, 0].long(), batch["second_view"][:, 0].long()), torch.ones(300), accumulate=True
        )
    assert counts[0].sum() == counts[:, 0].sum() == counts.trace() == 0
    found = counts[1:, 1:][~torch.eye(3, dtype=torch.bool)]
    assert ((found - 1000) ** 2 / 1000).sum() < 20.5  # chi squared with 5 degrees: exceeded in 0.1 %
    with pytest.raises(ValueError, match="second_view needs images with at least 2 views, but CachedFeatures has 1"):
        LabelledImages(cached(tmp_path, augmented_passes=1), second_view=True)


@settings(deadline=None, max_examples=50)
@given(passes=st.integers(2, 12), first=st.integers(0, 2**24 - 1), second=st.integers(0, 2**24 - 1))
def test_a_second_pass_is_never_the_first(passes: int, first: int, second: int) -> None:
    digits = Digits(2).training()
    source = FeatureSource(digits, np.arange(1.0 + passes)[:, None, None].repeat(2, axis=1))
    one, two = (torch.tensor([[number]]) / 2**24 for number in (first, second))  # like the generator's output
    row = torch.zeros(1, dtype=torch.int64)
    assert 1 <= source.fetch(row, source.another_view(one, two)) != source.fetch(row, one)


def test_second_views_of_images_are_cropped_and_mirrored_independently() -> None:
    data = LabelledImages(Digits(300), 64, augmentation=MOVED, second_view=True)
    data.setup("fit")
    batches = [*data.train_dataloader()]
    image, second, index = (torch.cat([batch[key] for batch in batches]) for key in ("image", "second_view", "index"))
    digits = Digits(300).training().image[index] / 16
    moves = [
        (mirrored, right, down) for mirrored in (digits, digits.flip(3)) for right in (0, 1, 2) for down in (0, 1, 2)
    ]
    copies = torch.stack([nn.functional.pad(d, [1] * 4)[:, :, y : y + 8, x : x + 8] for d, x, y in moves])
    for view in (image, second):
        assert (copies == view).flatten(2).all(dim=2).any(dim=0).all()
    assert 0.5 < (image != second).flatten(1).any(dim=1).float().mean() < 1


def test_a_second_run_with_another_seed_and_noise_computes_nothing(tmp_path: Path) -> None:
    first = Encoder()
    data = LabelledImages(cached(tmp_path, first, augmented_passes=1))
    data.setup("fit")
    data.setup("test")
    assert first._seen == 2 * 300 + 1497
    second = Encoder()
    images = cached(tmp_path, second, augmented_passes=1)
    noisy = LabelledImages(
        images, label_noise=Symmetric(0.5), split=Split(validation_fraction=0.2), loading=Loading(seed=9)
    )
    noisy.setup("fit")
    noisy.setup("test")
    assert second._seen == 0
    assert noisy.num_train_samples == 240
    drawn = Symmetric(0.5, seed=9).apply(Digits(300).training().label, 10)
    assert torch.equal(noisy.train_set.label, drawn[noisy.train_set.row])
    assert len(arrays(tmp_path)) == 2


def test_images_that_the_data_draw_and_their_true_labels_are_those_of_the_run(tmp_path: Path) -> None:
    """The seed of the run determines which images are replaced by digits 5 to 9; the views have a different seed."""
    web = OpenSetLabelNoise(Digits(num_classes=5), OtherDigits([5, 6, 7, 8, 9]), 0.4)
    for seed in (1, 2):
        encoder = Encoder()
        data = LabelledImages(
            cached(tmp_path, encoder, web, augmentation_seed=5, augmented_passes=1), loading=Loading(seed=seed)
        )
        data.setup("fit")
        drawn = web.prepare(seed, torch.device("cpu")).training()
        row = torch.arange(len(drawn.label))
        assert torch.equal(data.train_set.clean_label, drawn.clean_label)
        assert (data.train_set.clean_label == -1).float().mean() > 0.3
        features = encoder.layers(drawn.image.float() / 16).detach()
        torch.testing.assert_close(data.train_set.source.fetch(row, None), features)
    assert len(arrays(tmp_path)) == 2


def test_missing_data_are_fetched_as_without_a_cache(tmp_path: Path) -> None:
    fetched: list[str] = []
    images = cached(tmp_path)
    images.images.fetch_missing = lambda: fetched.append("digits")  # type: ignore[method-assign]
    LabelledImages(images).prepare_data()
    assert fetched == ["digits"]


def test_a_replaced_file_is_seen_wherever_it_is(tmp_path: Path) -> None:
    names = [f"{number:03}.png" for number in range(200)]
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / name)
    source = ImageFiles(tmp_path, names, torch.zeros(200, dtype=torch.int64), Crop(8, 8))
    before = source_fingerprint(source)
    assert source_fingerprint(source) == before
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / names[1])  # none of the 64 images whose pixels are compared
    larger = source_fingerprint(source)
    assert larger != before
    content = (tmp_path / names[1]).read_bytes()
    (tmp_path / names[1]).write_bytes(content[::-1])  # the size does not change
    os.utime(tmp_path / names[1], ns=(0, 1))
    assert source_fingerprint(source) != larger


def test_file_names_of_any_bytes_are_recognised_and_not_kept_as_strings(tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), "tea.png"]
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    files = ImageFiles(tmp_path, names, torch.tensor([0, 1]), Crop(4, 4))
    assert source_fingerprint(files) != source_fingerprint(ImageFiles(tmp_path, names[::-1], files.label, files.crop))
    source = FeatureSource(files, np.zeros((1, 2, D), dtype=np.float32))
    assert not any(isinstance(value, list) for value in vars(source).values())
    assert pickle.loads(pickle.dumps(source)).names == names


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"encoder": Encoder(1)}, "encoder.digest"),
        ({"encoder": Resized(Encoder(), 8)}, "encoder.class, encoder.digest"),
        ({"num_workers": 0}, None),
        ({"images": Digits(299)}, "data.digest, data.samples"),
        ({"augmentation": Augmentation(2, True)}, "augmentation.crop_padding"),
        ({"augmented_passes": 2}, "augmentation.passes"),
        ({"augmentation_seed": 3}, "augmentation.seed"),
        ({"dtype": "float16"}, "dtype"),
        ({"encoder_batch_size": 32}, "batch"),
    ],
)
def test_whatever_changes_the_features_makes_another_entry_and_is_named(
    change: dict[str, Any], differs: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"augmented_passes": 1, **change}
    cached(tmp_path, augmented_passes=1).training()
    caplog.clear()
    with caplog.at_level("INFO"):
        cached(tmp_path, **options).training()
    assert len(arrays(tmp_path)) == (1 if differs is None else 2)
    assert (differs or "") in caplog.text


def test_an_interrupted_run_goes_on_where_it_was_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    def interrupt(encoder: nn.Module, images: Any) -> None:
        if encoder._seen == 128:
            raise KeyboardInterrupt

    interrupted = Encoder()
    interrupted.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "torn", interrupted, augmented_passes=1).training()
    assert not arrays(tmp_path / "torn")
    encoder = Encoder()
    cached(tmp_path / "torn", encoder, augmented_passes=1).training()
    assert encoder._seen == 600 - 128
    cached(tmp_path / "whole", augmented_passes=1).training()
    assert arrays(tmp_path / "torn") == arrays(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "torn").glob("*/*")) == ["array.npy", "manifest.json"]


def head() -> NMTune:
    torch.manual_seed(0)
    return NMTune(
        nn.Identity(), num_features=D, num_classes=10, adapter=False, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
    )


def test_two_processes_fill_the_cache_and_train_as_one(tmp_path: Path) -> None:
    results: list[Any] = []
    for processes in (1, 2):
        module = head().double()
        strategy = "ddp_fork" if processes > 1 else "auto"
        images = cached(tmp_path / str(processes), images=TuningDigits(), encoder_batch_size=32)
        data = LabelledImages(images, 67, Symmetric(0.2), loading=Loading(seed=3))
        watch = [ShiftedAccuracy(), Memorization()]
        trainer = quiet(
            max_epochs=2, devices=processes, strategy=strategy, callbacks=watch, precision="64-true",
            default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
        (metrics,) = trainer.test(module, datamodule=data, verbose=False)
        results.append((module.state_dict(), metrics, arrays(tmp_path / str(processes))))
    (one, metrics, entries), (two, same_metrics, same_entries) = results
    assert len(entries) == 3
    assert same_entries == entries
    assert same_metrics == pytest.approx(metrics, abs=1e-6)
    assert {"test/accuracy", "test/accuracy_moved_noisy", "test/ood_accuracy", "test/memorized"} <= set(metrics)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-10, msg=name)
