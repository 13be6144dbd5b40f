"""LightningModule that interpolates between images of a pair; see the package docstring for the method."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from diffusers import DDIMScheduler
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.arguments import one_of, positive, within
from datamodules.batches import InterpolationBatch, LabelledImageBatch
from datamodules.distributed.collectives import run_seed
from datamodules.randomness.generators import generator_of, sample_like
from lightning_modules.backbones.diffusion.guidance import guided_model
from lightning_modules.backbones.diffusion.pipelines import reject_flow_matching
from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from lightning_modules.diffusion.noise_diffusion.interpolated_files import InterpolationSteps, select_pairs
from lightning_modules.diffusion.noise_diffusion.measures import (
    frame_measures,
    latent_statistics,
    nearest_distances,
)
from lightning_modules.diffusion.noise_diffusion.mixing import MixingSettings, corrected_mixture, lerp, slerp
from lightning_modules.interfaces import ImageColumn, ReferenceImages, data_with
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.sde.ddim import ddim, level, scheduler_path
from lightning_modules.sde.discrete import add_diffusion_noise, scheduler_levels, scheduler_prediction
from lightning_modules.training.logging import log_training

Interpolation = Literal["noise_diffusion", "slerp", "lerp", "same_noise"]
COMPARED = 4
"""Number of pairs in an image grid for which the result of spherical interpolation is also shown."""
NAMES = {"noise_diffusion": "NoiseDiffusion", "same_noise": "same noise"}
"""Labels of interpolation methods in image grids; all other methods are labelled with their names in the config."""


class Interpolated(NamedTuple):
    """Interpolated images of B pairs at L positions."""

    frames: Tensor
    """Images, `[B, L, C, H, W]`, on the scale of images in [0, 1], but not clipped to this range."""
    latents: Tensor | None
    """Latents of the first images, followed by those of the second images, `[2 B, ...]`; None if none were encoded."""
    mixture: Tensor
    """Mixed latents before decoding, `[B, L, ...]`."""


class NoiseDiffusion(InterpolationSteps, MethodModule):
    """Interpolate between the images of a pair; `predict` writes the interpolated images, and `test` evaluates them.

    `test` logs means over all pairs; distances are in pixel units. Three of the metrics require training images.
    `test/nearest_training` is the distance from an interpolated image to the nearest training image. For
    `test/nearest_training_clipped`, pixels are first clipped to [0, 1]. `test/nearest_training_of_ends` is the distance
    from an end image to the nearest training image. `measures.frame_measures` defines the other image metrics:
    `test/distance_to_ends`, `test/mean_step`, `test/largest_step` and `test/out_of_range`. `test/encoded_deviation`,
    `_kurtosis`, `_beyond_2` and `_norm` are statistics of the encoded images; for standard normal noise, their values
    are 1, 3, 0.0455 and 1. The metrics `test/mixture_...` are the same statistics for the mixed latents.

    The paper uses only pretrained models. Here, `fit` can also train the trainable parameters of a `PixelModel` with
    the denoising loss.

    Args:
        model: diffusion model: a `TextToImage` or a `PixelModel`.
        interpolation: `noise_diffusion`, or a baseline. The baselines `slerp` and `lerp` interpolate between the
            encoded images. The baseline `same_noise` adds the same noise to both images, as in SDEdit, instead of
            encoding them.
        num_steps: S, number of sampling steps of the full schedule from noise to image.
        encoded_steps: K, number of steps in which an image is encoded, and also decoded; at most S.
        mixing: coefficients with which `noise_diffusion` mixes latents, images and noise.
        positions: positions lambda of the interpolated images, in [0, 1]; position 0 is the first image.
        guidance_scale: w, guidance scale in decoding; encoding does not use guidance. The scale must be 1 for an
            unconditional model.
        negative_prompt: negative prompt for the guidance in decoding.
        optimizer: optimizer of the model's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> from lightning_modules.backbones.diffusion.pixel_model import PixelModel
        >>> from lightning_modules.networks.time_conditioned_mlp import TimeConditionedImageMLP
        >>> first, second = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
        >>> model = PixelModel(TimeConditionedImageMLP(64), DDIMScheduler())
        >>> NoiseDiffusion(model, num_steps=6, encoded_steps=4, positions=[0.3, 0.7]).interpolate(first, second).shape
        torch.Size([2, 2, 1, 8, 8])
    """

    def __init__(
        self,
        model: nn.Module,
        interpolation: Interpolation = "noise_diffusion",
        num_steps: int = 200,
        encoded_steps: int = 140,
        mixing: MixingSettings = MixingSettings(),
        positions: Sequence[float] = (0.17, 0.33, 0.5, 0.67, 0.83),
        guidance_scale: float = 1.0,
        negative_prompt: str = "",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        one_of(get_args(Interpolation), interpolation=interpolation)
        later = int(mixing.injection == "next")
        within(1, num_steps - later, encoded_steps=encoded_steps)
        positive(num_positions=len(positions))
        within(0, 1, **{f"positions[{k}]": position for k, position in enumerate(positions)})
        scheduler: Any = model.scheduler
        reject_flow_matching(scheduler, "NoiseDiffusion", "mixes noise at levels abar of a diffusion process")
        one_of(("epsilon", "v_prediction"), prediction_type=scheduler.config.prediction_type)
        if isinstance(model, PixelModel) and guidance_scale != 1:
            raise ValueError(f"guidance_scale must be 1 for an unconditional model, got {guidance_scale}")
        self.model: Any = model
        self.interpolation: Interpolation = interpolation
        self.num_steps = num_steps
        self.encoded_steps = encoded_steps
        self.mixing = mixing
        self.positions = tuple(positions)
        self.guidance_scale = guidance_scale
        self.negative_prompt = negative_prompt
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.prediction = scheduler_prediction(scheduler)
        self.levels = scheduler_levels(scheduler)
        spaced = scheduler
        if not isinstance(scheduler, DDIMScheduler):  # sampling uses DDIM instead, with the authors' timesteps
            spacing = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
            spaced = DDIMScheduler.from_config(scheduler.config, **spacing)
        rising = scheduler_path(spaced, num_steps)[::-1]
        self.path = rising[: encoded_steps + 1]
        self.injected_abar = level(self.levels, rising[encoded_steps + later])
        self.means = nn.ModuleDict()
        self._reference: tuple[Tensor, int] | None = None

    def setup(self, stage: str) -> None:
        if stage == "fit" and not trainable_parameters(self.model):
            raise ValueError("model has no trainable parameters, so NoiseDiffusion cannot fit: use predict or test")

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        return {"loss": log_training(self, batch, self.model.denoising_loss(batch["image"]))}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.model))

    def encode(self, clean: Tensor, prompts: Any) -> Tensor:
        """Encode images, `[B, ...]`, to latents at the noise level of step K, without guidance.

        The images are given as autoencoder latents or as pixels. In each step, the model receives the timestep at which
        the step ends.
        """
        model = guided_model(self.model, prompts, None, 1.0)
        return ddim(model, clean, self.path, self.levels, self.prediction, told=self.path[1:])

    def decode(self, mixture: Tensor, prompts: Any) -> Tensor:
        """Decode latents, `[B, ...]`, from the noise level of step K to images that are not clipped to [0, 1]."""
        negative = None
        if self.guidance_scale != 1:
            texts = [self.negative_prompt] * len(mixture)
            negative = (
                self.model.encode_prompts(texts) if self.negative_prompt else self.model.empty_prompts(len(mixture))
            )
        model = guided_model(self.model, prompts, negative, self.guidance_scale)
        return self.model.decode(ddim(model, mixture, self.path[::-1], self.levels, self.prediction))

    @torch.no_grad()
    def interpolate_pairs(self, batch: InterpolationBatch, interpolation: Interpolation | None = None) -> Interpolated:
        """Interpolate between the images of each pair; the run's seed and the index of the pair determine the noise.

        Args:
            batch: batch of B pairs.
            interpolation: method to use instead of the module's `interpolation`.
        """
        interpolation = interpolation or self.interpolation
        first, second = (self.model.encode(batch[key]) for key in ("first", "second"))
        prompts = self.model.encode_prompts(batch["prompt"])
        generators = [generator_of(run_seed(), index) for index in batch["index"].tolist()]
        noise = sample_like(first, torch.randn, generators)
        position = torch.tensor(self.positions, dtype=torch.float64, device=first.device)
        latents = None
        if interpolation == "same_noise":
            ends = (
                add_diffusion_noise(first, noise, self.injected_abar),
                add_diffusion_noise(second, noise, self.injected_abar),
            )
        else:
            twice = prompts and prompts.rows(torch.arange(len(first)).repeat(2))
            latents = self.encode(torch.cat([first, second]), twice)
            ends = (latents[: len(first)], latents[len(first) :])
        if interpolation == "noise_diffusion":
            boundary, gamma, signal = self.mixing.boundary, self.mixing.gamma, self.mixing.signal
            mixture = corrected_mixture(
                *ends, first, second, noise, position, self.injected_abar, boundary, gamma, signal
            )
        else:
            mixture = (lerp if interpolation == "lerp" else slerp)(*ends, position)
        each = prompts and prompts.rows(torch.arange(len(first)).repeat_interleave(len(self.positions)))
        frames = self.decode(mixture.flatten(0, 1), each).unflatten(0, mixture.shape[:2])
        return Interpolated(frames, latents, mixture)

    def on_test_start(self) -> None:
        data = data_with(self.trainer, ReferenceImages)
        self._reference = None if data is None else data.training_images()

    def test_step(self, batch: InterpolationBatch, batch_idx: int) -> dict[str, Tensor]:
        """Log the metrics of a batch, and return its interpolated images as `frames`, `[B, L, C, H, W]`."""
        frames, latents, mixture = self.interpolate_pairs(batch)
        measured = frame_measures(frames, batch["first"], batch["second"])
        for name, values in {"encoded": latents, "mixture": mixture.flatten(0, 1)}.items():
            if values is not None:
                measured |= {f"{name}_{key}": value for key, value in latent_statistics(values).items()}
        if self._reference is not None:
            images, ends = frames.flatten(0, 1), torch.cat([batch["first"], batch["second"]])
            compared = {"": images, "_clipped": images.clamp(0, 1), "_of_ends": ends}
            for ending, each in compared.items():
                measured[f"nearest_training{ending}"] = nearest_distances(each, *self._reference)
        for name, values in measured.items():
            if name not in self.means:
                self.means[name] = MeanMetric().set_dtype(torch.float64).to(self.device)
            self.means[name].update(values)  # type: ignore[operator]
        return {"frames": frames}

    def on_test_epoch_end(self) -> None:
        for name, mean in self.means.items():
            self.log(f"test/{name}", mean)  # type: ignore[arg-type]

    def image_columns(self, batch: InterpolationBatch, outputs: dict[str, Tensor]) -> dict[str, ImageColumn]:
        """Show a row of interpolated images for each of the first pairs, and another by spherical interpolation."""
        count = min(COMPARED, len(batch["first"]))
        few = select_pairs(batch, list(range(count)))
        rows = {self.interpolation: outputs["frames"][:count]}
        rows |= {"slerp": self.interpolate_pairs(few, "slerp").frames} if self.interpolation != "slerp" else {}
        names = [NAMES.get(name, name) for _ in range(count) for name in rows]
        frames = torch.stack(list(rows.values()), dim=1).flatten(0, 1)
        ends = {key: few[key].repeat_interleave(len(rows), dim=0) for key in ("first", "second")}
        shown = {"first image": ImageColumn(ends["first"], names)}
        shown |= {f"{position:g}": ImageColumn(frames[:, k]) for k, position in enumerate(self.positions)}
        return shown | {"second image": ImageColumn(ends["second"])}
