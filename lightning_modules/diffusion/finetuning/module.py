"""Fine-tuning of diffusion models on images, with captions or without."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import MeanMetric

from datamodules.arguments import at_least, positive, within
from datamodules.batches import CaptionedImageBatch
from datamodules.distributed.collectives import run_seed
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import captions_of
from datamodules.randomness.generators import generator_of, sample_like
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.backbones.diffusion.cached_latents import cache_latents
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.pixel_space import PixelSpace
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage
from lightning_modules.diffusion.finetuning.sharding import refuse_to_go_on, share_out
from lightning_modules.diffusion.finetuning.weighting import min_snr_weight
from lightning_modules.interfaces import ImageColumn
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.averages import AveragedWeights, ramped_decay
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.sde.discrete import (
    Prediction,
    diffusion_target,
    noised,
    scheduler_levels,
    scheduler_prediction,
)
from lightning_modules.training.logging import log_training

TIMES, SAMPLE = 1, 2  # streams of what is drawn for an image in evaluation
GOLDEN = 2654435769  # 2^32 times the golden ratio, less one


def denoising_errors(
    model: Any, latent: Tensor, prompts: Prompts | None, noise: Tensor, t: Tensor, abar: Tensor, prediction: Prediction
) -> Tensor:
    """Compute each image's mean squared error at its time t `[B]`, for abar `[T]`: `[B]`, not weighted."""
    level = abar.to(latent.dtype)[t].view(-1, 1, 1, 1)
    output = model(noised(latent, noise, level), t, prompts)
    return (output - diffusion_target(latent, noise, level, prediction)).square().flatten(1).mean(dim=1)


