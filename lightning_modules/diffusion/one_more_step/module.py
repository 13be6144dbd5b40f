"""LightningModule that trains One More Step and samples with it; see the package docstring for the method."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

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
from lightning_modules.backbones.diffusion.guidance import Sampling, guided_model
from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.backbones.quantization import prepare_for_ddp
from lightning_modules.diffusion.one_more_step.initial_latents import (
    brightness,
    brightness_measures,
    brightness_table,
    first_level,
    given_to_pipeline,
    initial_latents,
    sampled_by,
    zero_terminal_snr,
)
from lightning_modules.diffusion.one_more_step.prompted import Prompted, Start
from lightning_modules.interfaces import ImageColumn
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.collected import Collected
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.training.logging import log_same, log_training

OFFSET = 0.1
"""Standard deviation of the constant that offset noise adds to each channel."""


class OneMoreStep(Prompted, MethodModule):
    """Train One More Step on images with captions, and measure its effect on the brightness of samples.

    `test` samples an image for the caption of each test image, and compares the mean brightness of sampled and of real
    images. `test/brightness_distance` is the 1-Wasserstein distance between the two brightness distributions.
    `test/brightness_deviation` and `test/brightness_deviation_of_data` are the standard deviations of brightness over
    samples and over real images. `test/brightness_correlation` is the correlation between the brightness of a sample
    and of the real image with the same caption. After training, the U-Net is saved to `one_more_step/` in diffusers
    format. The diffusion model of a pipeline is frozen, but a trainable `PixelModel` is trained at the same time, with
    its own denoising loss.

    Args:
        network: V, network that predicts v from noise and prompts, such as `TimeFreeUNet`.
        model: diffusion model that encodes and samples images: `TextToImage` or `PixelModel`.
        text_encoder: text encoder of `network`, such as `HashedWords`; None uses the text encoder of `model`.
        start: kind of the initial latents in `test`. `one_more_step` is the method itself. `plain` is pure noise.
            `offset_noise` is noise with a random mean in each channel. `oracle` uses the real image instead of x~_0.
            `zero_terminal_snr` is pure noise, with the noise schedule rescaled to zero terminal SNR.
        sampling: number of sampling steps of `model`, and its guidance scale if it is a `TextToImage`.
        step_guidance_scale: w, guidance scale of One More Step itself; 1 uses only the conditional prediction.
        deviation: s, standard deviation of the new noise in the initial latents; None uses the maximum, sqrt(1 - a).
        official_variance: multiply the noise of the initial latents by 1 - a, as the authors' code does.
        step_prompt: text for One More Step itself, which controls brightness and other low frequencies. The diffusion
            model still uses the captions or prompts. None uses the captions or prompts for One More Step as well.
        caption_dropout: probability of replacing a training caption with the empty text, in [0, 1).
        optimizer: optimizer of the trainable parameters of both networks.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> from lightning_modules.backbones.diffusion.pixel_model import PixelModel
        >>> from lightning_modules.diffusion.hash_embedding import HashedWords
        >>> from lightning_modules.diffusion.one_more_step import PromptedMLP
        >>> from lightning_modules.networks.time_conditioned_mlp import TimeConditionedImageMLP
        >>> model = PixelModel(TimeConditionedImageMLP(64), DDIMScheduler())
        >>> model = OneMoreStep(PromptedMLP(64, prompt_features=16), model, HashedWords())
        >>> model.generate(["a dark room", "a bright room"], (1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        model: nn.Module,
        text_encoder: nn.Module | None = None,
        start: Start = "one_more_step",
        sampling: Sampling = Sampling(steps=20),
        step_guidance_scale: float = 1.0,
        deviation: float | None = None,
        official_variance: bool = False,
        step_prompt: str | None = None,
        caption_dropout: float = 0.1,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        one_of(get_args(Start), start=start)
        at_least(0, step_guidance_scale=step_guidance_scale)
        within(0, 1, "[)", caption_dropout=caption_dropout)
        within(0, math.sqrt(1 - first_level(model.scheduler, sampling.steps)), deviation=deviation)
        if official_variance and deviation is not None:
            raise ValueError(f"deviation must be None if official_variance is true, got {deviation}")
        self.rescaled = zero_terminal_snr(model.scheduler) if start == "zero_terminal_snr" else None
        self.network = network
        self.model: Any = model
        self.text_encoder: Any = text_encoder
        if self.encoder.encode_prompts([""]) is None:
            raise ValueError(f"text_encoder must be given, because {type(model).__name__} has no text encoder")
        self.start: Start = start
        self.num_inference_steps = sampling.steps
        self.guidance_scale = sampling.guidance_scale
        self.step_guidance_scale = step_guidance_scale
        self.deviation = deviation
        self.official_variance = official_variance
        self.step_prompt = step_prompt
        self.caption_dropout = caption_dropout
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.measured = Collected()

    def setup(self, stage: str) -> None:
        prepare_for_ddp(self)

    @property
    def encoder(self) -> Any:
        """Text encoder for `network`."""
        return self.model if self.text_encoder is None else self.text_encoder

    def training_step(self, batch: CaptionedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """Compute the loss of the network, which learns to predict -x_0 from pure noise."""
        with torch.no_grad():
            clean = self.model.encode(batch["image"])
        noise = sample_rows_like(torch.randn, clean)
        dropped = sample_rows(torch.rand, (len(clean),), clean.device) < self.caption_dropout
        captions = captions_of(batch, "OneMoreStep")
        prompts = self.encoder.encode_prompts(captions).replace(dropped, self.encoder.empty_prompts(1))
        terms = {"step": F.mse_loss(self.network(noise, prompts), -clean)}
        if trainable_parameters(self.model):
            terms["denoising"] = self.model.denoising_loss(batch["image"])
        return {"loss": log_training(self, batch, torch.stack(list(terms.values())).sum(), **terms)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network, self.model))

    def on_train_end(self) -> None:
        directory = self.trainer.log_dir if self.trainer.loggers else None  # log_dir broadcasts: all ranks must read it
        save = getattr(getattr(self.network, "network", None), "save_pretrained", None)
        if directory is not None and save is not None and self.trainer.is_global_zero:
            save(str(Path(directory, "one_more_step")))
            rank_zero_info(f"Saved the network of One More Step to {Path(directory, 'one_more_step')}")

    @torch.no_grad()
    def estimate(self, noise: Tensor, texts: Sequence[str]) -> Tensor:
        """Compute the estimate x~_0 from pure noise z, `[B, ...]`, and B texts."""
        prompts, empty = self.encoder.encode_prompts(texts), self.encoder.empty_prompts(len(noise))

        def network(x: Tensor, t: Tensor, given: Prompts) -> Tensor:
            return self.network(x, given)

        time = torch.zeros(len(noise), device=noise.device)
        return -guided_model(network, prompts, empty, self.step_guidance_scale)(noise, time)

    @torch.no_grad()
    def latents_for(
        self, scheduler: Any, texts: Sequence[str], num_inference_steps: int, fresh: Tensor, start: Tensor
    ) -> Tensor:
        """Compute initial latents for an unmodified pipeline with the latent space of `model`: its argument `latents`.

        Args:
            scheduler: scheduler of the pipeline, which determines the noise levels, the first timestep and the scale of
                the latents.
            texts: B texts for One More Step; they may differ from the prompts of the pipeline.
            num_inference_steps: number of sampling steps of the pipeline.
            fresh: e, standard normal noise, `[B, c, h, w]`. To use the same random numbers as in plain sampling, sample
                `fresh` before `start`.
            start: z, standard normal noise from which x~_0 is estimated.
        """
        abar = first_level(scheduler, num_inference_steps)
        clean = self.estimate(start, texts)
        state = initial_latents(clean, fresh, abar, start, self.deviation, self.official_variance)
        return given_to_pipeline(state, scheduler, num_inference_steps)

    def began(self, batch: CaptionedImageBatch, start: Start) -> tuple[Tensor, Sequence[str], list[torch.Generator]]:
        """Return a batch's initial latents, `[B, c, h, w]`, its captions, and one random generator for each image.

        The generators are seeded by the seed of the run and the index of the image.
        """
        texts, clean = captions_of(batch, "OneMoreStep"), self.model.encode(batch["image"])
        generators = [generator_of(run_seed(), index) for index in batch["index"].tolist()]
        fresh = sample_like(clean, torch.randn, generators)
        if start == "one_more_step":
            z = sample_like(clean, torch.randn, generators)
            step, scheduler = self.step_texts(texts), self.model.scheduler
            return self.latents_for(scheduler, step, self.num_inference_steps, fresh, z), texts, generators
        if start == "oracle":
            plan = (self.model.scheduler, self.num_inference_steps)
            return given_to_pipeline(initial_latents(clean, fresh, first_level(*plan)), *plan), texts, generators
        if start == "offset_noise":
            fresh = fresh + OFFSET * sample_like(clean[:, :, :1, :1], torch.randn, generators)
        return fresh, texts, generators

    @torch.no_grad()
    def sample_from(self, batch: CaptionedImageBatch, start: Start | None = None) -> Tensor:
        """Sample an image in [0, 1] for each caption, `[B, C, H, W]`; None selects the module's own `start`."""
        start = start or self.start
        latents, texts, generators = self.began(batch, start)
        with sampled_by(self.rescaled if start == "zero_terminal_snr" else None, self.model):
            if isinstance(self.model, PixelModel):  # unconditional
                return self.model.generate(latents, self.num_inference_steps)
            options = {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}
            return self.model.generate(self.model.encode_prompts(texts), latents, **options, generator=generators)

    def test_step(self, batch: CaptionedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """Measure the brightness of samples, and return the samples as `sample`, `[B, C, H, W]`."""
        sample = self.sample_from(batch)
        self.measured.update(batch["index"], torch.stack([brightness(sample), brightness(batch["image"])], dim=1))
        return {"sample": sample}

    def on_test_epoch_end(self) -> None:
        _, rows = self.measured.compute()
        for name, value in brightness_measures(*rows.unbind(dim=1)).items():
            log_same(self, f"test/brightness_{name}", value)
        self.tables = {"brightness": brightness_table(*rows.unbind(dim=1))}
        self.measured.reset()

    def image_columns(self, batch: CaptionedImageBatch, outputs: dict[str, Tensor]) -> dict[str, ImageColumn]:
        """Show real images next to samples for their captions, one for each of `plain`, `self.start` and `oracle`."""
        given: Any = {**batch, "caption": captions_of(batch, "OneMoreStep")}
        few: Any = {key: given[key][:8] for key in ("image", "caption", "index")}
        shown = {"real": few["image"], "plain": self.sample_from(few, "plain"), self.start: outputs["sample"][:8]}
        shown["oracle"] = self.sample_from(few, "oracle")
        return {name: ImageColumn(image, few["caption"]) for name, image in shown.items()}
