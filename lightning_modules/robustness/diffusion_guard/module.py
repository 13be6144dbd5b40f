"""Training, protection and test of DiffusionGuard; see `__init__.py` for the method."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from datamodules.arguments import at_least, only_with, within
from datamodules.batches import ProtectedImageBatch
from datamodules.randomness.generators import generator_of
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.full_precision import at_least_float32
from lightning_modules.interfaces import ImageColumn
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.robustness.attacks.ascent import project
from lightning_modules.robustness.diffusion_guard.attack import (
    Augmentation,
    ProtectionObjective,
    distance_to_grey,
    draw_kept,
    first_step,
    noise_norm,
    protected,
)
from lightning_modules.robustness.diffusion_guard.editing import CLIP, UNSEEN, EditMeans, prompted
from lightning_modules.robustness.diffusion_guard.inpainting import Inpainter
from lightning_modules.robustness.diffusion_guard.protected_files import ProtectionSteps
from lightning_modules.training.logging import log_training

PROTECTING, EDITING, MEASURING = 0, 1, 2  # purposes of an image's random numbers


def union(batch: ProtectedImageBatch) -> Tensor:
    """Compute the union of the regions of each image, `[B, 1, H, W]`, in the dtype of the images."""
    return batch["regions"].any(dim=1, keepdim=True).to(batch["image"].dtype)


def normal(inpainter: Inpainter, image: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Sample standard normal noise of the shape of z, with one generator for each image."""
    shape = inpainter.noise_shape(image)[1:]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(image)


