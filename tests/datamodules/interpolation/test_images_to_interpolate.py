import pytest
import torch

from datamodules.classification.digits import Digits
from datamodules.corruptions.image_noise import Gaussian
from datamodules.interpolation.end_points import PairsOfOneClass
from datamodules.interpolation.folder_sets import PairsInFolder
from datamodules.interpolation.images_to_interpolate import ImagesToInterpolate
from datamodules.loading import Loading
from tests.trainers import standing


def prepared(data: ImagesToInterpolate, stage: str) -> ImagesToInterpolate:
    module = standing(dtype=torch.float32)
    data.trainer = standing(lightning_module=module, current_epoch=0, global_rank=0, world_size=1, num_devices=1)
    data.setup(stage)
    return data


def test_pairs_get_noise_of_their_own_and_training_images_none() -> None:
    noise = Gaussian(grey_levels=51.0)
    data = prepared(
        ImagesToInterpolate(PairsOfOneClass(Digits(), 50), noise, loading=Loading(evaluation_batch_size=7)), "test"
    )
    clean = prepared(
        ImagesToInterpolate(PairsOfOneClass(Digits(), 50), loading=Loading(evaluation_batch_size=50)), "test"
    )
    noisy = [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]
    [whole] = [clean.on_after_batch_transfer(batch, 0) for batch in clean.test_dataloader()]
    assert whole["first"].max() == 1
    added = [torch.cat([batch[key] for batch in noisy]) - whole[key] for key in ("first", "second")]
    for each in added:
        assert each.std().item() == pytest.approx(0.2, abs=0.01)
    assert abs(torch.corrcoef(torch.stack([each.flatten() for each in added]))[0, 1]) < 0.06
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert (batch["image"] * 16 == (batch["image"] * 16).round()).all()


def test_training_images_are_handed_out_whole() -> None:
    digits = Digits()
    found = ImagesToInterpolate(PairsOfOneClass(digits)).training_images()
    assert torch.equal(found[0], digits.training().image)
    assert found[1] == 16


def test_a_set_of_pairs_alone_is_not_trained_on() -> None:
    data = ImagesToInterpolate(PairsInFolder("nowhere"))
    assert data.training_images() is None
    with pytest.raises(ValueError, match="PairsInFolder has only pairs and no training images: use predict or test"):
        data.setup("fit")
