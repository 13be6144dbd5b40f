from typing import Any

import torch

from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.loading.whole_images import WholeImageSets


class Sized:
    """Images whose sizes are given; the pixels do not matter."""

    def __init__(self, *sizes: tuple[int, int]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        return {"index": request.indices, "global_batch_size": request.global_batch_size}


class Images(WholeImageSets):
    """A stand-in that returns the given images."""

    def set_up_training(self) -> None:
        self.train_set = self.training

    def whole(self, one: Any, split: Any) -> Sized:
        assert split == "test"
        return one

    def new_images(self, folder: str) -> Sized:
        return Sized((len(folder), 1))


def images(test: Any, predict_dir: str | None = None) -> Images:
    return Images(None, test, None, predict_dir, 4, Loading(evaluation_batch_size=2))


def dealt(loaders: Any) -> list[list[list[int]]]:
    return [[batch["index"].tolist() for batch in loader] for loader in loaders]


def test_each_test_set_has_a_loader_of_whole_images_of_one_size() -> None:
    data = images({"a": Sized((2, 3), (2, 2), (2, 3)), "b": Sized((5, 5))})
    data.setup("test")
    assert data.test_names == ["a", "b"]
    assert dealt(data.test_dataloader()) == [[[0, 2], [1]], [[0]]]
    assert images(Sized()).test_names == ["Sized"]


def test_a_folder_is_predicted_in_place_of_the_test_images() -> None:
    data = images(Sized((1, 1), (1, 1)))
    data.setup("predict")
    assert dealt(data.predict_dataloader()) == [[[0, 1]]]
    data = images(Sized((1, 1), (1, 1)), predict_dir="folder")
    data.setup("predict")
    assert data.test_sets is None
    assert dealt(data.predict_dataloader()) == [[[0]]]


def test_images_are_never_in_half_precision() -> None:
    data = images(None)
    for module, images_are in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        trainer: Any = type("Trainer", (), {"lightning_module": type("Module", (), {"dtype": module})})
        data.trainer = trainer
        assert data.pixel_type == images_are
