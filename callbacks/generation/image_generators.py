"""Generate requested images with a `Generator` of this project or with a diffusers pipeline."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from callbacks.generation.generated_blocks import sampled_bytes
from callbacks.generation.image_requests import ImageRequest
from datamodules.arguments import within
from datamodules.distributed.collectives import run_seed
from datamodules.files.limits import sentence
from datamodules.files.module_hash import hash_of_module
from datamodules.files.pixels import read_pixels
from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from lightning_modules.backbones.diffusion.text_encoders import ENCODERS, skip_last_layers
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.interfaces import (
    ClassGenerator,
    ConditionedGenerator,
    Generator,
    ImprovedNoise,
    PromptedGenerator,
    SeededRows,
    SizedGenerator,
    TestSetGenerator,
)
from lightning_modules.sde.stochastic_steps import stepping_with

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

IMAGES = "images"
"""Name of the folder of images."""
MOST_STEPS, LARGEST_SIDE, MOST_GUIDANCE = 10_000, 16_384, 1_000
"""Largest values of the options; with larger guidance scales, computations overflow and images are black."""


@dataclass(frozen=True)
class Settings:
    """Sampling settings. For a setting that is None, the model's own setting is used."""

    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    image: Path | None = None
    mask: Path | None = None
    strength: float | None = None
    clip_skip: int | None = None
    pairs: bool = False
    """Whether each image is also generated from ordinary initial noise, for comparison."""

    def __post_init__(self) -> None:
        within(1, MOST_STEPS, steps=self.steps)
        within(1, LARGEST_SIDE, frames=self.frames, height=self.height, width=self.width)
        within(0, MOST_GUIDANCE, guidance=self.guidance)
        within(0, 1, "(]", strength=self.strength)
        if self.image is None and (self.mask is not None or self.strength is not None):
            raise ValueError(f"--{'strength' if self.mask is None else 'mask'} needs --image")

    def given_values(self) -> dict[str, Any]:
        """Return the settings that are not None, as JSON values by option name."""
        found = {key: str(value) if isinstance(value, Path) else value for key, value in vars(self).items()}
        return {key: value for key, value in found.items() if value is not None and value is not False}


class ImageGenerator(Protocol):
    """A generator of blocks of images."""

    folders: Sequence[str]
    """Names of the folders for which images are generated; the first name is `IMAGES`."""
    seed_per_image: bool
    """Whether each image of a block has its own seed. If false, the first image's seed determines the whole block."""
    configuration: Mapping[str, Any]
    """Everything, other than `settings`, on which images depend, as JSON values; too long for an image's metadata."""

    def check(self, requests: Sequence[ImageRequest]) -> None:
        """Reject requests that the model cannot fulfil."""
        ...

    def to(self, device: torch.device) -> None:
        """Move the model to a device."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return the description of the model and its settings for the metadata of images, as JSON values."""
        ...

    def images(self, block: Sequence[ImageRequest]) -> list[NDArray[np.uint8]]:
        """Generate a block of images. The result has an array `[B, C, H, W]` or `[B, T, C, H, W]` for each folder."""
        ...


def reject(given: Sequence[str], model: str, remedy: str = "") -> None:
    """Reject options that a model does not have."""
    if given:
        options = ", ".join(f"--{option}" for option in given)
        raise ValueError(f"{options}: not an option of {model}{remedy and f'; {remedy}'}")


def check_classes(requests: Sequence[ImageRequest], count: int, model: str) -> None:
    """Reject classes that a model of `count` classes does not have."""
    if wrong := [request.label for request in requests if (request.label or 0) >= count]:
        raise ValueError(f"--classes must be in 0 ... {count - 1} for {model}, got {wrong[0]}")


