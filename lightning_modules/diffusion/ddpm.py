"""Train a small pixel-space diffusion model, which other methods use as a pretrained model.

Source: Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, NeurIPS 2020, arXiv 2006.11239.
"""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from datamodules.arguments import within
from datamodules.batches import CaptionedImageBatch
from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.training.logging import log_training


class DDPM(MethodModule):
    """Train a `PixelModel` with the denoising loss, and with caption dropout for classifier-free guidance.

    Args:
        network: diffusion model; a model with a text encoder is conditioned on the captions of the images.
        caption_dropout: probability of replacing a caption with the empty text, in [0, 1).
        optimizer: optimizer of the trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> from lightning_modules.backbones.diffusion.pixel_model import PixelModel
        >>> from lightning_modules.networks.time_conditioned_mlp import TimeConditionedImageMLP
        >>> model = DDPM(PixelModel(TimeConditionedImageMLP(64), DDIMScheduler()))
        >>> noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> model.network.generate(noise, num_inference_steps=5).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        network: PixelModel,
        caption_dropout: float = 0.1,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        within(0, 1, "[)", caption_dropout=caption_dropout)
        self.network = network
        self.caption_dropout = caption_dropout
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def training_step(self, batch: CaptionedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image, prompts = batch["image"], None
        if self.network.text_encoder is not None:
            if "caption" not in batch:
                raise ValueError("DDPM: the network has a text encoder, so the images must have captions")
            prompts, empty = self.network.encode_prompts(batch["caption"]), self.network.empty_prompts(1)
            assert prompts is not None
            assert empty is not None
            left_out = sample_rows(torch.rand, (len(image),), image.device) < self.caption_dropout
            prompts = prompts.replace(left_out, empty)
        return {"loss": log_training(self, batch, self.network.denoising_loss(image, prompts))}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
