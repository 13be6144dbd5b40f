import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from datamodules.loading.global_batches import Request
from datamodules.segmentation.ellipse_images import EllipseImages
from datamodules.segmentation.ellipses import EllipseShapes, ellipse_masks
from datamodules.segmentation.unpaired_masks import UnpairedMasks, read_image, read_mask

# ellipses


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_an_ellipse_has_its_area_its_centre_and_its_axes(seed: int) -> None:
    uniform = torch.rand(1, 5, generator=torch.Generator().manual_seed(seed))
    mask = ellipse_masks(uniform, 256, (0.1, 0.2), (0.5, 1.0))[0].double().numpy()
    u = uniform[0].double().numpy()
    a = 256 * (0.1 + 0.1 * u[2])
    b = a * (0.5 + 0.5 * u[3])
    assert mask.sum() == pytest.approx(math.pi * a * b, rel=0.02)
    rows, columns = np.nonzero(mask)
    assert rows.mean() + 0.5 == pytest.approx(256 * (0.25 + 0.5 * u[0]), abs=0.5)
    assert columns.mean() + 0.5 == pytest.approx(256 * (0.25 + 0.5 * u[1]), abs=0.5)
    spread = np.linalg.eigvalsh(np.cov(rows, columns))  # a quarter of a squared semi-axis
    assert 2 * np.sqrt(spread) == pytest.approx([b, a], rel=0.02)


def test_angles_turn_from_columns_to_rows() -> None:
    uniform = torch.tensor([[0.5, 0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.5, 0.0, 0.5]])
    flat, upright = ellipse_masks(uniform, 64, (0.3, 0.3), (0.4, 0.4))
    assert torch.equal(flat.T, upright)
    assert flat.any(dim=0).sum() > 2 * flat.any(dim=1).sum()


def test_a_set_of_ellipses_is_its_seeds() -> None:
    shapes = EllipseShapes(10)
    first = shapes.masks(torch.arange(10), 32, seed=0)
    assert torch.equal(first[[7, 2]], shapes.masks(torch.tensor([7, 2]), 32, seed=0))
    assert not torch.equal(first, shapes.masks(torch.arange(10), 32, seed=1))
    assert first.dtype == torch.uint8
    assert len(first.flatten(start_dim=1).unique(dim=0)) == 10


@pytest.mark.parametrize(
    ("key", "value"), [("number", 0), ("semi_axis", (0.3, 0.2)), ("ratio", (0.0, 1.0)), ("centre", 2.0)]
)
def test_bad_ranges_are_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        EllipseShapes(**{key: value})


# the bundled set


def request(*index: int, visit: int = 0) -> Request:
    return Request(torch.tensor(index), visit, len(index))


def augmented(data: Any, *index: int, visit: int = 0) -> Tensor:
    batch = data.train_set[request(*index, visit=visit)]
    return data.augmented(batch, batch.pop("visit"))["auxiliary_mask"]


def test_auxiliary_masks_depend_on_seed_visit_and_image_alone() -> None:
    data, other = EllipseImages(seed=3), EllipseImages(seed=4)
    for each in (data, other):
        each.set_up_training()
    whole = augmented(data, 0, 1, 2, 3, visit=5)
    assert whole.shape == (4, 1, 32, 32)
    assert torch.equal(augmented(data, 3, 1, visit=5), whole[[3, 1]])
    assert not torch.equal(augmented(data, 0, 1, 2, 3, visit=6), whole)
    assert not torch.equal(augmented(other, 0, 1, 2, 3, visit=5), whole)


def test_auxiliary_masks_belong_to_no_image_and_all_are_used_alike() -> None:
    data = EllipseImages(shapes=EllipseShapes(10), num_training=100)
    data.set_up_training()
    pool = data.shapes.masks(torch.arange(10), 32, seed=0)
    drawn = torch.cat([augmented(data, *range(100), visit=visit)[:, 0] for visit in range(10)])
    same = (drawn[:, None] == pool[None]).all(dim=(2, 3))
    assert same.any(dim=1).all()
    assert same.sum(dim=0).min() > 60  # of 1,000, expected 100 each
    truth = data.train_set[request(*range(100))]["clean_label"]
    assert not (truth[:, None] == pool[None]).all(dim=(2, 3)).any()


def test_the_bundled_set_has_no_labels_and_different_splits() -> None:
    data = EllipseImages(num_training=20, num_validation=20, num_test=20)
    data.set_up_training()
    data.set_up_test()
    sets = [data.train_set, data.validation_set, data.test_set]
    training, validation, test = (samples[request(*range(20))] for samples in sets)
    assert not training["label"].any()
    assert training["clean_label"].any()
    for one, other in ((training, validation), (training, test), (validation, test)):
        assert not (one["image"] == other["image"]).flatten(start_dim=1).all(dim=1).any()
    truth = test["label"].bool()[:, None]
    image = test["image"].double() / 255
    inside = (image * truth).sum(dim=(1, 2, 3)) / truth.sum(dim=(1, 2, 3))
    outside = (image * ~truth).sum(dim=(1, 2, 3)) / (~truth).sum(dim=(1, 2, 3))
    assert (inside - outside).mean() == pytest.approx(0.3, abs=0.05)
    again = EllipseImages(num_test=20)
    again.set_up_test()
    assert torch.equal(again.test_set[request(*range(20))]["image"], test["image"])


