"""LightningModule of DiffusionGuard; the package docstring describes the method."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from datamodules.arguments import at_least, only_with, within
from datamodules.batches import ProtectedImageBatch
from datamodules.randomness.generators import generator_of, sample_integers
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.full_precision import at_least_float32
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.robustness.attacks.ascent import project_perturbation
from lightning_modules.robustness.diffusion_guard.attack import (
    RANDOM_TIMESTEPS,
    Ascent,
    Defence,
    attack_objective,
    draw_kept,
    protect_images,
)
from lightning_modules.robustness.diffusion_guard.editing import CLIP, TRANSFER, EditMeans, reject_suffixes
from lightning_modules.robustness.diffusion_guard.evaluation import PROTECTING, EditingSteps, normal, union
from lightning_modules.robustness.diffusion_guard.inpainting import Inpainter
from lightning_modules.robustness.diffusion_guard.protected_files import ProtectionSteps
from lightning_modules.robustness.diffusion_guard.purification import Purification
from lightning_modules.training.evaluation_mode import evaluating
from lightning_modules.training.logging import log_training


class DiffusionGuard(EditingSteps, ProtectionSteps, MethodModule):
    """Protect images against an inpainting model.

    `predict` writes `protected/<name>.png` into the run directory. The files have the size of the images that the
    DataModule returns. `predict` skips images whose files already exist. An interrupted run can therefore be resumed
    with the same `--run_directory`. `predict` rejects a directory with images that were written with a different
    inpainter, image size, precision or attack setting. It also rejects an existing file whose stored hash differs from
    the hash of the current image and masks.

    `test` edits the protected and the original image with the same noise and prompt. It logs the following metrics,
    averaged over images, masks and prompts. For all of these metrics, a lower value means better protection:

    * `test/edit_psnr` and `test/edit_ssim`: PSNR in dB and SSIM between the two edits;
    * `test/edit_psnr_repainted`: PSNR of the repainted part only. (In the kept part, the edits also differ by the
      protection itself.)
    * with `clip`: `test/clip_similarity` between the edit of the protected image and its prompt; and, if the data have
      source prompts, `test/clip_directional_similarity`. For the edit of the original image, both names have the suffix
      `_unprotected`.

    A metric without a further suffix is computed for the masks for which the protection was computed. The suffix
    `_unseen`, which comes last, marks metrics for masks that were not used to compute the protection. With `editor`,
    the suffix `_transfer` marks metrics for edits by the second model. With `purification`, the editor first tries to
    remove the protection: the same operation purifies the protected and the original image before they are edited. The
    suffix of the metrics is the name of the operation. With `defences`, the name of a defence is the first suffix of
    its metrics. `test/noise_norm` and `test/noise_norm_unprotected` are the norms of the predicted noise in the first
    step of the editor, for the protected and the original image.

    The method of the paper needs no training. `fit` trains the trainable parameters of both inpainting models with
    their denoising error. Use `fit` to train a small model for the demo, or to adapt a model to the domain of the
    images.

    Args:
        inpainter: model against which images are protected: a `PixelInpainter` or a `StableDiffusionInpainter`.
        defence: objective of the attack, and sampling of K.
        attack: budget and steps of the attack.
        editor_steps: number of denoising steps that the editor is assumed to take. The attack targets the first of
            these steps.
        seed: random seed of protection and editing.
        clip: CLIP model for similarity metrics in `test`: a local folder, or a name on the Hugging Face Hub
            (`openai/clip-vit-large-patch14`); None disables these metrics.
        editor: second model that edits images in `test` but is not attacked; None tests only the attacked model.
        purification: dict that maps metric suffixes to operations that purify both images before the edit in `test`. An
            operation is `JPEG`, `CropAndResize` or `MedianFilter` from `lightning_modules.robustness.diffusion_guard`.
        defences: dict that maps metric suffixes to further defences to evaluate in `test`. Each defence is a dict of
            `objective`, `augmentation` and `timestep`; all defences share the other settings.
        optimizer: optimizer of the trainable parameters of the inpainter.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from diffusers import UNet2DModel
        >>> from lightning_modules.robustness.diffusion_guard import PixelInpainter
        >>> from lightning_modules.robustness.diffusion_guard.attack import Ascent
        >>> unet = {"in_channels": 3, "out_channels": 1, "block_out_channels": [8], "norm_num_groups": 4}
        >>> unet |= {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "add_attention": False}
        >>> images, attack = torch.full((2, 1, 8, 8), 0.5), Ascent(epsilon=8 / 255, iterations=2)
        >>> guard = DiffusionGuard(PixelInpainter(UNet2DModel(**unet)), attack=attack)
        >>> bool((guard.protect(images) - images).abs().max() <= 8 / 255 + 1e-6)
        True
    """

    def __init__(
        self,
        inpainter: Inpainter,
        defence: Defence = Defence(),  # noqa: B008 - immutable
        attack: Ascent = Ascent(),  # noqa: B008 - immutable
        editor_steps: int = 4,
        seed: int = 0,
        clip: str | None = None,
        editor: Inpainter | None = None,
        purification: dict[str, Purification] | None = None,
        defences: dict[str, Defence] | None = None,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, editor_steps=editor_steps)
        num_timesteps = int(inpainter.scheduler.config.num_train_timesteps)
        timed, climbs = defence.objective == "noise_norm", defence.objective != "random"
        only_with("objective noise_norm", timed, Defence, **{"defence.timestep": defence.timestep})
        unread = {"defence.augmentation": defence.augmentation}
        only_with("an objective other than random", climbs, Defence, **unread)
        unread = {f"attack.{key}": value for key, value in vars(attack).items() if key != "epsilon"}
        only_with("an objective other than random", climbs, Ascent, **unread)
        self.inpainter = inpainter
        self.attack = replace(
            attack,
            step_size=0.5 / 255 if attack.step_size is None else attack.step_size,
            iterations=800 if attack.iterations is None else attack.iterations,
        )
        self.num_timesteps = num_timesteps
        self.first_timestep = inpainter.first_timestep(editor_steps)
        timestep = self.first_timestep if defence.timestep is None else defence.timestep
        self.defence = replace(defence, timestep=timestep)
        self.seed = seed
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.clip = clip
        self._clip: CLIP | None = None
        self.editor_steps = editor_steps
        self.editor = editor
        self.purification = dict(purification or {})
        self.defences = dict(defences or {})
        reject_suffixes(purification=list(self.purification), defences=list(self.defences))
        for each in (self.defence, *self.defences.values()):
            within(0, num_timesteps, "[)", timestep=each.timestep)
        ways = ["", *(f"_{name}" for name in self.purification), *([] if editor is None else [TRANSFER])]
        self.metrics = EditMeans(clip is not None, ["", *(f"_{name}" for name in self.defences)], ways)

    @property
    def trained(self) -> list[Inpainter]:
        """Inpainting models that `fit` trains."""
        if self.editor is None or not any(parameter.requires_grad for parameter in self.editor.parameters()):
            return [self.inpainter]
        return [self.inpainter, self.editor]

    def setup(self, stage: str) -> None:
        if stage == "test" and self.clip is not None:
            self._clip = CLIP(self.clip)
        if stage == "fit" and not any(parameter.requires_grad for parameter in self.inpainter.parameters()):
            raise ValueError("DiffusionGuard's inpainter has no trainable parameters: run predict or test, not fit")

    def training_step(self, batch: ProtectedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image = batch["image"].to(self._arithmetic(batch["image"]))
        errors = []
        for inpainter in self.trained:
            noise = sample_rows(torch.randn, inpainter.noise_shape(image), self.device, dtype=image.dtype)
            num_timesteps = int(inpainter.scheduler.config.num_train_timesteps)
            timestep = sample_rows(partial(torch.randint, num_timesteps), (len(image),), self.device)
            draw = sample_rows_like(torch.randn, noise)
            errors.append(inpainter.denoising_error(image, union(batch).to(image), noise, draw, timestep).mean())
        return {"loss": log_training(self, batch, torch.stack(errors).sum())}

    def protect(
        self,
        image: Tensor,
        regions: Tensor | None = None,
        index: Tensor | None = None,
        defence: Defence | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Protect a batch of images.

        Args:
            image: `[B, C, H, W]` in [0, 1].
            regions: masks of the regions that editors are expected to keep, `[B, R, H, W]`, bool; None protects the
                whole image.
            index: integer of each image, `[B]`, that seeds the image's random numbers together with `seed`; None
                samples it with `generator`.
            defence: settings of the defence; None uses the settings of this module.
            generator: random generator; None uses PyTorch's global generator.

        Returns:
            Protected images `[B, C, H, W]`, in float32 or a higher precision.
        """
        regions = torch.ones_like(image[:, :1], dtype=torch.bool) if regions is None else regions
        index = sample_integers(2**31, len(image), generator) if index is None else index
        with evaluating(self.inpainter):
            return self._protect(image, regions, index, defence or self.defence)

    def _protect(self, image: Tensor, regions: Tensor, index: Tensor, of: Defence) -> Tensor:
        noises = [generator_of(self.seed, int(i), PROTECTING) for i in index]
        image = at_least_float32(image.detach().clone())
        if of.objective == "random":
            signs = torch.stack([torch.randn(image.shape[1:], generator=g).sign() for g in noises]).to(image)
            keep = regions.any(dim=1, keepdim=True)
            return project_perturbation(image + self.attack.epsilon * signs * keep, image, "linf", self.attack.epsilon)
        masks = [np.random.default_rng([self.seed, int(i)]) for i in index]
        kept = [each.cpu().numpy() for each in regions]

        def draw_keep() -> Tensor:
            drawn = [draw_kept(each, of.augmentation, random) for each, random in zip(kept, masks, strict=True)]
            return torch.from_numpy(np.stack(drawn))[:, None].to(image)

        arithmetic = self._arithmetic(image)

        def objective(adversarial: Tensor, keep: Tensor) -> Tensor:
            given = adversarial.to(arithmetic), keep.to(arithmetic)
            noise, draw = normal(self.inpainter, given[0], noises), normal(self.inpainter, given[0], noises)
            times: int | Tensor = self.first_timestep if of.timestep is None else of.timestep
            if of.objective in RANDOM_TIMESTEPS:
                times = torch.cat([torch.randint(self.num_timesteps, (1,), generator=g) for g in noises])
                times = times.to(image.device)
            return attack_objective(self.inpainter, of.objective, *given, noise, draw, times, self.editor_steps)

        with torch.inference_mode(False), torch.enable_grad():
            # Inference tensors cannot require gradients, but a clone can.
            return protect_images(image.clone(), objective, draw_keep, **vars(self.attack))

    def _arithmetic(self, image: Tensor) -> torch.dtype:  # only the inputs of the inpainter are cast
        return next(self.inpainter.parameters(), image).dtype

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(*self.trained))
