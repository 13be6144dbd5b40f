"""Tiny pipelines and small coloured images for the configs of generic tests."""

import tempfile
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
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from tests.tiny_pipelines import save_flux, save_stable_diffusion_3, save_xl


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


def tiny_flow_model(family: Literal["flux", "stable_diffusion_3"]) -> TextToImage:
    """Load a tiny pipeline, always the same, with adapters of rank 2; FLUX.1 uses DoRA.

    The global random state is unchanged.
    """
    save = save_flux if family == "flux" else save_stable_diffusion_3
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        model = text_to_image_pipeline(
            str(save(Path(folder))), tuning="lora", adapters=Adapters(rank=2, dora=family == "flux")
        )
    if family == "flux":
        model.pipeline.default_sample_size = 8
    return model


def tiny_frozen_model() -> TextToImage:
    """Load a tiny SDXL pipeline with frozen weights; the weights are the same in each call."""
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        return text_to_image_pipeline(str(save_xl(Path(folder))))