class DiffusionFineTuning(MethodModule):
    """Fine-tune a diffusion model on images, and save it as a folder of diffusers or peft.

    `pipeline/` in the run directory holds the result at the end of training. Validation and test log `loss`, the
    unweighted error of the averaged weights on the images that are held out, each at its own time and with its own
    noise, the same at every validation. `ImageGrid` draws held-out images beside samples of their captions.

    Args:
        network: the model, `lightning_modules.backbones.diffusion.TextToImage`, `PixelSpace` or `pixel_pipeline`.
        min_snr_gamma: gamma of the weights; None weighs all times alike.
        caption_dropout: part of the images that are trained on without their caption, in [0, 1).
        average_decay: greatest decay of the averaged weights, in [0, 1); 0 uses the weights of the last step.
        cache_dir: folder of latents and embedded captions, which are computed before training; None computes them in
            each step. It wants images that are not mirrored.
        prompts: texts that `sample` goes through in turn; by default none.
        num_inference_steps: steps of a sample.
        guidance_scale: weight of classifier-free guidance in a sample; 1 is none.
        optimizer: built on the trainable parameters.
        lr_scheduler: stepped every epoch.

    Raises:
        TypeError: if `network` is none of these.
        ValueError: if an argument is out of range or does not belong to the model, or nothing of it is trained.
    """

    abar: Tensor

    def __init__(
        self,
        network: TextToImage | PixelSpace,
        min_snr_gamma: float | None = 5.0,
        caption_dropout: float = 0.0,
        average_decay: float = 0.9999,
        cache_dir: str | None = None,
        prompts: Sequence[str] = ("",),
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        if not isinstance(network, TextToImage | PixelSpace):
            raise TypeError(
                f"network must be a TextToImage, PixelSpace or pixel_pipeline, got {type(network).__name__}"
            )
        positive(min_snr_gamma=min_snr_gamma)
        within(0, 1, "[)", caption_dropout=caption_dropout, average_decay=average_decay)
        at_least(1, num_inference_steps=num_inference_steps)
        if isinstance(network, PixelSpace) and (caption_dropout or cache_dir):
            raise ValueError("caption_dropout and cache_dir belong to a text-to-image model, and PixelSpace is none")
        if not trainable_parameters(network):
            raise ValueError("network has nothing to train: its tuning must be full or lora")
        self.network = network
        self.min_snr_gamma = min_snr_gamma
        self.caption_dropout = caption_dropout
        self.average_decay = average_decay
        self.cache_dir = cache_dir
        self.prompts = prompts
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.prediction = scheduler_prediction(network.scheduler)
        self.register_buffer("abar", torch.from_numpy(scheduler_levels(network.scheduler)).float(), persistent=False)
        self.average = AveragedWeights(network, partial(ramped_decay, decay=average_decay))
        self.losses = MeanMetric()
        self._empty: Prompts | None = None
        self._shared_out = False

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(self.network, TextToImage) and isinstance(data, CaptionedImages):
            data.require_captions("a text-to-image model")
        shape = getattr(data, "image_shape", None)
        expected = self.network.shape if isinstance(self.network, PixelSpace) else None
        if shape is not None and expected is not None and tuple(shape) != expected:
            raise ValueError(f"the data have images {list(shape)}, and the U-Net is for {list(expected)}")

    def configure_model(self) -> None:
        """Share out what is trained over processes, a block of the U-Net at a time, for `ModelParallelStrategy`."""
        if self.device_mesh is None or self._shared_out:
            return
        share_out(self.network.network, self.device_mesh["data_parallel"])
        self.average = AveragedWeights(self.network, self.average.decay)
        self._shared_out = True
        self.strict_loading = False  # a checkpoint holds what is trained alone

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        refuse_to_go_on(self._shared_out, self.trainer.state.fn)

    def on_fit_start(self) -> None:
        if self.caption_dropout and isinstance(self.network, TextToImage):
            self._empty = self.network.empty_prompts(1)
        if self.cache_dir is not None and isinstance(self.network, TextToImage):
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            if not isinstance(data, CaptionedImages):
                raise TypeError(f"cache_dir needs the data of CaptionedImages, got {type(data).__name__}")
            cache_latents(self.network, data, self.cache_dir, self.device)

    # a step

    def given(self, batch: CaptionedImageBatch, draw: Any) -> tuple[Tensor, Prompts | None]:
        """Give z `[B, c, h, w]` and the prompts of a batch.

        Args:
            batch: the batch.
            draw: gives standard normal numbers of the shape of a tensor.

        Raises:
            ValueError: if a text-to-image model is given no captions.
        """
        if isinstance(self.network, PixelSpace):
            return self.network.encode(batch["image"]), None
        if "moments" in batch:
            moments, prompts = batch["moments"], Prompts(batch["embedding"], batch.get("pooled"))
            prompts = Prompts(*(None if value is None else value.to(moments.dtype) for value in prompts))  # type: ignore[arg-type]
        else:
            with torch.no_grad():
                moments = self.network.moments(batch["image"])
            prompts = self.network.encode_prompts(captions_of(batch, "a text-to-image model"))
        return self.network.latent(moments, draw(moments[:, 0])), prompts

    def training_step(self, batch: CaptionedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        latent, prompts = self.given(batch, partial(sample_rows_like, torch.randn))
        noise = sample_rows_like(torch.randn, latent)
        t = sample_rows(partial(torch.randint, len(self.abar)), (len(latent),), latent.device)
        if self.caption_dropout and prompts is not None and self._empty is not None:
            left_out = sample_rows(torch.rand, (len(latent),), latent.device) < self.caption_dropout
            prompts = prompts.replaced(left_out, self._empty)
        error = denoising_errors(self.network, latent, prompts, noise, t, self.abar, self.prediction)
        mean = error.detach().mean()
        if self.min_snr_gamma is not None:
            error = error * min_snr_weight(self.abar.to(error.dtype)[t], self.min_snr_gamma, self.prediction)
        return {"loss": log_training(self, batch, error.mean(), error=mean)}

    def configure_optimizers(self) -> Any:
        configured = optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
        self.average.follow(self.network, configured[0][0])
        return configured

    # held-out images

    def validation_step(self, batch: CaptionedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        return self._measure(batch, "val", batch_idx == 0)

    def test_step(self, batch: CaptionedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        return self._measure(batch, "test", batch_idx == 0)

    def _measure(self, batch: CaptionedImageBatch, stage: str, first: bool) -> dict[str, Tensor]:
        generators = [generator_of(run_seed(), index, TIMES) for index in batch["index"].tolist()]
        latent, prompts = self.given(batch, partial(sample_like, draw=torch.randn, generators=generators))
        noise = sample_like(latent, torch.randn, generators)
        t = ((batch["index"] + 1) * GOLDEN % 2**32 * len(self.abar)) >> 32  # more evenly spread than by chance
        with self.average.used_by(self.network):
            error = denoising_errors(self.network, latent, prompts, noise, t, self.abar, self.prediction)
        self.losses.update(error)
        self.log(f"{stage}/loss", self.losses, on_step=False, on_epoch=True)
        # Weights that are shared out need all processes, and pictures are drawn by one.
        return {"sample": self._sample_of(batch, latent)} if first and self._shared_out else {}

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw images `[n, C, H, W]` in [0, 1] with the averaged weights, of `prompts` in turn.

        With weights that are shared out, every process calls it.
        """
        noise = torch.randn(self.network.latent_shape(n), generator=generator, dtype=self.abar.dtype).to(self.device)
        return self._sampled([self.prompts[place % len(self.prompts)] for place in range(n)], noise, generator)

    def _sampled(self, texts: Sequence[str], noise: Tensor, generator: torch.Generator | None = None) -> Tensor:
        with self.average.used_by(self.network):
            if isinstance(self.network, PixelSpace):
                return self.network.generate(noise, self.num_inference_steps)
            prompts = self.network.encode_prompts(texts)
            steps = {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}
            return self.network.generate(prompts, noise, **steps, generator=generator)  # type: ignore[arg-type]

    def image_columns(self, batch: CaptionedImageBatch, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show images, and samples of their captions."""
        latent, _ = self.given(batch, torch.zeros_like)
        image = batch["image"] if "image" in batch else self.network.decode(latent).clamp(0, 1)
        captions = batch.get("caption", ()) if isinstance(self.network, TextToImage) else ()
        sample = outputs["sample"] if outputs else self._sample_of(batch, latent)
        return {"image": image, "sample": ImageColumn(sample, captions=captions)}

    def _sample_of(self, batch: CaptionedImageBatch, latent: Tensor) -> Tensor:
        """Draw a sample for each image's caption, the same each time."""
        generators = [generator_of(run_seed(), index, SAMPLE) for index in batch["index"].tolist()]
        noise = sample_like(latent, torch.randn, generators)
        return self._sampled(batch.get("caption", [""] * len(latent)), noise)

    def on_train_end(self) -> None:
        directory = self.trainer.log_dir if self.trainer.loggers else None  # broadcast: every process asks
        if directory is None:
            return
        with self.average.used_by(self.network):
            save_model(self.network, Path(directory, "pipeline"), self.trainer.is_global_zero)
        rank_zero_info(f"The tuned model: {Path(directory, 'pipeline')}")
