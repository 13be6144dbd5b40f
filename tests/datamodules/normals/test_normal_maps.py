from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.loading import Loading
from datamodules.normals.height_fields import HeightFields
from datamodules.normals.normal_maps import NormalMaps
from datamodules.normals.normal_set import NormalSet, NormalSource, Split
from datamodules.randomness.counter import sample_uniform
from tests.datamodules.recorder import Recorder
from tests.trainers import quiet

RANDOM = np.random.default_rng(0)
SIZES = [(9, 12), (12, 9), (9, 12), (8, 8)]
IMAGE = [RANDOM.integers(0, 256, (3, *size), dtype=np.uint8) for size in SIZES]
NORMAL = [RANDOM.standard_normal((3, *size)) for size in SIZES]
NORMAL = [(normal / np.linalg.norm(normal, axis=0)).astype(np.float32) for normal in NORMAL]


class FewSource(NormalSource):
    names, sizes = "abcd", SIZES

    def read(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        return IMAGE[position], NORMAL[position]


class Few(NormalSet):
    """Four images of three sizes."""

    def source(self, split: Split) -> FewSource:
        return FewSource()


def test_training_squares_are_cut_from_both_and_a_mirror_negates_x() -> None:
    module = Recorder()
    quiet(max_epochs=3).fit(module, NormalMaps(Few(), batch_size=3, crop_size=6, loading=Loading(num_workers=0)))
    assert [len(batch["index"]) for batch in module.trained] == [3, 3, 3]  # a last batch of one sample is dropped
    turned = 0
    for epoch, batch in enumerate(module.trained):
        for place, index in enumerate(batch["index"].tolist()):
            one = torch.tensor([index])
            row, column = sample_uniform(0, epoch, one, 2)[0].tolist()
            height, width = SIZES[index]
            top, left = int(row * (height - 5)), int(column * (width - 5))
            image, normal = (array[index][:, top : top + 6, left : left + 6].copy() for array in (IMAGE, NORMAL))
            if float(sample_uniform(0, epoch, one, 1, stream=1)) < 0.5:
                turned += 1
                image, normal = image[..., ::-1].copy(), normal[..., ::-1] * np.float32([[[-1]], [[1]], [[1]]])
            torch.testing.assert_close(batch["image"][place], torch.from_numpy(image).float() / 255)
            torch.testing.assert_close(batch["normal"][place], torch.from_numpy(np.ascontiguousarray(normal)))
    assert 0 < turned < 9


def test_whole_images_come_in_batches_of_one_size_with_their_names() -> None:
    module = Recorder()
    data = NormalMaps(
        test={"few": Few(), "fields": HeightFields(num_test=3, image_size=5)},
        loading=Loading(evaluation_batch_size=2, num_workers=0),
    )
    quiet().test(module, data)
    assert [(loader, batch["name"]) for loader, batch in zip(module.loaders, module.evaluated, strict=True)] == [
        (0, ["a", "c"]), (0, ["b"]), (0, ["d"]), (1, ["00000", "00001"]), (1, ["00002"]),
    ]  # fmt: skip
    torch.testing.assert_close(module.evaluated[0]["normal"][1], torch.from_numpy(NORMAL[2]))
    assert data.test_names == ["few", "fields"]


def test_a_folder_of_photographs_is_predicted_without_normals(tmp_path: Path) -> None:
    for name in ("x", "y"):
        Image.fromarray(IMAGE[0].transpose(1, 2, 0)).save(tmp_path / f"{name}.png")
    module = Recorder()
    quiet().predict(
        module, NormalMaps(predict_dir=str(tmp_path), loading=Loading(num_workers=0)), return_predictions=False
    )
    assert [batch["name"] for batch in module.evaluated] == [["x"], ["y"]]
    assert "normal" not in module.evaluated[0]
    torch.testing.assert_close(module.evaluated[0]["image"][0], torch.from_numpy(IMAGE[0]).float() / 255)


@pytest.mark.parametrize(
    ("settings", "stage", "message"),
    [
        ({"training": Few(), "crop_size": 9}, "fit", "Few: d has 8 x 8 pixels, less than data.crop_size 9"),
        ({}, "fit", "data.training is not given"),
        ({}, "test", "data.test is not given"),
    ],
)
def test_bad_input_is_refused_by_name(settings: dict[str, Any], stage: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NormalMaps(**settings).setup(stage)
