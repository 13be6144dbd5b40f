"""LightningModule of StableNormal; see the package docstring for the method."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from datamodules.arguments import at_least, one_of, within
from datamodules.batches import NormalMapBatch
from datamodules.files.module_hash import hash_of_module
from datamodules.files.whole_files import write_text
from datamodules.pixel_ranges import to_unit
from datamodules.randomness.generators import sample_like
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.diffusion.stable_normal.angular_error import known_normals
from lightning_modules.diffusion.stable_normal.conditioned_unet import ConditionedUNet
from lightning_modules.diffusion.stable_normal.normal_steps import NormalSteps
from lightning_modules.diffusion.stable_normal.processing import postprocess_normals, preprocess_images
from lightning_modules.diffusion.stable_normal.refinement import refine, refinement_times
from lightning_modules.full_precision import at_least_float32, in_full_precision
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.sde.discrete import add_diffusion_noise, scheduler_levels
from lightning_modules.training.logging import log_training

Target = Literal["independent", "shared", "x0"]
FIRST_STAGE = "first_stage.json"
"""File next to the first stage's weights that records their training target; checkpoints use the name as a key."""


def yoso_start(noise: Tensor, uniform: Tensor, zero_noise: float) -> Tensor:
    """Zero the noise, `[B, c, h, w]`, of each sample whose uniform random number, in `[B]`, is below lambda."""
    return noise * (uniform >= zero_noise)[:, None, None, None]


