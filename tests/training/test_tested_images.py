from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.training import tested_images
from tests.callbacks.certification.planes import Images, Planes, certification, run


def test_datamodules_that_deal_requests_are_read_by_position(tmp_path: Path) -> None:
    class Brightness(Planes):
        num_classes = 10

        def forward(self, image: Tensor) -> Tensor:
            assert image.dtype == torch.float32
            middle = image.double().mean(dim=(1, 2, 3))[:, None]
            return -((middle - torch.linspace(0.2, 0.4, 10, dtype=torch.float64)) ** 2)

    data = LabelledImages(Digits(), batch_size=64)
    run(tmp_path, certification(skip=100), Brightness(), data, use_distributed_sampler=False)
    rows = pd.read_csv(tmp_path / "certification.csv")
    assert list(rows["idx"]) == [0, 100, 200, 300, 400]
    assert data.test_set is not None
    assert list(rows["label"]) == data.test_set.label[::100].tolist()


def test_all_labels_in_memory_and_few_images_tell_sets_apart() -> None:
    """A dataset is recognised by all its 200 labels, so that any changed label is noticed, and at most 16 images."""
    read: list[int] = []

    class Counted(Images):
        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return super().__getitem__(index)

    def settings(images: Images) -> dict[str, Any]:
        trainer = SimpleNamespace(
            test_dataloaders=DataLoader(images),
            datamodule=None,
            lightning_module=Planes(),
            strategy=SimpleNamespace(batch_to_device=lambda batch: batch),
            precision="32-true",
        )
        return tested_images.TestedImages(trainer, "a test").settings(Planes(), range(200))  # type: ignore[arg-type]

    images = Counted(200)
    before = settings(images)
    assert len(read) <= 16
    assert max(read) >= 180
    images.label[101] += 1
    assert 101 not in read
    assert {key for key, value in settings(images).items() if value != before[key]} == {"labels"}