class ModuleGenerator:
    """A generator that uses a module of this project.

    If the module is not a `SeededRows`, all images of a block are generated from the seed of the first image. An image
    can then be reproduced from its own seed only if it is the only image of its block.

    Args:
        module: module with trained weights.
        settings: settings with which the module samples.
        configuration: configuration of the run, as JSON values.
        trained_size: height and width of the training images, after the number of frames of clips. They are the default
            size of the images of a text-to-image model.
    """

    def __init__(
        self,
        module: "LightningModule",
        settings: Settings,
        configuration: Mapping[str, Any] | None = None,
        trained_size: tuple[int, ...] | None = None,
    ) -> None:
        self.configuration = configuration or {}
        evaluated: Any = module.eval().requires_grad_(False)
        self.module = evaluated
        self.name = type(module).__name__
        if not isinstance(module, Generator):
            raise ValueError(f"{self.name} does not generate images: it has no method sample")
        if isinstance(module, TestSetGenerator):
            raise ValueError(
                f"{self.name} generates images only from pairs of its test set: run `predict`, which writes them to "
                "files"
            )
        self._given = settings.given_values()
        prompted, improved = isinstance(module, PromptedGenerator), isinstance(module, ImprovedNoise)
        self._prompted = prompted and self.module.takes_prompts
        self.seed_per_image = isinstance(module, SeededRows)
        self._texts = text_model(module) if self._prompted else None
        allowed = {"steps"} if prompted else set()
        allowed |= {"guidance"} if self._texts is not None else set()
        allowed |= {"negative_prompt"} if getattr(self._texts, "takes_negative_prompts", False) else set()
        allowed |= {"pairs"} if improved else set()
        sized = isinstance(module, SizedGenerator) and isinstance(self._texts, TextToImage)
        allowed |= {"height", "width"} if sized else set()
        self._clips = getattr(self._texts, "frame_multiple", None) is not None
        allowed |= {"frames"} if self._clips else set()
        allowed |= {"image"} if isinstance(module, ConditionedGenerator) else set()
        reject(
            [key for key in self._given if key not in allowed],
            self.name,
            "its own arguments can follow `--`, such as -- --model.sampler.num_steps 100",
        )
        if sized:
            self._set_size(settings, trained_size)
        if settings.steps is not None:
            self.module.num_inference_steps = settings.steps
        if settings.guidance is not None:
            self.module.guidance_scale = settings.guidance
        if settings.negative_prompt is not None:
            assert self._texts is not None
            self._texts.negative_prompt = settings.negative_prompt
        if settings.image is not None:
            pixels = read_pixels(settings.image, channels=3)
            (tall, wide), (height, width) = pixels.shape[1:], self.module.sample_size or pixels.shape[1:]
            if abs(height * wide - tall * width) > max(height, width, tall, wide):
                raise ValueError(
                    f"--image has {wide} x {tall} pixels, and the generated images have {width} x {height}: crop it to "
                    f"their aspect ratio, or set --height and --width"
                )
            self._given["image_digest"] = hash_of_images({"image": Image.fromarray(pixels.transpose(1, 2, 0))})
            evaluated.condition = torch.from_numpy(pixels)[None].float() / 255
        elif isinstance(module, ConditionedGenerator):
            raise ValueError(f"{self.name} needs --image, its condition image")
        self.starts: list[Any] = [None]
        if settings.pairs:
            if self.module.start == self.module.plain_start:
                raise ValueError(f"--pairs needs improved initial noise, but model.start is {self.module.start!r}")
            self.starts = [self.module.start, self.module.plain_start]
        self.folders = [IMAGES, *self.starts[1:]]

    def _set_size(self, settings: Settings, trained_size: tuple[int, ...] | None) -> None:
        network: Any = self.module.network
        *frames, height, width = trained_size or network.default_size
        size = {"height": settings.height or height, "width": settings.width or width}
        if wrong := {key: side for key, side in size.items() if side % network.size_multiple}:
            key, side = next(iter(wrong.items()))
            raise ValueError(f"--{key} must be a multiple of {network.size_multiple} for {self.name}, got {side}")
        if self._clips:
            size = {"frames": settings.frames or frames[0], **size}
            if size["frames"] % network.frame_multiple != 1:
                raise ValueError(
                    f"--frames must be a multiple of {network.frame_multiple} plus 1 for {self.name}, "
                    f"got {size['frames']}"
                )
        self.module.sample_size = tuple(size.values())
        self._given |= size

    def check(self, requests: Sequence[ImageRequest]) -> None:
        first = requests[0]
        reject(["prompts"] if first.prompt is not None and not self._prompted else [], self.name)
        if self._prompted and first.prompt is None:
            raise ValueError(f"{self.name} needs --prompts: texts, or a file of prompts")
        if first.label is not None:
            count = self.module.generated_classes if isinstance(self.module, ClassGenerator) else 0
            if not count:
                raise ValueError(f"--classes: {self.name} is not conditioned on classes")
            check_classes(requests, count, self.name)

    def to(self, device: torch.device) -> None:
        self.module.to(device)

    def settings(self) -> dict[str, Any]:
        own = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
        known = {key: getattr(self.module, name) for key, name in own.items() if hasattr(self.module, name)}
        return {
            "model": f"{type(self.module).__module__}.{type(self.module).__qualname__}",
            "weights": hash_of_module(self.module),
            "run_seed": run_seed(),
            **known,
            **self._given,
            **({"start": self.module.start} if isinstance(self.module, ImprovedNoise) else {}),
        }

    @torch.no_grad()
    def images(self, block: Sequence[ImageRequest]) -> list[NDArray[np.uint8]]:
        options: dict[str, Any] = {}
        if self._prompted:
            self.module.prompts = [request.prompt for request in block]
        if block[0].label is not None:
            options["label"] = torch.tensor([request.label for request in block], device=self.module.device)
        seeds = [request.seed for request in block] if self.seed_per_image else block[0].seed
        found = []
        for start in self.starts:
            if start is not None:
                self.module.start = start
            found.append(sampled_bytes(self.module, len(block), seeds, self._clips, **options).cpu().numpy())
        if self.starts[0] is not None:
            self.module.start = self.starts[0]
        return found


