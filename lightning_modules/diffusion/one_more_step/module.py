"""Training of the step before the first one, and sampling with it; the method is described in `__init__.py`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, within
from datamodules.batches import CaptionedImageBatch
from datamodules.distributed.collectives import run_seed
from datamodules.prompts.captioned_set import captions_of
from datamodules.randomness.generators import generator_of, sample_like
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.backbones.diffusion.guidance import guided
from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.diffusion.one_more_step.initial_latents import (
    brightness,
    brightness_measures,
    first_level,
    given_to_pipeline,
    initial_latents,
    sampled_by,
    zero_terminal_snr,
)
from lightning_modules.interfaces import ImageColumn
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.collected import Collected
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.training.logging import log_same, log_training

Start = Literal["one_more_step", "plain", "offset_noise", "zero_terminal_snr", "oracle"]
OFFSET = 0.1
"""Standard deviation of what offset noise adds to all pixels of a channel alike."""


class OneMoreStep(MethodModule):
    """Trains the step before a diffusion model's first one, on images with captions, and measures what it changes.

    `test` draws an image for the caption of each test image and logs, over all processes, `test/brightness_distance`,
    the 1-Wasserstein distance of the drawn and the real images' mean brightness in pixel units, their standard
    deviations `test/brightness_deviation` and `test/brightness_deviation_of_data`, and `test/brightness_correlation` of
    each drawn image and the real one of its caption.

    `latents_for` gives what an unmodified pipeline of diffusers takes as `latents`. At the end of training
    `one_more_step/` in the run directory holds the U-Net as a folder of diffusers.

    The model itself stays as it is, where none of its parameters is trainable, as those of a pipeline. A `PixelModel`
    with trainable ones is trained beside the step, by its own denoising error: on the surrogate of the demo.

    Args:
        network: V; `TimeFreeUNet` or another module that maps noise and prompts to v.
        model: diffusion model whose samples begin with the step, `TextToImage` or `PixelModel`; it encodes images.
        text_encoder: embeds captions for `network`, such as `HashedWords`; None takes that of `model`.
        start: what samples of `test` begin with: `one_more_step`, `plain` noise, `offset_noise`, the `oracle`, which
            knows the real image, or plain noise on a schedule that ends at `zero_terminal_snr`, see that function.
        num_inference_steps: steps of a sample.
        guidance_scale: weight of the classifier-free guidance of a `TextToImage`.
        step_guidance_scale: w, that of the step itself; 1 asks for the caption alone.
        deviation: standard deviation s of the fresh noise in the first state; None takes the largest, sqrt(1 - a).
        official_variance: draw the first state with the standard deviation 1 - a of the authors' code.
        caption_dropout: part of the captions that training leaves empty, in [0, 1).
        optimizer: built on the trainable parameters of both networks.
        lr_scheduler: stepped every epoch.

    Raises:
        ValueError: if an argument is out of range, nothing embeds captions, or the schedule cannot end without signal.
    """

    needs_captions: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        model: nn.Module,
        text_encoder: nn.Module | None = None,
        start: Start = "one_more_step",
        num_inference_steps: int = 20,
        guidance_scale: float = 7.5,
        step_guidance_scale: float = 1.0,
        deviation: float | None = None,
        official_variance: bool = False,
        caption_dropout: float = 0.1,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        one_of(get_args(Start), start=start)
        at_least(1, num_inference_steps=num_inference_steps)
        at_least(0, guidance_scale=guidance_scale, step_guidance_scale=step_guidance_scale)
        within(0, 1, "[)", caption_dropout=caption_dropout)
        within(0, math.sqrt(1 - first_level(model.scheduler, num_inference_steps)), deviation=deviation)
        if official_variance and deviation is not None:
            raise ValueError(f"deviation must be left out where official_variance sets it, got {deviation}")
        self.rescaled = zero_terminal_snr(model.scheduler) if start == "zero_terminal_snr" else None
        self.network = network
        self.model: Any = model
        self.text_encoder: Any = text_encoder
        if self.encoder.encode_prompts([""]) is None:
            raise ValueError(f"text_encoder must be given: {type(model).__name__} has none")
        self.start: Start = start
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.step_guidance_scale = step_guidance_scale
        self.deviation = deviation
        self.official_variance = official_variance
        self.caption_dropout = caption_dropout
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.measured = Collected()

    @property
    def encoder(self) -> Any:
        """The module that embeds captions for the step."""
        return self.model if self.text_encoder is None else self.text_encoder

    # training

    def training_step(self, batch: CaptionedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """Fit -x_0 at pure noise."""
        with torch.no_grad():
            clean = self.model.encode(batch["image"])
        noise = sample_rows_like(torch.randn, clean)
        dropped = sample_rows(torch.rand, (len(clean),), clean.device) < self.caption_dropout
        captions = captions_of(batch, "OneMoreStep")
        prompts = self.encoder.encode_prompts(captions).replaced(dropped, self.encoder.empty_prompts(1))
        terms = {"step": F.mse_loss(self.network(noise, prompts), -clean)}
        if trainable_parameters(self.model):
            terms["denoising"] = self.model.denoising_loss(batch["image"])
        return {"loss": log_training(self, batch, torch.stack(list(terms.values())).sum(), **terms)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network, self.model))

    def on_train_end(self) -> None:
        directory = self.trainer.log_dir if self.trainer.loggers else None  # broadcast: every process asks
        save = getattr(getattr(self.network, "network", None), "save_pretrained", None)
        if directory is not None and save is not None and self.trainer.is_global_zero:
            save(str(Path(directory, "one_more_step")))
            rank_zero_info(f"The step's network: {Path(directory, 'one_more_step')}")

    # sampling

    @torch.no_grad()
    def estimated(self, noise: Tensor, texts: Sequence[str]) -> Tensor:
        """Estimate x~_0 of pure noise z, `[B, ...]`, for B texts."""
        prompts, empty = self.encoder.encode_prompts(texts), self.encoder.empty_prompts(len(noise))

        def network(x: Tensor, t: Tensor, given: Prompts) -> Tensor:
            return self.network(x, given)

        time = torch.zeros(len(noise), device=noise.device)
        return -guided(network, prompts, empty, self.step_guidance_scale)(noise, time)

    @torch.no_grad()
    def latents_for(
        self, scheduler: Any, texts: Sequence[str], num_inference_steps: int, fresh: Tensor, start: Tensor
    ) -> Tensor:
        """Compute the `latents` of an unmodified pipeline whose latents are those that this step was trained on.

        Args:
            scheduler: the pipeline's, whose levels, first time and scale count.
            texts: B texts for the step, which may differ from the pipeline's prompts.
            num_inference_steps: steps that the pipeline will take.
            fresh: e, standard normal, `[B, c, h, w]`: drawn first, it is the noise of a plain sample of the same seed.
            start: z, standard normal.
        """
        abar = first_level(scheduler, num_inference_steps)
        clean = self.estimated(start, texts)
        state = initial_latents(clean, fresh, abar, start, self.deviation, self.official_variance)
        return given_to_pipeline(state, scheduler, num_inference_steps)

    def began(self, batch: CaptionedImageBatch, start: Start) -> tuple[Tensor, Sequence[str]]:
        """Give what samples for the captions of a batch begin with, `[B, c, h, w]`, and the captions.

        What is drawn follows from the seed of the run and the position of each image.
        """
        texts, clean = captions_of(batch, "OneMoreStep"), self.model.encode(batch["image"])
        generators = [generator_of(run_seed(), index) for index in batch["index"].tolist()]
        fresh = sample_like(clean, torch.randn, generators)
        if start == "one_more_step":
            z = sample_like(clean, torch.randn, generators)
            return self.latents_for(self.model.scheduler, texts, self.num_inference_steps, fresh, z), texts
        if start == "oracle":
            plan = (self.model.scheduler, self.num_inference_steps)
            return given_to_pipeline(initial_latents(clean, fresh, first_level(*plan)), *plan), texts
        if start == "offset_noise":
            fresh = fresh + OFFSET * sample_like(clean[:, :, :1, :1], torch.randn, generators)
        return fresh, texts

    @torch.no_grad()
    def sampled(self, batch: CaptionedImageBatch, start: Start | None = None) -> Tensor:
        """Draw an image in [0, 1] for each caption, `[B, C, H, W]`; `start` is in place of the module's own."""
        start = start or self.start
        latents, texts = self.began(batch, start)
        with sampled_by(self.rescaled if start == "zero_terminal_snr" else None, self.model):
            if isinstance(self.model, PixelModel):  # it has no texts
                return self.model.generate(latents, self.num_inference_steps)
            options = {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}
            return self.model.generate(self.model.encode_prompts(texts), latents, **options)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Sample n images in [0, 1], for captions chosen uniformly among held-out images.

        Raises:
            ValueError: if `start` is the oracle, which needs real images.
        """
        if self.start == "oracle":
            raise ValueError("model.start oracle draws for real images alone: FID needs another start")
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        captions = data.test_set.captions or [""]
        places, index = (torch.randint(most, (n,), generator=generator) for most in (len(captions), 2**31))
        image = torch.zeros(n, *data.image_shape, device=self.device)
        texts = [captions[place] for place in places.tolist()]
        return self.sampled({"image": image, "caption": texts, "index": index, "global_batch_size": n})

    def test_step(self, batch: CaptionedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return `sample`, `[B, C, H, W]`."""
        sample = self.sampled(batch)
        self.measured.update(batch["index"], torch.stack([brightness(sample), brightness(batch["image"])], dim=1))
        return {"sample": sample}

    def on_test_epoch_end(self) -> None:
        _, rows = self.measured.compute()
        for name, value in brightness_measures(*rows.unbind(dim=1)).items():
            log_same(self, f"test/brightness_{name}", value)
        self.measured.reset()

    def image_columns(self, batch: CaptionedImageBatch, outputs: dict[str, Tensor]) -> dict[str, ImageColumn]:
        """Show a real image of each caption, and samples from plain noise, from the module's start and the oracle's."""
        given: Any = {**batch, "caption": captions_of(batch, "OneMoreStep")}
        few: Any = {key: given[key][:8] for key in ("image", "caption", "index")}
        shown = {"real": few["image"], "plain": self.sampled(few, "plain"), self.start: outputs["sample"][:8]}
        shown["oracle"] = self.sampled(few, "oracle")
        return {name: ImageColumn(image, few["caption"]) for name, image in shown.items()}
