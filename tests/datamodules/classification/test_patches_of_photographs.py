import torch
from torch import Tensor

from datamodules.classification.image_sets import ImagesInMemory
from datamodules.classification.patches_of_photographs import PatchesOfPhotographs
from datamodules.restoration.photographs import Photographs


def rows(source: ImagesInMemory) -> set[tuple[int, ...]]:
    return {tuple(image.flatten().tolist()) for image in source.image}


def drawn(seed: int, **arguments: float) -> PatchesOfPhotographs:
    return PatchesOfPhotographs(patch_size=64, **arguments).prepare(seed, torch.device("cpu"))


def test_both_halves_together_are_all_patches_of_all_photographs() -> None:
    images = drawn(0)
    train, test = images.training(), images.test()
    photographs = Photographs(256, colour=True, tested=()).images("training")
    assert images.num_classes == len(photographs.names) == len(images.class_names or [])
    for source in (train, test):
        assert source.image.shape == (13 * 8, 3, 64, 64)
        assert source.label.bincount().tolist() == [8] * 13
    assert len(rows(train) | rows(test)) == 13 * 16
    for place, name in enumerate(photographs.names):
        whole = torch.from_numpy(photographs.stored[place])
        cut: Tensor = whole.unfold(1, 64, 64).unfold(2, 64, 64).permute(1, 2, 0, 3, 4).flatten(0, 1)
        found = torch.cat([source.image[source.label == place] for source in (train, test)])
        assert {tuple(patch.flatten().tolist()) for patch in found} == {tuple(p.flatten().tolist()) for p in cut}, name


def test_split_and_contrast_follow_from_the_seed() -> None:
    assert drawn(3).training().image.equal(drawn(3).training().image)
    assert not drawn(3).training().image.equal(drawn(4).training().image)
    dark, plain = drawn(3, lowest_contrast=0.2).test(), drawn(3).test()
    contrast = dark.image.double().mean((1, 2, 3)) / plain.image.double().mean((1, 2, 3))
    assert 0.19 < contrast.min() < 0.3
    assert 0.9 < contrast.max() <= 1
    assert abs(contrast.mean() - 0.6) < 0.05
    wanted = plain.image * contrast[:, None, None, None]
    torch.testing.assert_close(dark.image.double(), wanted, rtol=0, atol=1.0)