def text_model(module: nn.Module) -> Any:
    """Return the part of a module that is a text-to-image model, or None if there is none."""
    for part in module.children():
        if isinstance(part, TextToImage) or (isinstance(part, PixelModel) and part.text_encoder is not None):
            return part
    return None


ARGUMENTS = {
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "negative_prompt": "negative_prompt",
    "frames": "num_frames",
    "height": "height",
    "width": "width",
    "image": "image",
    "mask": "mask_image",
    "strength": "strength",
    "clip_skip": "clip_skip",
}
"""For each option of `generate`, the name of the corresponding argument of diffusers pipelines."""


SEEDED_AS_A_WHOLE = ("CosineDPMSolverMultistepScheduler", "DPMSolverSDEScheduler")
"""Stochastic schedulers that do not accept random generators; with them, images are generated one by one."""


class PipelineGenerator:
    """A generator that uses a diffusers pipeline. From a seed, it generates the same image as the pipeline alone.

    Args:
        pipeline: the pipeline.
        settings: settings with which the pipeline samples. With an image, a text-to-image pipeline is converted to an
            image-to-image pipeline; with an image and a mask, it is converted to an inpainting pipeline.
    """

    folders: Sequence[str] = (IMAGES,)
    seed_per_image = True
    configuration: Mapping[str, Any] = {}

    def __init__(self, pipeline: Any, settings: Settings) -> None:
        self.name = type(pipeline).__name__
        self._given = settings.given_values()
        self.pipeline = for_images(pipeline, settings)
        self.pipeline.set_progress_bar_config(disable=True)
        self._takes = inspect.signature(self.pipeline.__call__).parameters
        reject([key for key in self._given if ARGUMENTS.get(key) not in self._takes], type(self.pipeline).__name__)
        if (settings.height is None) != (settings.width is None):
            raise ValueError("--height and --width belong together: many pipelines ignore one without the other")
        self._fixed = {ARGUMENTS[key]: value for key, value in self._given.items()}
        if "num_frames" in self._takes:
            self._fixed["output_type"] = "pil"  # the default of pipelines for clips is "np"
        if settings.clip_skip is not None:
            parts = [pipeline.components.get(name) for name in ENCODERS]
            encoders = [each for each in parts if type(each).__name__.startswith("CLIP")]
            skip_last_layers(encoders, settings.clip_skip, len(encoders) > 1)
        for key in ("image", "mask"):
            if (path := getattr(settings, key)) is not None:
                pixels = read_pixels(path, channels=3 if key == "image" else 1)
                self._fixed[ARGUMENTS[key]] = Image.fromarray(pixels.transpose(1, 2, 0).squeeze())
        if settings.image is not None:
            self._given["image_digest"] = hash_of_images(self._fixed)

    def check(self, requests: Sequence[ImageRequest]) -> None:
        first, name = requests[0], type(self.pipeline).__name__
        asked = {("prompts", "prompt"): first.prompt, ("classes", "class_labels"): first.label}
        given = [option for (option, _), value in asked.items() if value is not None]
        reject([option for option, argument in asked if option in given and argument not in self._takes], name)
        if lacking := [option for option, argument in asked if option not in given and argument in self._takes]:
            raise ValueError(f"{name} needs --{lacking[0]}")
        if first.label is not None and (count := classes_of(self.pipeline)) is not None:
            check_classes(requests, count, name)
        known = {*self._call(requests[:1]), "generator"}
        needed = [
            key
            for key, each in self._takes.items()
            if each.default is each.empty
            and key not in known
            and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        ]
        if needed:
            raise ValueError(f"{name} needs {', '.join(needed)}, which `generate` does not offer")

    def to(self, device: torch.device) -> None:
        self.pipeline.to(device)

    def settings(self) -> dict[str, Any]:
        parts = self.pipeline.components
        networks = {name: hash_of_module(part) for name, part in parts.items() if isinstance(part, nn.Module)}
        found = {"model": type(self.pipeline).__name__, "weights": networks, **self._given}
        if (scheduler := parts.get("scheduler")) is not None:
            # without diffusers' private keys, one of which lists names in random order
            config = {key: str(value) for key, value in scheduler.config.items() if not key.startswith("_")}
            found["scheduler"] = {"class": type(scheduler).__name__, **config}
        return found

    def _call(self, block: Sequence[ImageRequest]) -> dict[str, Any]:
        given = dict(self._fixed)
        if "negative_prompt" in given:
            given["negative_prompt"] = [given["negative_prompt"]] * len(block)
        if block[0].prompt is not None:
            given["prompt"] = [request.prompt for request in block]
        elif block[0].label is not None:
            given["class_labels"] = [request.label for request in block]
        elif "batch_size" in self._takes:
            given["batch_size"] = len(block)
        return given

    @torch.no_grad()
    def images(self, block: Sequence[ImageRequest]) -> list[NDArray[np.uint8]]:
        if len(block) > 1 and type(self.pipeline.components.get("scheduler")).__name__ in SEEDED_AS_A_WHOLE:
            return [np.concatenate([self.images([request])[0] for request in block])]
        generators = [torch.Generator().manual_seed(request.seed) for request in block]
        generator = generators if len(block) > 1 else generators[0]
        device = self.pipeline.device
        scheduler = stepping_with(self.pipeline.components.get("scheduler"), generators)
        with scheduler, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(block[0].seed)  # for random numbers that the pipeline samples without the generators
            found = self.pipeline(**self._call(block), generator=generator)
        if isinstance(clips := getattr(found, "frames", None), list) and len(clips) == len(block):
            return [np.stack([self._pixels(clip, self._fixed.get("num_frames")) for clip in clips])]
        images = getattr(found, "images", None)
        if not isinstance(images, list) or len(images) != len(block) or not isinstance(images[0], Image.Image):
            raise ValueError(f"{type(self.pipeline).__name__} must generate a list of {len(block)} images")
        return [self._pixels(images)]

    def _pixels(self, images: list[Image.Image], count: int | None = None) -> NDArray[np.uint8]:
        """Convert images, or the frames of a clip, to `[B, C, H, W]`, and reject a size that was not requested."""
        if count is not None and len(images) != count:
            raise ValueError(f"{self.name} rounds {count} frames to {len(images)}: give this number as --frames")
        size = (self._fixed.get("width", images[0].width), self._fixed.get("height", images[0].height))
        if images[0].size != size:
            made, asked = (f"{height} x {width}" for width, height in (images[0].size, size))
            raise ValueError(
                f"{type(self.pipeline).__name__} rounds the size {asked} to {made}: give this --height and --width"
            )
        pixels = [np.atleast_3d(np.asarray(each if each.mode == "L" else each.convert("RGB"))) for each in images]
        return np.stack(pixels).transpose(0, 3, 1, 2)


