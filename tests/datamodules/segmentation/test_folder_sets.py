from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.predictions import WritePredictions
from datamodules.corruptions.mask_noise import ErosionDilation
from datamodules.files.image_files import WholeImage
from datamodules.loading import Loading
from datamodules.segmentation.folder_sets import MaskFolders, read_image, read_square_mask
from datamodules.segmentation.labelled_masks import LabelledMasks
from datamodules.segmentation.mask_files import read_mask as category_mask
from datamodules.segmentation.shapes import Shapes
from datamodules.segmentation.unpaired_masks import UnpairedMasks
from lightning_modules.baselines import SegmentationCrossEntropy
from tests.datamodules.image_folders import save
from tests.datamodules.segmentation.test_unpaired_masks import augmented, request
from tests.trainers import quiet


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Write six images of different sizes and formats, three auxiliary masks, and two test images."""
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
    data: Any = UnpairedMasks(MaskFolders(str(folders), 16), batch_size=2, loading=Loading(num_workers=0))
    data.set_up_training()
    data.set_up_test()
    assert data.num_train_samples == 6
    assert data.training_names == [f"p{number}" for number in range(6)]
    assert data.validation_set is None
    batch = data.train_set[request(*range(6))]
    assert batch["image"].shape == (6, 1, 16, 16)
    assert batch["image"].double().mean(dim=(1, 2, 3)).tolist() == pytest.approx([40.0 * n for n in range(6)], abs=2)
    assert not batch["label"].any()
    assert {int(mask.sum()) for mask in augmented(data, *range(6), epoch=1)} <= {48, 128, 208}
    test = data.test_set[request(0, 1)]
    assert test["label"].tolist() == [[[1] * 8 + [0] * 8] * 16] * 2


def test_pseudo_labels_of_an_earlier_run_are_found_by_name(folders: Path) -> None:
    for number in range(6):
        save(folders / "earlier" / "round_0" / f"p{number}.png", np.full((16, 16), 255 * (number % 2), dtype=np.uint8))
    data: Any = UnpairedMasks(
        MaskFolders(str(folders), 16, training_masks="earlier/round_0"), loading=Loading(num_workers=0)
    )
    data.set_up_training()
    assert data.has_training_labels
    assert data.train_set[request(*range(6))]["label"].amax(dim=(1, 2)).tolist() == [0, 1, 0, 1, 0, 1]
    (folders / "earlier" / "round_0" / "p3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no mask for 1 of the 6 images .*p3"):
        MaskFolders(str(folders), 16, training_masks="earlier/round_0").training()


def test_colours_and_sixteen_bits(tmp_path: Path) -> None:
    save(tmp_path / "colour.png", np.full((9, 9, 3), (10, 20, 30), dtype=np.uint8))
    assert read_image(tmp_path / "colour.png", WholeImage(4), 3)[:, 2, 2].tolist() == [10, 20, 30]
    save(tmp_path / "deep.png", np.full((9, 9), 65535 // 5, dtype=np.uint16))
    assert read_image(tmp_path / "deep.png", WholeImage(4), 1).unique().tolist() == [51]
    [level] = read_image(tmp_path / "deep.png", WholeImage(4, data_range=65535), 1).unique().tolist()
    assert level == pytest.approx(0.2)
    save(tmp_path / "empty.png", np.zeros((9, 9), dtype=np.uint8))
    assert not read_square_mask(tmp_path / "empty.png", 4).any()
    Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save(tmp_path / "transparent.png")
    assert (read_image(tmp_path / "transparent.png", WholeImage(4), 3) == 255).all()
    half = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    half.paste((255, 255, 255, 255), (0, 0, 4, 2))
    half.save(tmp_path / "half.png")
    assert read_square_mask(tmp_path / "half.png", 4).tolist() == [[1] * 4] * 2 + [[0] * 4] * 2


def test_what_is_missing_is_said(folders: Path) -> None:
    read = MaskFolders(str(folders), 16)
    (folders / "test_masks" / "t1.tif").unlink()
    with pytest.raises(FileNotFoundError, match="test_masks has no mask for 1 of the 2 images"):
        read.test()
    for mask in (folders / "aux_masks").iterdir():
        mask.unlink()
    with pytest.raises(FileNotFoundError, match=r"aux_masks has no file .* set data.auxiliary_masks"):
        read.auxiliary_masks()
    save(folders / "images" / "p0.jpg", np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match="two files p0"):
        read.training()
    (folders / "images" / "p9.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"p9.png cannot be read as an image"):
        read_image(folders / "images" / "p9.png", WholeImage(16), 1)
    with pytest.raises(FileNotFoundError, match="images does not exist; it must contain the images to train on"):
        MaskFolders(str(folders / "test_images"), 16).training()


def test_masks_of_folders_train_a_supervised_segmenter_with_noise(folders: Path) -> None:
    for number in range(6):
        mask = np.zeros((16, 16), dtype=np.uint8)
        mask[4:12, 4:12] = 255
        save(folders / "masks" / f"p{number}.png", mask)
    images = MaskFolders(str(folders), 16, training_masks="masks")
    data: Any = LabelledMasks(
        images, batch_size=2, mask_noise=ErosionDilation(1, 1, "erode"), loading=Loading(num_workers=0)
    )
    data.setup("fit")
    batch = data.train_set[request(0, 3)]
    assert batch["clean_label"].sum(dim=(1, 2)).tolist() == [64, 64]
    assert batch["label"].sum(dim=(1, 2)).tolist() == [36, 36]


def test_masks_of_new_images_have_their_names(folders: Path) -> None:
    save(folders / "new" / "first.png", np.full((40, 30, 3), 200, dtype=np.uint8))
    save(folders / "new" / "more" / "second.png", np.full((20, 20), 100, dtype=np.uint8))
    data = LabelledMasks(
        MaskFolders(str(folders), 16), batch_size=2, loading=Loading(num_workers=0), predict_dir=str(folders / "new")
    )
    module = SegmentationCrossEntropy(torch.nn.Conv2d(1, 2, 1), num_classes=2)
    trainer = quiet(default_root_dir=folders / "run", callbacks=[WritePredictions()])
    trainer.predict(module, data, return_predictions=False)
    written = folders / "run" / "predictions"
    assert sorted(str(path.relative_to(written)) for path in written.rglob("*.png")) == ["first.png", "more/second.png"]
    expected = module(torch.full((1, 1, 16, 16), 200 / 255)).argmax(dim=1)[0]
    assert category_mask(written / "first.png").tolist() == expected.tolist()
    one = MaskFolders(str(folders), 16).new_images(str(folders / "new" / "first.png"))
    assert one.names == ["first"]


def test_new_images_need_a_set_that_reads_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"such as MaskFolders, but data\.images is a Shapes"):
        LabelledMasks(Shapes(), predict_dir=str(tmp_path)).setup("predict")
