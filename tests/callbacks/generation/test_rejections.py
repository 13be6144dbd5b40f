from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from callbacks.generation.extraction import ALONE, Extractor, features_of
from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.networks.fid_inception import FIDInception
from tests.callbacks.generation.test_extraction import images
from tests.callbacks.generation.tiny_generator import TinyGenerator, fid
from tests.rejections import Row, rejections
from tests.trainers import quiet


class Undefined(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return (image.flatten(1) - 0.5).log()


def data_without_a_set_of_images(root: Path) -> object:
    trainer = quiet(callbacks=[fid(root)], default_root_dir=root)
    loader = LabelledImages(Digits(), batch_size=650)
    loader.setup("test")
    return trainer.test(TinyGenerator(), loader.test_dataloader(), verbose=False)


# fmt: off
REJECTED: list[Row] = [
    ("features_of 1", lambda root: features_of(images(), Extractor(nn.Flatten(), None), root, 3, ALONE), ValueError,
     "extractor_name None with Flatten"),
    ("features_of 2", lambda root: features_of(images(), Extractor(FIDInception(), "mine"), root, 3, ALONE), ValueError,
     "extractor_name 'mine' with FIDInception"),
    ("features_of sizes",
     lambda root: features_of(images(sizes=(4, 5)), Extractor(nn.Flatten(), "pixels"), root, 3, ALONE), ValueError,
     r"image 1 of some has shape \[3, 4, 5\].*needs images of one"),
    ("features_of 3", lambda root: features_of(images(), Extractor(nn.Identity(), "nothing"), root, 3, ALONE),
     ValueError, r"must return features \[B, D\], for 3 images \[3, D\], got \[3, 3, 4, 4\]"),
    ("features_of 4", lambda root: features_of(images(), Extractor(Undefined(), "logarithms"), root, 3, ALONE),
     ValueError, "the features of image 0 of some are infinite or NaN"),
    ("data without a set of images", data_without_a_set_of_images, TypeError,
     r"FID.images is not given, and NoneType has no dataset of images"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
