"""Tiny pipelines and small coloured images for the configs of generic tests."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from datamodules.classification.digits import Digits
from datamodules.classification.image_sets import ImagesInMemory
from datamodules.prompts.captioned_set import Captioned, CaptionedClasses
from datamodules.prompts.folder_sets import CaptionedFolder
from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.flux import Flux
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.backbones.diffusion.wan import Wan
from tests.tiny_pipelines import PIPELINES, save_xl


class ColouredDigits(Digits):
    """Digits of 16 x 16 pixels in three channels, one of which is inverted."""

    def __init__(self, train_size: int = 1300) -> None:
        super().__init__(train_size, image_size=16)
        self.image_shape = (3, 16, 16)

    def _read(self, rows: slice) -> ImagesInMemory:
        grey = super()._read(rows)
        return ImagesInMemory(torch.cat([grey.image, 255 - grey.image, grey.image], dim=1), grey.label)


class WithoutCaptions(CaptionedClasses):
    """Images of a labelled dataset, without captions."""

    def has_captions(self) -> bool:
        return False

    def training(self) -> Captioned:
        return Captioned(super().training().source)


class MovingDigits(CaptionedClasses):
    """Clips of five frames of a labelled dataset's images, which move to the right."""

    num_frames = 5

    def __init__(self, images: Digits) -> None:
        super().__init__(images)
        self.image_shape = (self.num_frames, *images.image_shape)

    def training(self) -> Captioned:
        still = super().training()
        assert isinstance(still.source, ImagesInMemory)
        frames = [still.source.image.roll(shift, dims=-1) for shift in range(self.num_frames)]
        return Captioned(ImagesInMemory(torch.stack(frames, dim=1), still.source.label), still.captions)


class ConditionedDigits(CaptionedFolder):
    """Coloured digits in a folder, with their negatives as condition images."""

    def __init__(self, count: int, image_size: int = 16) -> None:
        self.folder = tempfile.TemporaryDirectory()
        images, conditions = (Path(self.folder.name, name) for name in ("images", "conditions"))
        for number, pixels in enumerate(ColouredDigits(count).training().image[:count]):
            for directory, values in ((images, pixels), (conditions, 255 - pixels)):
                directory.mkdir(exist_ok=True)
                Image.fromarray(values.permute(1, 2, 0).numpy()).save(directory / f"{number}.png")
        super().__init__(str(images), image_size=image_size, prompt="a digit", condition_dir=str(conditions))


def tiny_flow_model(family: Literal["flux", "flux_kontext", "stable_diffusion_3", "wan"]) -> TextToImage:
    """Load a tiny pipeline, always the same, with adapters of rank 2; FLUX.1 uses DoRA.

    The global random state is unchanged.
    """
    load: Callable[..., TextToImage] = Wan if family == "wan" else text_to_image_pipeline
    adapters = Adapters(rank=2, dora=family == "flux")
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        model = load(str(PIPELINES[family](Path(folder))), tuning="lora", adapters=adapters)
    if isinstance(model, Flux):
        model.pipeline.default_sample_size = 8
    return model


def tiny_frozen_model() -> TextToImage:
    """Load a tiny SDXL pipeline with frozen weights; the weights are the same in each call."""
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        return text_to_image_pipeline(str(save_xl(Path(folder))))
