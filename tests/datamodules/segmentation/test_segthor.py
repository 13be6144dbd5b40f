import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.corruptions.mask_noise import OverUnderSegmentation
from datamodules.files.image_files import UnreadableImage
from datamodules.loading import Loading
from datamodules.segmentation.labelled_masks import LabelledMasks
from datamodules.segmentation.segthor import TEST, TRAINING, VALIDATION, SegTHOR
from tests.datamodules.image_folders import save
from tests.datamodules.recorder import Recorder
from tests.trainers import quiet

SMALL: dict[str, Any] = {"train_patients": [1, 10], "val_patients": [2], "test_patients": [3], "image_size": 32}


def slice_of(patient: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a slice in Hounsfield units and its mask; slice 0 of each patient shows no organ."""
    random = np.random.default_rng([patient, number])
    image = random.integers(-1000, 1000, size=(32, 32)).astype(np.int16)
    mask = np.zeros((32, 32), dtype=np.uint8)
    if number:
        mask[8:16, 8:16], mask[8:16, 20:26], mask[20:30, 4:12], mask[20:28, 20:30] = 1, 2, 3, 4
        mask[0, 0] = 255
    return image, mask


def name(patient: int, number: int) -> str:
    return f"Patient_{patient:02}_{number:04}"


@pytest.fixture(params=[("images", "masks"), ("img", "label")])
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for patient in (1, 2, 3, 10, 11):
        for number in range(4):
            image, mask = slice_of(patient, number)
            save(tmp_path / request.param[0] / f"{name(patient, number)}.npy", image)
            save(tmp_path / request.param[1] / f"{name(patient, number)}{'.png' if number == 1 else '.npy'}", mask)
    return tmp_path


@pytest.fixture
def pickles(tmp_path: Path) -> Path:
    for split, patients in (("tr", (1, 10)), ("val", (2,)), ("ts", (3,))):
        slices = {name(p, n): slice_of(p, n) for p in patients for n in range(4)}
        pair = tuple({key: both[part] for key, both in slices.items()} for part in (0, 1))
        (tmp_path / f"{split}.pkl").write_bytes(pickle.dumps(pair, protocol=2 if split == "val" else 5))
    return tmp_path


def check_sources(images: SegTHOR) -> None:
    data = LabelledMasks(images)
    data.setup("fit")
    data.setup("test")
    for part, patients in ((data.train_set, (1, 10)), (data.validation_set, (2,)), (data.test_set, (3,))):
        source: Any = part.source
        expected = [slice_of(patient, number) for patient in patients for number in (1, 2, 3)]
        assert np.array_equal(source.image[:, 0], np.stack([image for image, _ in expected]))
        assert np.array_equal(source.given, np.stack([mask for _, mask in expected]))


def test_slices_of_each_split_come_from_folders(folders: Path) -> None:
    """The slices are sorted by name, and slices without an organ are excluded."""
    check_sources(SegTHOR(str(folders), **SMALL))


def test_slices_of_each_split_come_from_pickles(pickles: Path) -> None:
    check_sources(SegTHOR(str(pickles), image_size=32))


def test_the_patients_are_the_authors() -> None:
    assert len(TRAINING) == 31
    assert not set(TRAINING) & {*VALIDATION, *TEST}
    assert sorted({*TRAINING, *VALIDATION, *TEST}) == list(range(1, 41))
    assert set(VALIDATION) & set(TEST) == {27}


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_the_network_gets_each_slice_standardised(folders: Path, precision: Any) -> None:
    blank = slice_of(3, 1)[1]
    stem = next(folders.glob("im*")) / name(3, 1)
    save(stem.with_suffix(".npy"), np.zeros_like(blank))
    module = Recorder()
    data = LabelledMasks(SegTHOR(str(folders), **SMALL), loading=Loading(num_workers=0))
    quiet(precision=precision).test(module, datamodule=data, verbose=False)
    [batch] = module.evaluated
    assert batch["image"].dtype == (torch.float64 if precision == "64-true" else torch.float32)
    assert torch.equal(batch["image"][0], torch.zeros(1, 32, 32))
    for image, number in zip(batch["image"][1:], (2, 3), strict=True):
        raw = slice_of(3, number)[0].astype(np.float64)
        expected = torch.from_numpy((raw - raw.mean()) / raw.std(ddof=1)).to(image)
        torch.testing.assert_close(image[0], expected)


def test_slices_of_another_size_are_resized(folders: Path) -> None:
    data = SegTHOR(str(folders), **{**SMALL, "image_size": 16})
    source = data.test()
    image, mask = slice_of(3, 1)
    half = image.astype(np.float64).reshape(16, 2, 16, 2).mean(axis=(1, 3))  # the midpoint between two pixels
    assert np.abs(source.image[0, 0].numpy() - half).max() <= 0.5
    assert source.image.dtype == torch.int16
    assert np.array_equal(source.given[0], mask[1::2, 1::2])


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("size", [32, 16])
def test_whole_numbers_beyond_16_bits_with_a_sign_keep_their_values(folders: Path, dtype: Any, size: int) -> None:
    large = np.full((32, 32), 40000, dtype=dtype)
    save(next(folders.glob("im*")) / f"{name(3, 2)}.npy", large)
    data = SegTHOR(str(folders), **{**SMALL, "image_size": size})
    source: Any = data.test()
    assert source.image[1].unique().tolist() == [40000]
    assert source.image[0].min() < 0  # the others are unchanged
    save(next(folders.glob("im*")) / f"{name(3, 2)}.npy", large - 20000)
    assert data.test().image.dtype == torch.int16


def test_noise_is_that_of_the_training_slices_alone(folders: Path) -> None:
    noise = OverUnderSegmentation(order=[1, 3, 4, 2])
    data = LabelledMasks(SegTHOR(str(folders), **SMALL), mask_noise=noise, loading=Loading(seed=4))
    data.setup("fit")
    train: Any = data.train_set.source
    validation: Any = data.validation_set.source
    expected = OverUnderSegmentation(order=[1, 3, 4, 2], seed=4).apply(train.clean, 5)
    assert torch.equal(train.given, expected)
    assert not torch.equal(train.given, train.clean)
    assert validation.clean is None


# mistakes


def test_missing_slices_are_named(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"SegTHOR: found neither volumes .*GT\.nii\.gz nor .*/images with a slice .* nor .*tr\.pkl; request",
    ):
        SegTHOR(str(tmp_path_factory.mktemp("empty"))).training()
    with pytest.raises(FileNotFoundError, match=r"no slice of patient 12 \(1 of 2 .* expected Patient_12_<slice>"):
        SegTHOR(str(folders), **{**SMALL, "train_patients": [1, 12]}).training()
    mask = next(folders.glob("[lm]a*")) / f"{name(1, 2)}.npy"
    mask.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"Patient_01_0002\.npy does not exist; it must be the mask of .*Patient_01_0002"
    ):
        SegTHOR(str(folders), **SMALL).training()
    for number in range(4):
        for path in next(folders.glob("[lm]a*")).glob(f"{name(3, number)}*"):
            path.unlink()
        save(mask.parent / f"{name(3, number)}.npy", np.zeros((32, 32), dtype=np.uint8))
    with pytest.raises(FileNotFoundError, match=r"no test slice in .* shows an organ"):
        SegTHOR(str(folders), **SMALL).test()


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda path: path.write_bytes(b"none"), UnreadableImage, r"Patient_03_0002\.npy cannot be read as a slice"),
        (lambda path: np.save(path, np.full((32, 32), 5)), ValueError, "a pixel of category 5, but num_classes 5"),
        (lambda path: np.save(path, np.full((32, 32), 0.5)), ValueError, "must contain class indices, whole numbers"),
        (lambda path: np.save(path, np.ones((32, 31))), ValueError, r"is \[32, 32\] and its mask \[32, 31\]"),
    ],
)
def test_damaged_masks_are_named(
    folders: Path, damage: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    damage(next(folders.glob("[lm]a*")) / f"{name(3, 2)}.npy")
    with pytest.raises(error, match=message):
        SegTHOR(str(folders), **SMALL).test()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04damaged", "is damaged or not a pickle that contains only NumPy arrays"),
        (pickle.dumps({"a": np.zeros(3)}), "must contain two dicts from names to arrays, of images and of masks, got"),
        (
            pickle.dumps(({"a": np.zeros(3)}, {"b": np.zeros(3)})),
            "with the same names; 2 names are in only one",
        ),
        (pickle.dumps(({"a": [1]}, {"a": [1]})), "a is not an array of numbers"),
    ],
)
def test_pickles_of_anything_else_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "ts.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"ts\.pkl") as raised:
        SegTHOR(str(tmp_path)).test()
    raised.match(message)
