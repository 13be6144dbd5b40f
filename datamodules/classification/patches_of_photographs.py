"""Patches of the photographs in scikit-image and scikit-learn. The label of a patch is the index of its photograph."""

from typing import Self

import torch
import torch.nn.functional as F

from datamodules.arguments import within
from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.restoration.photographs import Photographs

SIDE = 256
"""Height and width to which photographs are resized, in pixels."""
NUM_PHOTOGRAPHS = 13


class PatchesOfPhotographs(ImageSet):
    """Adjacent colour patches of thirteen photographs, with random contrast.

    Each photograph is one class.

    A random half of each photograph's patches is for training, and the other half is for testing. Each patch is
    multiplied by a random contrast, which is uniform in [lowest_contrast, 1]. The split and the contrasts depend only
    on the seed.

    Args:
        patch_size: height and width of a patch, in pixels, in 1...128.
        lowest_contrast: smallest contrast, in (0, 1]. 1 leaves the patches unchanged.
    """

    def __init__(self, patch_size: int = 16, lowest_contrast: float = 1.0) -> None:
        within(1, SIDE // 2, patch_size=patch_size)
        within(0, 1, "(]", lowest_contrast=lowest_contrast)
        self.lowest_contrast = lowest_contrast
        self.num_classes = NUM_PHOTOGRAPHS
        self.image_shape = (3, patch_size, patch_size)
        self._seed = 0

    def prepare(self, seed: int, device: torch.device) -> Self:
        self._seed = seed
        return self

    def training(self) -> ImagesInMemory:
        return self._halves()[0]

    def test(self) -> ImagesInMemory:
        return self._halves()[1]

    def _halves(self) -> list[ImagesInMemory]:
        size = self.image_shape[1]
        photographs = Photographs(SIDE, colour=True, tested=()).images("training")
        self.class_names = list(photographs.names)
        pixels = torch.stack([torch.from_numpy(image) for image in photographs.stored]).float()
        patch = F.unfold(pixels, size, stride=size).transpose(1, 2).unflatten(2, self.image_shape)
        random = torch.Generator().manual_seed(self._seed)
        order = torch.rand(patch.shape[:2], generator=random).argsort(dim=1)
        contrast = self.lowest_contrast + (1 - self.lowest_contrast) * torch.rand(patch.shape[:2], generator=random)
        patch = (patch * contrast[..., None, None, None]).round().to(torch.uint8)
        photograph = torch.arange(len(patch))[:, None]
        halves = order.tensor_split(2, dim=1)
        return [
            ImagesInMemory(patch[photograph, half].flatten(end_dim=1), photograph.expand_as(half).flatten())
            for half in halves
        ]
