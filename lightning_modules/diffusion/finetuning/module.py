"""LightningModule that fine-tunes diffusion models on images with or without captions."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import MeanMetric

from datamodules.arguments import at_least, only_with, positive, within
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
from lightning_modules.diffusion.finetuning.data_checks import check_data
from lightning_modules.diffusion.finetuning.exported_network import ExportsNetwork
from lightning_modules.diffusion.finetuning.objectives import DiffusionObjective, FlowMatching, FlowObjective
from lightning_modules.diffusion.finetuning.sharding import refuse_to_go_on, share_out
from lightning_modules.interfaces import ImageColumn
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.averages import AveragedWeights, ramped_decay
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.training.logging import log_training

TIMES, SAMPLE = 1, 2  # random streams of an image in evaluation


class DiffusionFineTuning(ExportsNetwork, MethodModule):
    """Fine-tune a diffusion model on images, and save it in the format of diffusers or peft.

    Training ends by saving the result to `pipeline/` in the run directory. Validation and test log `loss`, the
    unweighted error of the averaged weights on held-out images. Each image has a fixed timestep and fixed noise, so
    values are comparable over epochs. `ImageGrid` shows held-out images next to samples for their captions.

    Args:
        network: `TextToImage`, `StableDiffusion3`, `Flux`, `PixelSpace` or `pixel_pipeline` of
            `lightning_modules.backbones.diffusion`.
        min_snr_gamma: gamma of the Min-SNR weights; None weights all timesteps equally. Not used for flow matching.
        flow: times and weights of flow matching; None takes the defaults of `FlowMatching`. Not used for diffusion.
        caption_dropout: probability of training an image without its caption, in [0, 1).
        average_decay: maximum decay of the averaged weights, in [0, 1); 0 uses the weights of the last step.
        cache_dir: folder for latents and caption embeddings, computed once before training; None computes them in
            each step. Caching requires images without random flips.
        prompts: texts that `sample` cycles through; by default the empty text.
        num_inference_steps: sampling steps.
        guidance_scale: scale of classifier-free guidance in sampling; 1 disables it.
        optimizer: optimizer of the trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Raises:
        TypeError: if `network` is not one of these classes.
        ValueError: if an argument is out of range or does not apply to the model, or the model is frozen.
    """

    def __init__(
        self,
        network: TextToImage | PixelSpace,
        min_snr_gamma: float | None = 5.0,
        flow: FlowMatching | None = None,
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
                "network must be a TextToImage, StableDiffusion3, Flux, PixelSpace or pixel_pipeline, got "
                f"{type(network).__name__}"
            )
        positive(min_snr_gamma=min_snr_gamma)
        within(0, 1, "[)", caption_dropout=caption_dropout, average_decay=average_decay)
        at_least(1, num_inference_steps=num_inference_steps)
        if isinstance(network, PixelSpace) and (caption_dropout or cache_dir):
            raise ValueError("caption_dropout and cache_dir need a text-to-image model, got PixelSpace")
        if not trainable_parameters(network):
            raise ValueError("network has no trainable parameters: its tuning must be full or lora")
        self.network = network
        self.caption_dropout = caption_dropout
        self.average_decay = average_decay
        self.cache_dir = cache_dir
        self.prompts = prompts
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        flows = network.prediction == "flow"
        only_with("a model of flow matching", flows, DiffusionFineTuning, flow=flow)
        only_with("a model of diffusion", not flows, DiffusionFineTuning, min_snr_gamma=min_snr_gamma)
        self.objective: DiffusionObjective | FlowObjective = (
            FlowObjective(network.scheduler, flow or FlowMatching())
            if flows
            else DiffusionObjective(network.scheduler, min_snr_gamma)
        )
        self.average = AveragedWeights(network, partial(ramped_decay, decay=average_decay))
        self.losses = MeanMetric()
        self._empty: Prompts | None = None
        self._shared_out = False

    def setup(self, stage: str) -> None:
        check_data(self.network, self.trainer.datamodule)  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Shard the trained network over ranks, block by block, for `ModelParallelStrategy`."""
        if self.device_mesh is None or self._shared_out:
            return
        share_out(self.network.network, self.device_mesh["data_parallel"])
        self.average = AveragedWeights(self.network, self.average.decay)
        self._shared_out = True
        self.strict_loading = False  # checkpoints hold only trained parameters

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
        """Return z `[B, c, h, w]` and the prompts of a batch.

        Args:
            batch: the batch.
            draw: function that samples standard normal noise of the shape of its argument.

        Raises:
            ValueError: if the model is text-to-image and the batch has no captions.
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
        t = self.objective.times(latent)
        if self.caption_dropout and prompts is not None and self._empty is not None:
            left_out = sample_rows(torch.rand, (len(latent),), latent.device) < self.caption_dropout
            prompts = prompts.replaced(left_out, self._empty)
        error = self.objective.errors(self.network, latent, prompts, noise, t)
        loss = self.objective.weighted(error, t).mean()
        return {"loss": log_training(self, batch, loss, error=error.detach().mean())}

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
            error = self.objective.errors(self.network, latent, prompts, noise, t)
        self.losses.update(error)
        self.log(f"{stage}/loss", self.losses, on_step=False, on_epoch=True)
        # Sampling with sharded weights needs all ranks, but the image grid runs on one.
        return {"sample": self._sample_of(batch, latent)} if first and self._shared_out else {}

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Sample images `[n, C, H, W]` in [0, 1] with the averaged weights, cycling through `prompts`.

        With sharded weights, every rank must call it.
        """
        dtype = self.average.weights[0].dtype
        noise = torch.randn(self.network.latent_shape(n), generator=generator, dtype=dtype).to(self.device)
        return self._sampled([self.prompts[place % len(self.prompts)] for place in range(n)], noise, generator)

    def _sampled(self, texts: Sequence[str], noise: Tensor, generator: torch.Generator | None = None) -> Tensor:
        with self.average.used_by(self.network):
            if isinstance(self.network, PixelSpace):
                return self.network.generate(noise, self.num_inference_steps)
            prompts = self.network.encode_prompts(texts)
            steps = {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}
            return self.network.generate(prompts, noise, **steps, generator=generator)  # type: ignore[arg-type]

    def image_columns(self, batch: CaptionedImageBatch, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show images next to samples for their captions."""
        latent, _ = self.given(batch, torch.zeros_like)
        image = batch["image"] if "image" in batch else self.network.decode(latent).clamp(0, 1)
        captions = batch.get("caption", ()) if isinstance(self.network, TextToImage) else ()
        sample = outputs["sample"] if outputs else self._sample_of(batch, latent)
        return {"image": image, "sample": ImageColumn(sample, captions=captions)}

    def _sample_of(self, batch: CaptionedImageBatch, latent: Tensor) -> Tensor:
        """Sample one image for each caption, from fixed noise."""
        generators = [generator_of(run_seed(), index, SAMPLE) for index in batch["index"].tolist()]
        noise = sample_like(latent, torch.randn, generators)
        return self._sampled(batch.get("caption", [""] * len(latent)), noise)

    def on_train_end(self) -> None:
        directory = self.trainer.log_dir if self.trainer.loggers else None  # a broadcast: every rank must read it
        if directory is None:
            return
        with self.average.used_by(self.network):
            save_model(self.network, Path(directory, "pipeline"), self.trainer.is_global_zero)
        rank_zero_info(f"Saved the fine-tuned model to {Path(directory, 'pipeline')}")
