from typing import Any

import torch

from datamodules.classification.digits import Digits
from datamodules.classification.image_sets import OtherImages
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.ood_images import (
    OtherDigits,
    PhotographPatches,
    UniformNoise,
)
from datamodules.classification.out_of_distribution import OutOfDistribution
from datamodules.loading import Loading
from tests.datamodules.recorder import Recorder
from tests.trainers import quiet

EIGHT = Digits(num_classes=8)


def batches_of(data: OutOfDistribution) -> list[tuple[int, dict[str, Any]]]:
    module = Recorder()
    quiet().test(module, datamodule=data, verbose=False)
    return list(zip(module.loaders, module.evaluated, strict=True))


def test_batches_say_which_set_they_are_from_and_are_in_the_unit_interval() -> None:
    ood: dict[str, OtherImages] = {"photograph": PhotographPatches(50), "digits": OtherDigits([9])}
    data = OutOfDistribution(ood, images=EIGHT, loading=Loading(evaluation_batch_size=150))
    assert data.origin_names == ["in_distribution", "photograph", "digits"]
    batches = batches_of(data)
    sizes = {0: 0, 1: 0, 2: 0}
    data_range = dict.fromkeys(sizes, 0.0)
    for place, batch in batches:
        assert batch["origin"].tolist() == [place] * len(batch["image"])
        assert bool((batch["label"] == -1).all()) == (place > 0)
        assert batch["image"].dtype == torch.float32
        sizes[place] += len(batch["image"])
        data_range[place] = max(data_range[place], float(batch["image"].max()))
    assert sizes == {0: int((Digits().test().label < 8).sum()), 1: 50, 2: 180}
    assert data_range[0] == data_range[2] == 1.0  # stored in 0...16
    assert 0.5 < data_range[1] <= 1.0  # stored in 0...255
    first = next(batch for place, batch in batches if place == 0)
    torch.testing.assert_close(first["image"], EIGHT.test().image[:150] / 16)


def test_training_is_that_of_the_data_set_and_one_seed_is_of_both() -> None:
    alone = LabelledImages(EIGHT, batch_size=100, loading=Loading(seed=3))
    data = OutOfDistribution({"noise": UniformNoise(10)}, images=EIGHT, batch_size=100, loading=Loading(seed=3))
    for each in (data, alone):
        each.setup("fit")
    for batch, other in zip(data.train_dataloader(), alone.train_dataloader(), strict=True):
        assert torch.equal(batch["index"], other["index"])
        assert torch.equal(batch["image"], other["image"])
    assert (data.num_classes, data.image_shape, data.batch_size) == (8, (1, 8, 8), 100)
    assert data.num_train_samples == alone.num_train_samples == int((Digits().training().label < 8).sum())