class DiffusionGuard(ProtectionSteps, MethodModule):
    """Protect images against an inpainting model.

    `predict` writes `protected/<name>.png` into the run directory. The files have the size of the images in the data.
    `predict` skips existing images. An interrupted run can therefore be resumed with the same `--run_directory`.
    `predict` rejects a directory if its images were written with another inpainter, image size, precision or attack
    setting. An existing file is also rejected if its hash of image and masks differs.

    `test` edits the protected and the original image with the same noise and prompt. It logs means over images, masks
    and prompts. Lower is better:

    * `test/edit_psnr` and `test/edit_ssim`: PSNR in dB and SSIM between both edits, and `test/edit_psnr_repainted`, the
      PSNR of the repainted part only; in the kept part, the edits also differ by the protection itself;
    * with `clip`, `test/clip_similarity` between the protected image's edit and its prompt; and, if the data have
      source prompts, `test/clip_directional_similarity`. The suffix `_unprotected` marks both metrics for the edit of
      the original image.

    These metrics are for masks that the protection knows. The suffix `_unseen` marks metrics for masks that it does not
    know. `test/noise_norm` and `test/noise_norm_unprotected` are norms of the predicted noise in the first step of the
    editor.

    The paper has no training. `fit` trains the trainable parameters of the inpainting model by its denoising error. Use
    it to train a small model for the demo, or to adapt a model to the domain of the images.

    Args:
        inpainter: model to protect against: `PixelInpainter` or `StableDiffusionInpainter`.
        objective: objective that the attack maximises: `noise_norm` as in the paper, or the objective of a baseline.
        epsilon: maximal change of a pixel, in pixel units.
        step_size: step size a, in pixel units; None uses 0.5 / 255.
        iterations: number of attack steps; None uses 800.
        gradient_repeats: number of gradients averaged before the sign.
        editor_steps: number of steps of the editor; the attack targets the first step.
        timestep: timestep to attack, as in the ablation of the paper; None attacks the first timestep of the editor.
        augmentation: method of sampling K: `contour` (Algorithm 1), `single` (the union of the regions), or `global`
            (the whole image).
        seed: random seed of protection and editing.
        clip: CLIP model for similarity metrics in `test`: a local folder, or a name on the Hugging Face Hub
            (`openai/clip-vit-large-patch14`); None disables these metrics.
        optimizer: optimizer of the trainable parameters of the inpainter.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Raises:
        ValueError: if an argument is out of range; in `fit`, if the inpainter has no trainable parameters; in
            `predict`, if the run directory has images of the same names that come from other inputs or settings.
    """

    def __init__(
        self,
        inpainter: Inpainter,
        objective: ProtectionObjective = "noise_norm",
        epsilon: float = 8 / 255,
        step_size: float | None = None,
        iterations: int | None = None,
        gradient_repeats: int = 1,
        editor_steps: int = 4,
        timestep: int | None = None,
        augmentation: Augmentation = "contour",
        seed: int = 0,
        clip: str | None = None,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        within(0, 1, "(]", epsilon=epsilon, step_size=step_size)
        at_least(1, iterations=iterations, gradient_repeats=gradient_repeats, editor_steps=editor_steps)
        num_timesteps = int(inpainter.scheduler.config.num_train_timesteps)
        within(0, num_timesteps, "[)", timestep=timestep)
        only_with("objective noise_norm", objective == "noise_norm", DiffusionGuard, timestep=timestep)
        ascent: dict[str, Any] = {"iterations": iterations, "augmentation": augmentation}
        ascent |= {"step_size": step_size, "gradient_repeats": gradient_repeats}
        only_with("another objective than random", objective != "random", DiffusionGuard, **ascent)
        self.inpainter = inpainter
        self.objective: ProtectionObjective = objective
        self.epsilon = epsilon
        self.step_size = 0.5 / 255 if step_size is None else step_size
        self.iterations = 800 if iterations is None else iterations
        self.gradient_repeats = gradient_repeats
        self.num_timesteps = num_timesteps
        self.first_timestep = inpainter.first_timestep(editor_steps)
        self.timestep = self.first_timestep if timestep is None else timestep
        self.augmentation: Augmentation = augmentation
        self.seed = seed
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.clip = clip
        self._clip: CLIP | None = None
        self.metrics = EditMeans(clip is not None)

    def setup(self, stage: str) -> None:
        if stage == "test" and self.clip is not None:
            self._clip = CLIP(self.clip)
        if stage == "fit" and not any(parameter.requires_grad for parameter in self.inpainter.parameters()):
            raise ValueError("DiffusionGuard's inpainter has no trainable parameters: run predict or test, not fit")

    def training_step(self, batch: ProtectedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image = batch["image"].to(self._arithmetic(batch["image"]))
        noise = sample_rows(torch.randn, self.inpainter.noise_shape(image), self.device, dtype=image.dtype)
        timestep = sample_rows(partial(torch.randint, self.num_timesteps), (len(image),), self.device)
        draw = sample_rows_like(torch.randn, noise)
        error = self.inpainter.denoising_error(image, union(batch).to(image), noise, draw, timestep)
        return {"loss": log_training(self, batch, error.mean())}

    def protect(self, image: Tensor, regions: Tensor, index: Tensor) -> Tensor:
        """Protect a batch of images.

        Args:
            image: `[B, C, H, W]` in [0, 1].
            regions: regions that editors are expected to keep, `[B, R, H, W]`, bool.
            index: position of each image, `[B]`; it seeds the random numbers of the image.

        Returns:
            Protected images `[B, C, H, W]`, in float32 or a higher precision.
        """
        noises = [generator_of(self.seed, int(i), PROTECTING) for i in index]
        image = at_least_float32(image.detach().clone())
        if self.objective == "random":
            signs = torch.stack([torch.randn(image.shape[1:], generator=g).sign() for g in noises]).to(image)
            keep = regions.any(dim=1, keepdim=True)
            return project(image + self.epsilon * signs * keep, image, "linf", self.epsilon)
        masks = [np.random.default_rng([self.seed, int(i)]) for i in index]
        kept = [each.cpu().numpy() for each in regions]

        def draw_keep() -> Tensor:
            drawn = [draw_kept(each, self.augmentation, random) for each, random in zip(kept, masks, strict=True)]
            return torch.from_numpy(np.stack(drawn))[:, None].to(image)

        arithmetic = self._arithmetic(image)

        def raised(adversarial: Tensor, keep: Tensor) -> Tensor:
            adversarial, keep = adversarial.to(arithmetic), keep.to(arithmetic)
            noise, draw = normal(self.inpainter, adversarial, noises), normal(self.inpainter, adversarial, noises)
            if self.objective == "encoder":
                return -distance_to_grey(self.inpainter, adversarial, keep)
            if self.objective == "denoising_error":
                times = torch.cat([torch.randint(self.num_timesteps, (1,), generator=g) for g in noises])
                return self.inpainter.denoising_error(adversarial, keep, noise, draw, times.to(image.device)).sum()
            return noise_norm(first_step(self.inpainter, adversarial, keep, noise, draw, self.timestep)).sum()

        with torch.inference_mode(False), torch.enable_grad():
            # inference tensors have no gradients, a clone does
            return protected(
                image.clone(), raised, draw_keep, self.epsilon, self.step_size, self.iterations, self.gradient_repeats
            )

    def on_test_start(self) -> None:
        for metric in map(self.metrics.mean, self.metrics):  # half precision has only three digits
            metric.set_dtype(torch.promote_types(metric.dtype, torch.float32))

    def test_step(self, batch: ProtectedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image, index = batch["image"], batch["index"]
        if self._clip is not None and batch_idx == 0 and not any(map(any, batch["prompt"])):
            raise ValueError("clip needs prompts to compare edits with, but the data have none")
        guarded = self.protect(image, batch["regions"], index)
        image, guarded = (each.to(self._arithmetic(image)) for each in (image, guarded))
        noise = normal(self.inpainter, image, [generator_of(self.seed, int(i), EDITING) for i in index])
        compared = torch.promote_types(image.dtype, torch.float32)
        shown: dict[str, Tensor] = {}
        for number, keep in enumerate(batch["editor_keeps"].to(image).split(1, dim=1)):
            ending = "" if number == 0 else UNSEEN
            for rows, prompts in prompted(batch["prompt"]):
                edits = (self.inpainter.edit(x[rows], keep[rows], prompts, noise[rows]) for x in (image, guarded))
                edit, edit_of_guarded = (each.to(compared) for each in edits)
                shown = shown or {"protected": guarded, "edit": edit, "edit_of_protected": edit_of_guarded}
                self.metrics.measure(edit_of_guarded, edit, 1 - keep[rows], ending)
                if self._clip is not None:
                    sources = [batch["source_prompt"][row] for row in rows] if "source_prompt" in batch else None
                    compare = partial(self.metrics.compare, self._clip, image[rows])
                    compare(edit_of_guarded, prompts, sources, ending)
                    compare(edit, prompts, sources, f"_unprotected{ending}")
        measured = [generator_of(self.seed, int(i), MEASURING) for i in index]
        noise, draw = normal(self.inpainter, image, measured), normal(self.inpainter, image, measured)
        for name, each in {"noise_norm": guarded, "noise_norm_unprotected": image}.items():
            predicted = first_step(self.inpainter, each, union(batch).to(image), noise, draw, self.first_timestep)
            self.metrics.mean(name).update(noise_norm(predicted.to(compared)))
        return shown

    def image_columns(self, batch: ProtectedImageBatch, outputs: dict[str, Tensor]) -> dict[str, Tensor | ImageColumn]:
        """Log a figure for the first mask and prompt: images, protected images, their difference, and both edits."""
        image = batch["image"].float()
        protected, edit, edit_of_protected = (outputs[key] for key in ("protected", "edit", "edit_of_protected"))
        return {
            "image": image,
            "protected": protected,
            "change": ImageColumn(protected - image, difference=True),
            "edit of image": edit,
            "edit of protected": edit_of_protected,
            "difference of edits": ImageColumn(edit_of_protected - edit, difference=True),
            "the region that the editor keeps": batch["editor_keeps"][:, 0],
        }

    def on_test_epoch_end(self) -> None:
        for name in self.metrics:
            if self.metrics.mean(name).update_called:
                self.log(f"test/{name}", self.metrics.mean(name))

    def _arithmetic(self, image: Tensor) -> torch.dtype:  # only the inpainter's inputs are cast
        return next(self.inpainter.parameters(), image).dtype

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.inpainter))
