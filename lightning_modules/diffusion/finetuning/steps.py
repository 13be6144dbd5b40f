"""Training, evaluation, sampling and saving, shared by all modules that fine-tune diffusion models."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.functional import interpolate

from datamodules.batches import CaptionedImageBatch
from datamodules.distributed.collectives import run_seed
from datamodules.prompts.captioned_set import captions_of
from datamodules.randomness.generators import generator_of, sample_like
from datamodules.randomness.shared_batches import sample_rows_like
from lightning_modules.backbones.diffusion.pixel_space import PixelSpace
from lightning_modules.backbones.diffusion.text_encoders import quiet_truncation
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage
from lightning_modules.backbones.quantization import prepare_for_ddp
from lightning_modules.diffusion.finetuning.data_checks import check_data, warn_of_long_captions
from lightning_modules.diffusion.finetuning.preference import preference_losses
from lightning_modules.diffusion.finetuning.weighting import mean_over_images
from lightning_modules.interfaces import FixedImageShape, ImageColumn
from lightning_modules.optim.optimizers import optimizer_config, trainable_parameters
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.logging import log_training

TIMES, SAMPLE = 1, 2  # indices of the random streams of an image in evaluation


class FineTuningSteps:
    """Mixin with the training, validation and test steps of LightningModules that train a diffusion model on images.

    The LightningModule must define `network`, `objective`, `average`, `losses` and the sampling arguments.
    """

    dropout: Any = None
    """`CaptionDropout` for training; None keeps all captions."""
    _shared_out = False
    """Whether the weights are sharded over ranks."""
    sample_size: tuple[int, ...] | None = None
    """Height and width of the images of `sample`, after the number of frames of clips; set to those of the training
    images. None: the network's own size."""

    @property
    def trained(self: Any) -> nn.Module:
        """The network whose trainable parameters are optimised, and whose averaged weights are kept."""
        return self.network

    def setup(self: Any, stage: str) -> None:
        data = self.trainer.datamodule
        check_data(self.network, data)
        if self.sample_size is None and isinstance(self.network, TextToImage) and isinstance(data, FixedImageShape):
            self.sample_size = (*data.image_shape[:-3], *data.image_shape[-2:])
        if stage == "fit" and isinstance(self.network, TextToImage) and self.trainer.is_global_zero:
            warn_of_long_captions(self.network, data)
        prepare_for_ddp(self)

    def prompts_of(self: Any, batch: CaptionedImageBatch) -> Prompts:
        """Embed the captions of a batch."""
        with quiet_truncation(self.network.pipeline):  # `warn_of_long_captions` has warned once
            return self.network.encode_prompts(captions_of(batch, "a text-to-image model"))

    def model_of(self: Any, batch: CaptionedImageBatch, draw: Any) -> Any:
        """Return the model that predicts noise or another target for a batch; see `given_values` for `draw`."""
        return partial(self.network, source=self.source_of(batch)) if self.edits else self.network

    def sampling_inputs(self: Any, batch: CaptionedImageBatch | None, n: int) -> dict[str, Any]:
        """Return additional arguments of the model's `generate`, either for a batch's images or for n new images."""
        if not self.edits:
            return {}
        if batch is not None:
            return {"image": self.source_of(batch)}
        if self.condition is None:
            raise ValueError(f"{type(self.network).__name__} needs a source image: set the attribute `condition`")
        size = self.sample_size or (self.network.image_size,) * 2
        image = interpolate(self.condition.to(self.device), size, mode="bicubic", antialias=True).clamp(0, 1)
        return {"image": self.source_of({"condition": image})}

    @property
    def edits(self: Any) -> bool:
        """Whether the model edits source images, which are the condition images of a batch."""
        return getattr(self.network, "takes_source", False)

    @torch.no_grad()
    def source_of(self: Any, batch: Any) -> Tensor:
        """Return the latents of a batch's source images, without noise, as the pipeline computes them."""
        moments = batch["source_moments"] if "source_moments" in batch else self.network.moments(batch["condition"])
        return self.network.latent(moments)

    def given_values(self: Any, batch: CaptionedImageBatch, draw: Any) -> tuple[Tensor, Prompts | None]:
        """Return z, `[B, c, h, w]`, the images or latents of a batch, and the embedded prompts of the batch.

        Args:
            batch: the batch.
            draw: function that samples standard normal noise with the shape of its argument.
        """
        if isinstance(self.network, PixelSpace):
            return self.network.encode(batch["image"]), None
        if "moments" in batch:
            moments: Tensor = batch["moments"]
            prompts = Prompts(**{key: batch[key] for key in self.network.prompt_fields})  # type: ignore[literal-required]
        else:
            with torch.no_grad():
                moments = self.network.moments(batch["image"])
            prompts = self.prompts_of(batch)
        return self.network.latent(moments, draw(moments[:, 0])), prompts

    def training_step(self: Any, batch: CaptionedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        if self.objective.options.dpo_beta is not None:
            terms = preference_losses(self, batch)
            return {"loss": log_training(self, batch, terms.pop("loss"), **terms)}
        loss, error = self._losses(batch)
        terms = {"error": error}
        if "prior" in batch:
            terms["prior"], _ = self._losses(batch["prior"])
            loss = loss + self.objective.options.prior_weight * terms["prior"]
        return {"loss": log_training(self, batch, loss, **terms)}

    def _losses(self: Any, batch: CaptionedImageBatch) -> tuple[Tensor, Tensor]:
        """Compute two mean prediction errors over training images: with the loss weights, and without them."""
        draw = partial(sample_rows_like, torch.randn)
        latent, prompts = self.given_values(batch, draw)
        noise = self.objective.options.noise(latent)
        t = self.objective.times(latent)
        if prompts is not None and self.dropout is not None:
            prompts = self.dropout(prompts)
        error = self.objective.batch_errors(self.model_of(batch, draw), batch, latent, prompts, noise, t)
        return mean_over_images(self.objective.weight_errors(error, t), batch), error.detach().mean()

    def configure_optimizers(self: Any) -> Any:
        configured = optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.trained))
        self.average.follow(self.trained, configured[0][0])
        return configured

    # held-out images

    def validation_step(self: Any, batch: CaptionedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        return self._measure(batch, "val", batch_idx == 0)

    def test_step(self: Any, batch: CaptionedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        return self._measure(batch, "test", batch_idx == 0)

    def _measure(self: Any, batch: CaptionedImageBatch, stage: str, first: bool) -> dict[str, Tensor]:
        generators = [generator_of(run_seed(), index, TIMES) for index in batch["index"].tolist()]
        draw = partial(sample_like, draw=torch.randn, generators=generators)
        with self.average.used_by(self.trained):
            latent, prompts = self.given_values(batch, draw)
            noise = sample_like(latent, torch.randn, generators)
            t = self.objective.held_out_times(batch["index"])
            error = self.objective.batch_errors(self.model_of(batch, draw), batch, latent, prompts, noise, t)
        self.losses.update(error)
        self.log(f"{stage}/loss", self.losses, on_step=False, on_epoch=True)
        # Sampling with sharded weights requires all ranks, but the image grid callback runs on only one rank.
        return {"sample": self._sample_of(batch, latent, prompts)} if first and self._shared_out else {}

    @evaluate_without_gradients
    def sample(self: Any, n: int, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Sample n images in [0, 1], `[n, C, H, W]`; if weights are sharded, every rank must call this method."""
        dtype = self.average.dtype(self.trained)
        shape = self.network.latent_shape(n, *(self.sample_size or ()))
        noise = randn_tensor(shape, generator, dtype=dtype).to(self.device)
        texts = [self.prompts[place % len(self.prompts)] for place in range(n)]
        with self.average.used_by(self.trained):
            prompts = self.network.encode_prompts(texts)
            return self._sample(prompts, noise, generator, **self.sampling_inputs(None, n))

    def _sample(self: Any, prompts: Prompts | None, noise: Tensor, generator: Any = None, **inputs: Any) -> Tensor:
        with self.average.used_by(self.trained):
            if isinstance(self.network, PixelSpace):
                return self.network.generate(noise, self.num_inference_steps)
            steps = {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}
            return self.network.generate(prompts, noise, **steps, generator=generator, **inputs)

    def image_columns(self: Any, batch: CaptionedImageBatch, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show images, or four frames of clips, and the source images of a model that edits, next to samples."""
        with self.average.used_by(self.trained):
            latent, prompts = self.given_values(batch, torch.zeros_like)
        image = batch["image"] if "image" in batch else self.network.decode(latent).clamp(0, 1)
        captions = batch.get("caption", ()) if isinstance(self.network, TextToImage) else ()
        sample = outputs["sample"] if outputs else self._sample_of(batch, latent, prompts)
        source = {"source": self.network.decode(self.source_of(batch)).clamp(0, 1)} if self.edits else {}
        shown = ImageColumn(_frames_in_a_row(sample), captions=captions)
        return {"image": _frames_in_a_row(image), **source, "sample": shown}

    def _sample_of(self: Any, batch: CaptionedImageBatch, latent: Tensor, prompts: Prompts | None) -> Tensor:
        """Sample one image for each caption of a batch; each image of the dataset has fixed initial noise."""
        generators = [generator_of(run_seed(), index, SAMPLE) for index in batch["index"].tolist()]
        noise = sample_like(latent, torch.randn, generators)
        return self._sample(prompts, noise, generators, **self.sampling_inputs(batch, len(noise)))

    def on_train_end(self: Any) -> None:
        directory = self.trainer.log_dir if self.trainer.loggers else None  # log_dir broadcasts: all ranks must read it
        if directory is not None:
            self.save_pipeline(Path(directory, "pipeline"), self.trainer.is_global_zero)
            rank_zero_info(f"Saved the fine-tuned model to {Path(directory, 'pipeline')}")


def _frames_in_a_row(image: Tensor) -> Tensor:
    """Put four frames of clips, `[B, T, C, H, W]`, next to each other, `[B, C, H, 4 W]`; leave images as they are."""
    if image.ndim == 4:
        return image
    shown = torch.linspace(0, image.shape[1] - 1, min(4, image.shape[1])).long()
    return torch.cat(image[:, shown].unbind(dim=1), dim=-1)