# a user's folders


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Six images of different sizes and formats, three auxiliary masks, two images to test with."""
    for number, suffix in enumerate(("png", "jpg", "tif", "png", "bmp", "png")):
        save(tmp_path / "images" / f"p{number}.{suffix}", np.full((20 + number, 30), 40 * number, dtype=np.uint8))
    for number in range(3):
        mask = np.zeros((24, 24), dtype=np.uint8)
        mask[: 8 * number + 4] = (1, 255, 7)[number]
        save(tmp_path / "aux_masks" / f"m{number}.png", mask)
    for number in range(2):
        save(tmp_path / "test_images" / f"t{number}.png", np.full((40, 40, 3), 200, dtype=np.uint8))
        mask = np.zeros((40, 40), dtype=np.uint8)
        mask[:, :20] = 255
        save(tmp_path / "test_masks" / f"t{number}.tif", mask)
    return tmp_path


def test_folders_of_any_size_and_format(folders: Path) -> None:
    data = UnpairedMasks(str(folders), batch_size=2, image_size=16, num_workers=0)
    data.set_up_training()
    data.set_up_test()
    assert data.num_train_samples == 6
    assert data.training_names == [f"p{number}" for number in range(6)]
    assert data.validation_set is None
    batch = data.train_set[request(*range(6))]
    assert batch["image"].shape == (6, 1, 16, 16)
    assert batch["image"].double().mean(dim=(1, 2, 3)).tolist() == pytest.approx([40.0 * n for n in range(6)], abs=2)
    assert not batch["label"].any()
    assert {int(mask.sum()) for mask in augmented(data, *range(6), visit=1)} <= {48, 128, 208}
    test = data.test_set[request(0, 1)]
    assert test["label"].tolist() == [[[1] * 8 + [0] * 8] * 16] * 2


def test_pseudo_labels_of_an_earlier_run_are_found_by_name(folders: Path) -> None:
    for number in range(6):
        save(folders / "earlier" / "round_0" / f"p{number}.png", np.full((16, 16), 255 * (number % 2), dtype=np.uint8))
    data = UnpairedMasks(str(folders), image_size=16, pseudo_labels="earlier/round_0", num_workers=0)
    data.set_up_training()
    assert data.has_training_labels
    assert data.train_set[request(*range(6))]["label"].amax(dim=(1, 2)).tolist() == [0, 1, 0, 1, 0, 1]
    (folders / "earlier" / "round_0" / "p3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no mask for 1 of the 6 images .*p3"):
        UnpairedMasks(str(folders), image_size=16, pseudo_labels="earlier/round_0").read_training()


def test_colours_and_sixteen_bits(tmp_path: Path) -> None:
    save(tmp_path / "colour.png", np.full((9, 9, 3), (10, 20, 30), dtype=np.uint8))
    assert read_image(tmp_path / "colour.png", 4, 3)[:, 2, 2].tolist() == [10, 20, 30]
    save(tmp_path / "deep.png", np.full((9, 9), 65535 // 5, dtype=np.uint16))
    assert read_image(tmp_path / "deep.png", 4, 1).unique().tolist() == [51]
    save(tmp_path / "empty.png", np.zeros((9, 9), dtype=np.uint8))
    assert not read_mask(tmp_path / "empty.png", 4).any()


def test_what_is_missing_is_said(folders: Path, tmp_path: Path) -> None:
    def read(**options: Any) -> UnpairedMasks:
        return UnpairedMasks(str(folders), image_size=16, num_workers=0, **options)

    (folders / "test_masks" / "t1.tif").unlink()
    with pytest.raises(FileNotFoundError, match="test_masks holds no mask for 1 of the 2 images"):
        read().read_test()
    for mask in (folders / "aux_masks").iterdir():
        mask.unlink()
    with pytest.raises(FileNotFoundError, match=r"aux_masks holds no file .* set data.shapes"):
        read().read_training()
    assert read(shapes=EllipseShapes(5)).read_training() is not None
    save(folders / "images" / "p0.jpg", np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match="two files p0"):
        read().read_training()
    (folders / "images" / "p9.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"p9.png cannot be read as an image"):
        read_image(folders / "images" / "p9.png", 16, 1)
    with pytest.raises(FileNotFoundError, match="images does not exist; it holds the images to train on"):
        UnpairedMasks(str(folders / "test_images"), image_size=16).read_training()
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 4"):
        UnpairedMasks(str(folders), channels=4)
