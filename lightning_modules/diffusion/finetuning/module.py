"""LightningModule that fine-tunes diffusion models on images with or without captions."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import MeanMetric

from datamodules.arguments import at_least, positive, within
from datamodules.batches import CaptionedImageBatch
from datamodules.distributed.collectives import run_seed
from datamodules.prompts.captioned_set import captions_of
from datamodules.randomness.generators import generator_of, sample_like
from datamodules.randomness.shared_batches import sample_rows_like
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.pixel_space import PixelSpace
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage
from lightning_modules.backbones.quantization import prepare_for_ddp
from lightning_modules.diffusion.finetuning.caption_dropout import CaptionDropout
from lightning_modules.diffusion.finetuning.checkpoints import ChecksCheckpoints
from lightning_modules.diffusion.finetuning.data_checks import check_data, check_sharding
from lightning_modules.diffusion.finetuning.exported_network import ExportsNetwork
from lightning_modules.diffusion.finetuning.objectives import FlowMatching, LossOptions, training_objective
from lightning_modules.diffusion.finetuning.preparation import prepare_text_to_image
from lightning_modules.diffusion.finetuning.sharding import share_out
from lightning_modules.interfaces import ImageColumn
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.averages import AveragedWeights, ramped_decay
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.training.logging import log_training

TIMES, SAMPLE = 1, 2  # random streams of an image in evaluation


class DiffusionFineTuning(ExportsNetwork, ChecksCheckpoints, MethodModule):
    """Fine-tune a diffusion model on images, and save the model in the format of diffusers or peft.

    After training, the result is saved to `pipeline/` in the run directory. Validation and test log `loss`, the
    unweighted error on held-out images, computed with the averaged weights. Each image has a fixed timestep and fixed
    noise, so values are comparable over epochs. `ImageGrid` shows held-out images next to samples for their captions.

    Args:
        network: a text-to-image model of `lightning_modules.backbones.diffusion`, such as `TextToImage`,
            `StableDiffusion3`, `Flux` or `PixArtSigma`, or `PixelSpace` or `pixel_pipeline`.
        min_snr_gamma: gamma of the Min-SNR weights; None gives all timesteps the same weight. Not for flow matching.
        flow: times and weights of flow matching; None takes the defaults of `FlowMatching`. Not for diffusion.
        caption_dropout: probability of training an image without its caption, in [0, 1). A list has one probability for
            each text encoder, and captions are dropped independently.
        average_decay: maximum decay of the averaged weights, in [0, 1); 0 uses the weights of the last step, and keeps
            no average.
        cache_dir: folder for latents and caption embeddings, computed once before training; then, text encoders are
            freed. None computes both in each step. Cached images are centre-cropped. With random flips, latents of the
            mirror images are cached, too.
        prompts: texts that `sample` cycles through; by default the empty text.
        num_inference_steps: sampling steps.
        guidance_scale: scale of classifier-free guidance in sampling; 1 disables it.
        optimizer: optimizer of the trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
        loss: offset noise, and weights of class images and masks; None takes the defaults of `LossOptions`.
        average_on_cpu: keep the averaged weights in the memory of the host.

    Raises:
        TypeError: if `network` has none of the classes listed above.
        ValueError: if an argument is out of range or does not apply to the model, or the model is frozen.
    """

    def __init__(
        self,
        network: TextToImage | PixelSpace,
        min_snr_gamma: float | None = 5.0,
        flow: FlowMatching | None = None,
        caption_dropout: float | Sequence[float] = 0.0,
        average_decay: float = 0.9999,
        cache_dir: str | None = None,
        prompts: Sequence[str] = ("",),
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
        loss: LossOptions | None = None,
        average_on_cpu: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(network, TextToImage | PixelSpace):
            raise TypeError(
                "network must be a TextToImage, a family of it such as StableDiffusion3 or Flux, PixelSpace or "
                f"pixel_pipeline, got {type(network).__name__}"
            )
        positive(min_snr_gamma=min_snr_gamma)
        within(0, 1, "[)", average_decay=average_decay)
        at_least(1, num_inference_steps=num_inference_steps)
        self.dropout = CaptionDropout(caption_dropout)
        if isinstance(network, TextToImage):
            self.dropout.check(network)
        elif self.dropout.active or cache_dir:
            raise ValueError("caption_dropout and cache_dir need a text-to-image model, got PixelSpace")
        if not trainable_parameters(network):
            raise ValueError("network has no trainable parameters: its tuning must be full or lora")
        self.network = network
        self.caption_dropout = caption_dropout
        self.average_decay = average_decay
        self.cache_dir = cache_dir
        self.prompts = prompts
        self.takes_prompts = isinstance(network, TextToImage)
        self.generator_per_image = True
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.objective = training_objective(network, min_snr_gamma, flow, loss or LossOptions(), DiffusionFineTuning)
        decay = partial(ramped_decay, decay=average_decay) if average_decay else None
        self.average = AveragedWeights(network, decay, average_on_cpu)
        self.losses = MeanMetric()
        self._shared_out = False

    def setup(self, stage: str) -> None:
        check_data(self.network, self.trainer.datamodule)  # type: ignore[attr-defined]
        prepare_for_ddp(self)

    def configure_model(self) -> None:
        """Shard the trained network over ranks, block by block, for `ModelParallelStrategy`."""
        if self.device_mesh is None or self._shared_out:
            return
        check_sharding(self)
        share_out(self.network.network, self.device_mesh["data_parallel"])
        self.average = AveragedWeights(self.network, self.average.decay)
        self._shared_out = True
        self.strict_loading = False  # checkpoints hold only trained parameters

    def on_fit_start(self) -> None:
        if isinstance(self.network, TextToImage):
            prepare_text_to_image(self, self.network)

    def given(self, batch: CaptionedImageBatch, draw: Any) -> tuple[Tensor, Prompts | None]:
        """Return z `[B, c, h, w]` and the prompts of a batch.

        Args:
            batch: the batch.
            draw: function that samples standard normal noise with the shape of a given tensor.

        Raises:
            ValueError: if the model is text-to-image and the batch has no captions.
        """
        if isinstance(self.network, PixelSpace):
            return self.network.encode(batch["image"]), None
        if "moments" in batch:
            moments: Tensor = batch["moments"]
            prompts = Prompts(**{key: batch[key].to(moments.dtype) for key in self.network.prompt_fields})  # type: ignore[literal-required]
        else:
            with torch.no_grad():
                moments = self.network.moments(batch["image"])
            prompts = self.network.encode_prompts(captions_of(batch, "a text-to-image model"))
        return self.network.latent(moments, draw(moments[:, 0])), prompts

    def training_step(self, batch: CaptionedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        loss, error = self._losses(batch)
        terms = {"error": error}
        if "prior" in batch:
            terms["prior"], _ = self._losses(batch["prior"])
            loss = loss + self.objective.options.prior_weight * terms["prior"]
        return {"loss": log_training(self, batch, loss, **terms)}

    def _losses(self, batch: CaptionedImageBatch) -> tuple[Tensor, Tensor]:
        """Compute the mean weighted and unweighted error of training images."""
        latent, prompts = self.given(batch, partial(sample_rows_like, torch.randn))
        noise = self.objective.options.noise(latent)
        t = self.objective.times(latent)
        prompts = None if prompts is None else self.dropout(prompts)
        error = self.objective.batch_errors(self.network, batch, latent, prompts, noise, t)
        return self.objective.weighted(error, t).mean(), error.detach().mean()

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
        t = self.objective.held_out_times(batch["index"])
        with self.average.used_by(self.network):
            error = self.objective.batch_errors(self.network, batch, latent, prompts, noise, t)
        self.losses.update(error)
        self.log(f"{stage}/loss", self.losses, on_step=False, on_epoch=True)
        # Sampling with sharded weights needs all ranks, but the image grid runs on one.
        return {"sample": self._sample_of(batch, latent, prompts)} if first and self._shared_out else {}

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Sample images `[n, C, H, W]` in [0, 1]; must be called on every rank if weights are sharded."""
        dtype = self.average.dtype(self.network)
        noise = randn_tensor(self.network.latent_shape(n), generator, dtype=dtype).to(self.device)
        texts = [self.prompts[place % len(self.prompts)] for place in range(n)]
        return self._sampled(self.network.encode_prompts(texts), noise, generator)

    def _sampled(self, prompts: Prompts | None, noise: Tensor, generator: Any = None) -> Tensor:
        with self.average.used_by(self.network):
            if isinstance(self.network, PixelSpace):
                return self.network.generate(noise, self.num_inference_steps)
            steps = {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}
            return self.network.generate(prompts, noise, **steps, generator=generator)  # type: ignore[arg-type]

    def image_columns(self, batch: CaptionedImageBatch, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show images next to samples for their captions."""
        latent, prompts = self.given(batch, torch.zeros_like)
        image = batch["image"] if "image" in batch else self.network.decode(latent).clamp(0, 1)
        captions = batch.get("caption", ()) if isinstance(self.network, TextToImage) else ()
        sample = outputs["sample"] if outputs else self._sample_of(batch, latent, prompts)
        return {"image": image, "sample": ImageColumn(sample, captions=captions)}

    def _sample_of(self, batch: CaptionedImageBatch, latent: Tensor, prompts: Prompts | None) -> Tensor:
        """Sample one image for each caption, from fixed noise."""
        generators = [generator_of(run_seed(), index, SAMPLE) for index in batch["index"].tolist()]
        noise = sample_like(latent, torch.randn, generators)
        return self._sampled(prompts, noise)

    def on_train_end(self) -> None:
        directory = self.trainer.log_dir if self.trainer.loggers else None  # a broadcast: every rank must read it
        if directory is not None:
            self.save_pipeline(Path(directory, "pipeline"), self.trainer.is_global_zero)
            rank_zero_info(f"Saved the fine-tuned model to {Path(directory, 'pipeline')}")

    def save_pipeline(self, folder: Path, writes: bool = True, merge: bool = False) -> None:
        with self.average.used_by(self.network):
            save_model(self.network, folder, writes, merge)