def classes_of(pipeline: Any) -> int | None:
    """Return the number of classes of a class-conditional pipeline, such as DiT; None if its network states none."""
    network = pipeline.components.get("transformer") or pipeline.components.get("unet")
    count = getattr(getattr(network, "config", None), "num_embeds_ada_norm", None)
    return count if isinstance(count, int) else None


def for_images(pipeline: Any, settings: Settings) -> Any:
    """Convert a text-to-image pipeline to an image-to-image or, with a mask, inpainting pipeline of the same parts."""
    wanted = "image" if settings.mask is None else "mask_image"
    if settings.image is None or wanted in inspect.signature(pipeline.__call__).parameters:
        return pipeline
    from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting

    auto: Any = AutoPipelineForImage2Image if settings.mask is None else AutoPipelineForInpainting
    try:
        return auto.from_pipe(pipeline)
    except Exception as error:  # if the pipeline lacks parts, exceptions of many types occur
        task = "image-to-image" if settings.mask is None else "inpainting"
        raise ValueError(f"{type(pipeline).__name__} has no pipeline for {task}: {sentence(error)}") from error


def hash_of_images(given: dict[str, Any]) -> str:
    """Hash those arguments of a pipeline that are images."""
    from datamodules.jobs.stores import digest_of

    images = [torch.tensor(np.asarray(each)) for each in given.values() if isinstance(each, Image.Image)]
    return digest_of(*images)
