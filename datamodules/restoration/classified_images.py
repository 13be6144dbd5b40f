"""Images of a classification set as images to restore."""

import torch

from datamodules.classification.image_sets import ImageSet
from datamodules.restoration.images import Images, PairSet, Split


class ClassifiedImages(PairSet):
    """The images of any classification set without their labels; validation has the test images.

    Args:
        images: the set, such as `Digits` or `CIFAR10`, which is read into memory.
    """

    def __init__(self, images: ImageSet) -> None:
        self.source = images
        self.channels = images.image_shape[0]

    def images(self, split: Split) -> Images:
        self.source.fetch_missing()
        read = self.source.training() if split == "training" else self.source.test()
        rows = torch.arange(len(read.label))
        stored = [image.numpy() for part in rows.split(1000) for image in read.fetch(part, None)]
        return Images([f"{row:06d}" for row in rows.tolist()], stored, data_range=read.data_range)