def weighted_square(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Multiply the squared error by `weight`, `[B, 1, h, w]`, and average over all entries, also those of weight 0."""
    return (weight * (prediction - target).square()).mean()


def latent_weight(normal: Tensor, pixels: int) -> Tensor:
    """Mark latents that cover only known normals, `[B, 1, h, w]`; a latent covers `pixels` x `pixels` pixels."""
    unknown = 1 - known_normals(normal)[:, None].to(normal.dtype)
    return 1 - F.max_pool2d(unknown, pixels, ceil_mode=True)


def describe_target(trained_for: dict[str, Any]) -> str:
    """Describe the training target of a first stage in words, for messages."""
    return f"the target {trained_for['yoso_target']} at the level t = {trained_for['level']}"


class StableNormal(NormalSteps, MethodModule):
    """Train and apply StableNormal: YOSO, SG-DRN or both. The two stages do not share weights.

    After training, each stage is saved as a diffusers pipeline with a `controlnet`, in `saved/yoso` or `saved/refiner`
    of the run directory. To load a saved stage, set the arguments `pipeline` and `encoders` to its folder.
    `NormalSteps` implements the test and prediction steps.

    Args:
        yoso: network of the first stage; None starts the refiner from pure noise.
        refiner: network of the second stage; None returns the output of the first stage.
        yoso_target: noise in the target of the first stage: `independent` is new noise, `shared` is the noise of the
            input, and `x0` is no noise, for estimating normals in one step.
        zero_noise: lambda, probability of replacing the input noise of the first stage with zeros in training.
        steps: N, number of steps of the refiner. This number also determines the noise level for which `yoso` is
            trained; weights that were trained for a different noise level are rejected.
        repeated: take the first half of the steps at one noise level; if false, the refiner takes plain DDIM steps from
            pure noise.
        resolution: length, in pixels, to which the longer side of images is resized for the networks in `test` and
            `predict`; None keeps the size of images.
        draws: number of estimates for each test image, each from different noise. Above 1, the variance of their errors
            is also logged.
        optimizer: optimizer of the trainable parameters of both stages.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from diffusers import UNet2DConditionModel
        >>> from lightning_modules.diffusion.stable_normal import ConditionedUNet, PixelUNet
        >>> unet = {"in_channels": 3, "out_channels": 3, "block_out_channels": [8], "norm_num_groups": 4}
        >>> unet |= {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "cross_attention_dim": 8}
        >>> stage = ConditionedUNet(PixelUNet(UNet2DConditionModel(**unet)), trained="all")
        >>> model = StableNormal(stage, yoso_target="x0", resolution=None)
        >>> model.estimate_normals(torch.full((2, 3, 8, 8), 0.5)).norm(dim=1).allclose(torch.ones(2, 8, 8))
        True
    """

    def __init__(
        self,
        yoso: ConditionedUNet | None = None,
        refiner: ConditionedUNet | None = None,
        yoso_target: Target = "independent",
        zero_noise: float = 0.4,
        steps: int = 10,
        repeated: bool = True,
        resolution: int | None = 768,
        draws: int = 1,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        one_of(("independent", "shared", "x0"), yoso_target=yoso_target)
        within(0, 1, zero_noise=zero_noise)
        at_least(1, resolution=resolution, draws=draws)
        stages = [stage for stage in (yoso, refiner) if stage is not None]
        if not stages:
            raise ValueError("yoso and refiner are both None: give at least one")
        if len(stages) == 2 and (yoso_target == "x0" or not repeated):
            raise ValueError(
                f"a refiner after yoso starts at the noise level of yoso's target, so with both stages yoso_target "
                f"must not be x0 and repeated must be true; got {yoso_target} and {str(repeated).lower()}"
            )
        levels = [scheduler_levels(stage.model.scheduler) for stage in stages]
        if len({hash_of_module(stage.model.vae) for stage in stages}) > 1 or (levels[0] != levels[-1]).any():
            raise ValueError("yoso and refiner have different autoencoders or schedules: give both the same pipeline")
        self.yoso = yoso
        self.refiner = refiner
        self.yoso_target: Target = yoso_target
        self.zero_noise = zero_noise
        self.levels = levels[0]
        self.times = refinement_times(steps, len(self.levels), repeated)
        self.steps = steps
        self.repeated = repeated
        self.resolution = resolution
        self.draws = draws
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self._abar = torch.from_numpy(self.levels)
        if yoso is not None and yoso.folder is not None and (yoso.folder / FIRST_STAGE).is_file():
            self.refuse_other_target(json.loads((yoso.folder / FIRST_STAGE).read_text()), yoso.folder)

    @property
    def first(self) -> ConditionedUNet:
        """The stage whose autoencoder is used: the first one that exists. Two stages have equal autoencoders."""
        stage = self.yoso or self.refiner
        assert stage is not None
        return stage

    @property
    def start(self) -> int:
        """Timestep t+ that the first stage receives; it is 0 if the target of the first stage is x_0."""
        return 0 if self.yoso_target == "x0" else self.times[0]

    @property
    def trained_for(self) -> dict[str, Any]:
        """Description of the first stage's training target, which is saved with its weights."""
        return {"yoso_target": self.yoso_target, "level": self.start}

    def refuse_other_target(self, trained_for: dict[str, Any], source: Any) -> None:
        """Reject weights of the first stage that were trained for a different target or noise level."""
        if self.yoso is not None and trained_for != self.trained_for:
            raise ValueError(
                f"yoso of {source} was trained for {describe_target(trained_for)}, but yoso_target {self.yoso_target} "
                f"with steps {self.steps} needs {describe_target(self.trained_for)}: give the same yoso_target and "
                f"steps as in its training"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[FIRST_STAGE] = self.trained_for

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.refuse_other_target(checkpoint.get(FIRST_STAGE, self.trained_for), "the checkpoint")

    # training

    def training_step(self, batch: NormalMapBatch, batch_idx: int) -> dict[str, Tensor]:
        with torch.no_grad():
            image, clean = self.first.model.encode(batch["image"]), self.first.model.encode(to_unit(batch["normal"]))
        weight = latent_weight(batch["normal"], self.first.pixels_per_latent)
        losses = {}
        if self.yoso is not None:
            losses["yoso"] = self.yoso_loss(self.yoso, image, clean, weight)
        if self.refiner is not None:
            losses["refiner"] = self.refiner_loss(self.refiner, batch["image"], image, clean, weight)
        return {"loss": log_training(self, batch, torch.stack(list(losses.values())).sum(), **losses)}

    def yoso_loss(self, yoso: ConditionedUNet, image: Tensor, clean: Tensor, weight: Tensor) -> Tensor:
        """Compute the loss of the first stage; its target is x_{t+}, or x_0 if `yoso_target` is `x0`."""
        noise, uniform = sample_rows_like(torch.randn, clean), sample_rows(torch.rand, [len(clean)], clean.device)
        seen = yoso_start(noise, uniform, self.zero_noise)
        target = clean
        if self.yoso_target != "x0":
            inside = sample_rows_like(torch.randn, clean) if self.yoso_target == "independent" else seen
            target = add_diffusion_noise(clean, inside, float(self.levels[self.start]))
        timestep = torch.full((len(clean),), self.start, dtype=torch.int64, device=clean.device)
        return weighted_square(yoso(seen, timestep, image), target, weight)

    def refiner_loss(
        self, refiner: ConditionedUNet, pixels: Tensor, image: Tensor, clean: Tensor, weight: Tensor
    ) -> Tensor:
        """Compute the loss of the second stage, which estimates x_0, at uniformly distributed random timesteps."""
        self._abar = self._abar.to(clean.device)
        timestep = sample_rows(partial(torch.randint, len(self.levels)), [len(clean)], clean.device)
        abar = self._abar[timestep].to(clean.dtype)[:, None, None, None]
        noisy = add_diffusion_noise(clean, sample_rows_like(torch.randn, clean), abar)
        semantics = refiner.semantics(pixels, clean.shape[2:])
        return weighted_square(refiner(noisy, timestep, image, semantics), clean, weight)

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self))

    def on_fit_end(self) -> None:
        """Save the trained stages in the format of diffusers."""
        directory = self.trainer.log_dir if self.trainer.loggers else None  # log_dir broadcasts: all ranks must read it
        if directory is None or not self.trainer.is_global_zero or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for name in ("yoso", "refiner"):
            if (stage := getattr(self, name)) is not None:
                stage.save(folder := Path(directory, "saved", name))
                if name == "yoso":
                    write_text(folder / FIRST_STAGE, json.dumps(self.trained_for))

    # estimation

    def normals(self, image: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Estimate the unit normals of images; the result is `[B, 3, H, W]`.

        Args:
            image: images in [0, 1], `[B, 3, H, W]`.
            generators: random generators on the CPU, one for each image, from which all random numbers are sampled.
        """
        model, pixels = self.first.model, self.first.pixels_per_latent
        inside, filled = preprocess_images(image, self.resolution, pixels)
        seen = model.encode(inside)
        draw = partial(sample_like, draw=torch.randn, generators=generators)
        x = draw(seen)
        if self.yoso is not None:
            timestep = torch.full((len(x),), self.start, dtype=torch.int64, device=x.device)
            x = self.yoso(x, timestep, seen)
        if self.refiner is not None:
            semantics = self.refiner.semantics(inside, seen.shape[2:])
            step = partial(self.refiner, image=seen, semantics=semantics)
            x = refine(step, x, self.times, self.levels, draw)
        elif self.yoso_target == "shared":
            raise ValueError("yoso_target shared leaves noise in the output of yoso, so it needs a refiner")
        elif self.yoso_target == "independent":
            x = x / float(self.levels[self.start]) ** 0.5
        decoded = at_least_float32(2 * model.decode(x) - 1)
        with in_full_precision(decoded.device):
            return postprocess_normals(decoded, filled, image.shape[2:])
