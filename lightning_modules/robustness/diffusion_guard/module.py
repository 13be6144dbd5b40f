"""DiffusionGuard: photographs that a diffusion model's editor fails to repaint around what it keeps.

For an image x whose kept region is K, and an editor's first step from pure noise z at t_0, protection seeks

    max_d  || e_theta(cat[z, m, y(x + d)], t_0, empty prompt) ||_2   subject to  ||d||_inf <= epsilon,

with m the repainted part and y the encoding of the image with that part blanked. Each iteration draws z, the latent's
own randomness and a deformed region K (`kept_regions.py`), and moves by the sign of the gradient inside K:

    d <- clip(d + a sign(mean_r grad_r) K, -epsilon, epsilon),   and x + d is clipped to [0, 1].

Budgets are in pixel units: the authors' code has epsilon 16/255 and a = 1/255 on images in [-1, 1], which are half of
that here (the paper says 16/255). The code maximises the norm of the whole batch of copies of one image; here the sum
of the images' norms, which has the same signs. t_0 is the first of four steps, as in the code; the paper writes T.

Other objectives through the same loop: `encoder` (PhotoGuard, Salman et al., ICML 2023: the blanked image's encoding
is drawn to that of a grey image), `denoising_error` (AdvDM, Liang et al., ICML 2023: the training loss at random t is
raised), and `random` signs without any gradient.

Source: Choi et al., DiffusionGuard: A Robust Defense Against Malicious Diffusion-based Image Editing, ICLR 2025, arXiv
2410.05694, Equation 4 and Algorithm 1.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from datamodules.batches import ProtectedImageBatch, global_size, share
from datamodules.files.whole_files import whole_file
from lightning_modules.full_precision import at_least_float32
from lightning_modules.interfaces import ImageColumn
from lightning_modules.networks.module_hash import hash_of_module
from lightning_modules.random_numbers import generator_of
from lightning_modules.resumable.item_files import missing_items
from lightning_modules.resumable.settings_file import refuse_other_settings, write_settings
from lightning_modules.robustness.attacks.ascent import project
from lightning_modules.robustness.diffusion_guard.clip_similarity import CLIP, directional_similarity
from lightning_modules.robustness.diffusion_guard.inpainting import Inpainter
from lightning_modules.robustness.diffusion_guard.kept_regions import Augmentation, draw_kept
from lightning_modules.training.optimizers import adam, constant

Objective = Literal["noise_norm", "encoder", "denoising_error", "random"]
PROTECTING, EDITING, MEASURING = 0, 1, 2  # what an image's random numbers are for
HASH = "hash_of_given"  # the key in a protected file's metadata


def noise_norm(predicted: Tensor) -> Tensor:
    """|| e ||_2 of each image, `[B]`."""
    return torch.linalg.vector_norm(predicted.flatten(1), dim=1)


def protected(
    image: Tensor,
    objective: Callable[[Tensor, Tensor], Tensor],
    draw_keep: Callable[[], Tensor],
    epsilon: float,
    step_size: float,
    iterations: int,
    gradient_repeats: int = 1,
) -> Tensor:
    """Projected gradient ascent inside regions that are drawn anew in each iteration.

    Args:
        image: x, `[B, C, H, W]` in [0, 1].
        objective: maps x + d and K, `[B, 1, H, W]`, to what is raised, a scalar; random at each call.
        draw_keep: draws K.
        epsilon: greatest change of a pixel.
        step_size: a.
        iterations: number of steps.
        gradient_repeats: gradients whose mean is taken before the sign.

    Returns:
        x + d, `[B, C, H, W]` in [0, 1]; pixels that no K held are those of x.
    """
    adversarial = image.clone()
    for _ in range(iterations):
        keep = draw_keep()
        leaf = adversarial.clone().requires_grad_()
        total = torch.stack([objective(leaf, keep) for _ in range(gradient_repeats)]).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        adversarial = project(adversarial + step_size * (gradient * keep).sign(), image, "linf", epsilon)
    return adversarial


class DiffusionGuard(LightningModule):
    """Protects images against one inpainting model: with `predict` it writes them, with `test` it edits them.

    `predict` writes `protected/<name>.png` into the run directory, in the size to which the data resize images. Images
    that are there already are left alone, so an interrupted run continues when it is started again with the same
    `--run_directory`. With other settings of the attack, another inpainter, image size or precision it is refused, and
    so is another image of the same name, or one with other masks: each file has the hash of what it was made from.

    `test` protects, lets the editor repaint both the protected and the given image with the same noise and prompt, and
    logs means over images, masks and prompts. The lower they are, the better is the protection:

    * `test/edit_psnr` and `test/edit_ssim`: PSNR in dB and SSIM between both edits, and `test/edit_psnr_repainted`, the
      PSNR where the editor repaints: in what it keeps is what protection itself changed, which with a large budget is
      most of the difference, whatever becomes of the edit;
    * with `clip`, `test/clip_similarity` of the protected image's edit and its prompt, and, where the data say what the
      images show, `test/clip_directional_similarity` of what changed in image and text; both also with the ending
      `_unprotected`, of the given image's edit, which says how much protection takes away.

    These are for an editor who keeps the regions that protection knew, and with the ending `_unseen` for masks that it
    did not know. `test/noise_norm` and `test/noise_norm_unprotected` are of the editor's first step. Random numbers are
    those of an image, whichever process and batch it falls to.

    The paper trains nothing. `fit` trains the inpainting model by its own denoising error, where it has trainable
    parameters: on the surrogate of the demo, or to fit a model to the images' domain.

    Args:
        inpainter: the model that edits, see `inpainting.py`.
        objective: what is raised.
        epsilon: greatest change of a pixel, in pixel units.
        step_size: a, in pixel units.
        iterations: number of steps.
        gradient_repeats: gradients whose mean is taken before the sign.
        editor_steps: steps of the editor whose first one is attacked.
        timestep: t that is attacked in place of that first one; small for the late steps of the paper's ablation.
        augmentation: how K is drawn: `contour` (Algorithm 1), `single` (the union of the regions as it is), or
            `global` (the whole image).
        seed: seeds all that is drawn at random in protection and editing.
        clip: model that compares edits with their prompts in `test`, a local folder or a name on the Hugging Face Hub
            (`openai/clip-vit-large-patch14`); None compares nothing.
        optimizer: built on the inpainter's trainable parameters.
        lr_scheduler: stepped every epoch.

    Raises:
        ValueError: if an argument is out of range; in `fit`, if the inpainter has nothing to train; in `predict`, if
            the run directory has images that were protected with other settings, or were others of the same names.
    """

    def __init__(
        self,
        inpainter: Inpainter,
        objective: Objective = "noise_norm",
        epsilon: float = 8 / 255,
        step_size: float = 0.5 / 255,
        iterations: int = 800,
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
        for key, value in {"epsilon": epsilon, "step_size": step_size}.items():
            if not 0 < value <= 1:
                raise ValueError(f"{key} must be in (0, 1], in units of the pixel range, got {value}")
        for key, number in {
            "iterations": iterations,
            "gradient_repeats": gradient_repeats,
            "editor_steps": editor_steps,
        }.items():
            if number < 1:
                raise ValueError(f"{key} must be at least 1, got {number}")
        num_timesteps = int(inpainter.scheduler.config.num_train_timesteps)
        if timestep is not None and not 0 <= timestep < num_timesteps:
            raise ValueError(f"timestep must be in 0...{num_timesteps - 1}, got {timestep}")
        self.inpainter = inpainter
        self.objective: Objective = objective
        self.epsilon = epsilon
        self.step_size = step_size
        self.iterations = iterations
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
        compared = ["edit_psnr", "edit_psnr_repainted", "edit_ssim"]
        for name in ("clip_similarity", "clip_directional_similarity") if clip else ():
            compared += [name, f"{name}_unprotected"]
        names = [*compared, *(f"{name}_unseen" for name in compared), "noise_norm", "noise_norm_unprotected"]
        self.metrics = torch.nn.ModuleDict({name: MeanMetric() for name in names})

    def setup(self, stage: str) -> None:
        if stage == "test" and self.clip is not None:
            self._clip = CLIP(self.clip)
        if stage == "fit" and not any(parameter.requires_grad for parameter in self.inpainter.parameters()):
            raise ValueError("DiffusionGuard has nothing to train with this inpainter: protect with predict, or test")

    def training_step(self, batch: ProtectedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image = batch["image"].to(self._arithmetic(batch["image"]))
        noise = torch.randn(self.inpainter.noise_shape(image), dtype=image.dtype, device=self.device)
        timestep = torch.randint(self.num_timesteps, (len(image),), device=self.device)
        error = self.inpainter.denoising_error(image, union(batch).to(image), noise, torch.randn_like(noise), timestep)
        loss = share(batch) * error.mean()
        self.log(
            "train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=global_size(batch), sync_dist=True
        )
        return {"loss": loss}

    def protect(self, image: Tensor, regions: Tensor, index: Tensor) -> Tensor:
        """Protects a batch of images.

        Args:
            image: `[B, C, H, W]` in [0, 1].
            regions: `[B, R, H, W]`, bool: what editors are expected to keep.
            index: `[B]`: of each image, for its random numbers.

        Returns:
            `[B, C, H, W]`, in float32 or better.
        """
        noises = [self._random(int(i), PROTECTING) for i in index]
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
            noise, draw = self._normal(adversarial, noises), self._normal(adversarial, noises)
            if self.objective == "encoder":
                grey = torch.full_like(adversarial, 0.5)
                target = self.inpainter.encode(grey, torch.zeros_like(draw)).detach()
                reached = self.inpainter.encode(self.inpainter.blanked(adversarial, keep), torch.zeros_like(draw))
                return -(reached - target).square().sum()
            if self.objective == "denoising_error":
                times = torch.cat([torch.randint(self.num_timesteps, (1,), generator=g) for g in noises])
                return self.inpainter.denoising_error(adversarial, keep, noise, draw, times.to(image.device)).sum()
            return noise_norm(self._first_step(adversarial, keep, noise, draw, self.timestep)).sum()

        with torch.inference_mode(False), torch.enable_grad():
            # What inference mode made has no gradients: a clone does.
            return protected(
                image.clone(), raised, draw_keep, self.epsilon, self.step_size, self.iterations, self.gradient_repeats
            )

    def _first_step(self, image: Tensor, keep: Tensor, noise: Tensor, draw: Tensor, timestep: int) -> Tensor:
        """The editor's prediction from pure noise."""
        time = torch.full((len(image),), timestep, device=image.device)
        sigma = float(self.inpainter.scheduler.init_noise_sigma)
        return self.inpainter.noise_given(image, keep, sigma * noise, draw, time)

    def on_test_start(self) -> None:
        for name in self.metrics:  # which half precision would leave two digits
            metric = self._metric(name)
            metric.set_dtype(torch.promote_types(metric.dtype, torch.float32))

    def test_step(self, batch: ProtectedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image, index = batch["image"], batch["index"]
        if self._clip is not None and batch_idx == 0 and not any(map(any, batch["prompt"])):
            raise ValueError("clip compares edits with their prompts, and the data have none")
        guarded = self.protect(image, batch["regions"], index)
        image, guarded = (each.to(self._arithmetic(image)) for each in (image, guarded))
        noise = self._normal(image, [self._random(int(i), EDITING) for i in index])
        compared = torch.promote_types(image.dtype, torch.float32)
        shown: dict[str, Tensor] = {}
        for number, keep in enumerate(batch["editor_keeps"].to(image).split(1, dim=1)):
            ending = "" if number == 0 else "_unseen"
            for rows, prompts in prompted(batch["prompt"]):
                edit, edit_of_guarded = (
                    self.inpainter.edit(each[rows], keep[rows], prompts, noise[rows]).to(compared)
                    for each in (image, guarded)
                )
                shown = shown or {"protected": guarded, "edit": edit, "edit_of_protected": edit_of_guarded}
                psnr = peak_signal_noise_ratio(edit_of_guarded, edit, 1.0, reduction="none", dim=(1, 2, 3))
                self._metric(f"edit_psnr{ending}").update(psnr)
                there = psnr_where(edit_of_guarded, edit, 1 - keep[rows])
                self._metric(f"edit_psnr_repainted{ending}").update(there)
                self._metric(f"edit_ssim{ending}").update(ssim(edit_of_guarded, edit))
                if self._clip is not None:
                    source_prompts = [batch["source_prompt"][row] for row in rows] if "source_prompt" in batch else None
                    self._compare(self._clip, image[rows], edit_of_guarded, prompts, source_prompts, ending)
                    self._compare(self._clip, image[rows], edit, prompts, source_prompts, f"_unprotected{ending}")
        measured = [self._random(int(i), MEASURING) for i in index]
        noise, draw = self._normal(image, measured), self._normal(image, measured)
        for name, each in {"noise_norm": guarded, "noise_norm_unprotected": image}.items():
            predicted = self._first_step(each, union(batch).to(image), noise, draw, self.first_timestep)
            self._metric(name).update(noise_norm(predicted.to(compared)))
        return shown

    def image_columns(self, batch: ProtectedImageBatch, outputs: dict[str, Tensor]) -> dict[str, Tensor | ImageColumn]:
        """Show images, what protection changes in them, and both edits for the first mask and prompt of each."""
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

    def _compare(
        self, clip: CLIP, image: Tensor, edit: Tensor, prompts: list[str], source_prompts: list[str] | None, ending: str
    ) -> None:
        """Of edited images and their prompts; the direction where it is known what the images showed before."""
        edited, asked = clip.images(edit), clip.texts(prompts)
        self._metric(f"clip_similarity{ending}").update((edited * asked).sum(dim=1))
        if source_prompts is not None:
            direction = directional_similarity(edited, clip.images(image), asked, clip.texts(source_prompts))
            self._metric(f"clip_directional_similarity{ending}").update(direction)

    def on_test_epoch_end(self) -> None:
        for name in self.metrics:
            if self._metric(name).update_called:
                self.log(f"test/{name}", self._metric(name))

    def _metric(self, name: str) -> MeanMetric:
        metric = self.metrics[name]
        assert isinstance(metric, MeanMetric)
        return metric

    def on_predict_start(self) -> None:
        if self.trainer.log_dir is None:  # a fast_dev_run
            return
        keys = (
            "objective",
            "epsilon",
            "step_size",
            "iterations",
            "gradient_repeats",
            "timestep",
            "augmentation",
            "seed",
        )
        shape = getattr(self.trainer.datamodule, "image_shape", None)  # type: ignore[attr-defined]
        settings = {
            **{key: getattr(self, key) for key in keys},
            "image_shape": shape and list(shape),
            "precision": str(self.trainer.precision),
            "hash_of_inpainter": hash_of_module(self.inpainter),
        }
        path = Path(self.trainer.log_dir, "protection_settings.json")
        if self.trainer.is_global_zero and not path.is_file():
            write_settings(path, settings)
        self.trainer.strategy.barrier("the settings of protection are written")
        refuse_other_settings(
            path, settings, f"what {path.parent / 'protected'} holds", "protect into another run directory"
        )

    def predict_step(self, batch: ProtectedImageBatch, batch_idx: int) -> list[str]:
        """Writes the images of a batch that are not there yet, and returns their names."""
        from PIL.PngImagePlugin import PngInfo
        from torchvision.transforms.functional import to_pil_image

        directory = self.trainer.log_dir  # a fast_dev_run has none
        if directory is None:
            return []
        files = [Path(directory, "protected", f"{name}.png") for name in batch["name"]]
        hashes = [hash_of_given(*given) for given in zip(batch["image"], batch["regions"], strict=True)]
        rows = missing_items(files, hashes, _hash_in)
        if not rows:
            return []
        guarded = self.protect(batch["image"][rows], batch["regions"][rows], batch["index"][rows])
        for row, image in zip(rows, levels(guarded).cpu(), strict=True):
            metadata = PngInfo()
            metadata.add_text(HASH, hashes[row])
            with whole_file(files[row]) as partial:
                to_pil_image(image).save(partial, pnginfo=metadata)
        return [batch["name"][row] for row in rows]

    def on_predict_end(self) -> None:
        directory = self.trainer.log_dir
        if directory is not None:
            rank_zero_info(f"Protected images: {Path(directory, 'protected')}")

    def _arithmetic(self, image: Tensor) -> torch.dtype:
        """That of the inpainter's weights. The image itself stays precise, and only what the inpainter sees is cast."""
        return next(self.inpainter.parameters(), image).dtype

    def _random(self, index: int, purpose: int) -> torch.Generator:
        """The random numbers of an image for one purpose."""
        return generator_of(self.seed, index, purpose)

    def _normal(self, image: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Standard normal numbers, of the shape of z; each image's from its own generator."""
        shape = self.inpainter.noise_shape(image)[1:]
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(image)

    def configure_optimizers(self):
        optimizer = self.optimizer(filter(lambda parameter: parameter.requires_grad, self.inpainter.parameters()))
        return [optimizer], [self.lr_scheduler(optimizer)]


def psnr_where(edit: Tensor, other: Tensor, where: Tensor) -> Tensor:
    """PSNR of images `[B, C, H, W]` in [0, 1] over the pixels where `where`, `[B, 1, H, W]`, is 1: `[B]`, in dB.

    Infinite where the images are equal, NaN where there is no such pixel.
    """
    error = ((edit - other).square() * where).sum(dim=(1, 2, 3))
    return -10 * torch.log10(error / (edit.shape[1] * where.sum(dim=(1, 2, 3))))


def ssim(edit: Tensor, other: Tensor) -> Tensor:
    """SSIM of images `[B, C, H, W]` in [0, 1], of more than 5 x 5 pixels, with reflected borders: `[B]`."""
    found = structural_similarity_index_measure(edit, other, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found


def levels(image: Tensor) -> Tensor:
    """Images in [0, 1] in the 256 levels of a file, uint8."""
    return image.mul(255).round().byte()


def hash_of_given(image: Tensor, regions: Tensor) -> str:
    """Changes with the levels of an image `[C, H, W]`, and with its regions `[R, H, W]`, apart from empty ones."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (levels(image), regions[regions.flatten(1).any(dim=1)]):
        digest.update(f"{tuple(part.shape)}".encode())
        digest.update(part.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _hash_in(file: Path) -> str | None:
    """The `hash_of_given` that a protected file was written with."""
    from PIL import Image

    with Image.open(file) as kept:
        return kept.info.get(HASH)


def union(batch: ProtectedImageBatch) -> Tensor:
    """The regions' union, `[B, 1, H, W]`, in the images' type."""
    return batch["regions"].any(dim=1, keepdim=True).to(batch["image"].dtype)


def prompted(prompts: Sequence[Sequence[str]]) -> list[tuple[list[int], list[str]]]:
    """For the first, second, ... prompt of each image, the rows that have it, and the prompts."""
    rounds = []
    for number in range(max(map(len, prompts), default=0)):
        rows = [row for row, of_image in enumerate(prompts) if len(of_image) > number]
        rounds.append((rows, [prompts[row][number] for row in rows]))
    return rounds
