"""Direct preference optimisation of a text-to-image model (Diffusion-DPO).

For a caption c, a preferred image z^w and a rejected image z^l share the noise e and the time t. Let l(z) be the mean
squared error of the network with adapters, and r(z) that of the network without adapters. The loss is

    L = mean -log sigmoid(beta (r(z^w) - r(z^l) - (l(z^w) - l(z^l)))).

The mean over pixels, the shared noise and the position of beta are those of the released scripts; in Eq. 14 of the
paper, squared errors are summed, and beta is multiplied by the number of timesteps. The paper trains all weights; here,
as in the scripts of diffusers, adapters are trained, so that the reference network needs no second copy.

Source: Wallace et al., Diffusion Model Alignment Using Direct Preference Optimization, CVPR 2024, arXiv 2311.12908.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batches import CaptionedImageBatch
from datamodules.randomness.shared_batches import sample_rows_like
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage
from lightning_modules.diffusion.finetuning.weighting import mean_over_images


def dpo_loss(margin: Tensor, beta: float) -> Tensor:
    """Compute -log sigmoid(beta m) for margins m = r(z^w) - r(z^l) - (l(z^w) - l(z^l)), `[B]`."""
    return -F.logsigmoid(beta * margin)


@contextmanager
def without_adapters(network: Any) -> Iterator[None]:
    """Context manager in which a network computes without its adapters, and without gradients."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        with torch.no_grad():
            yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def check_reference(network: Any) -> None:
    """Reject a model whose network without adapters is not the reference network."""
    if not isinstance(network, TextToImage) or not getattr(network.network, "peft_config", None):
        raise ValueError("loss.dpo_beta needs a text-to-image model with tuning: lora, whose base is the reference")
    if network.takes_source:
        raise ValueError("loss.dpo_beta must be null for models that edit the images in data.images.condition_dir")
    if network.trains_text:
        raise ValueError("text_adapters must be null with loss.dpo_beta: the reference has the same embeddings")
    if network.frame_multiple is not None:
        raise ValueError(f"loss.dpo_beta must be null for {type(network).__name__}: it needs pairs of images")


def preference_losses(module: Any, batch: CaptionedImageBatch) -> dict[str, Tensor]:
    """Compute the loss of a batch of pairs, the fraction of pairs with a positive margin, and the preferred error.

    Args:
        module: LightningModule with `network`, `objective` and `dropout`.
        batch: preferred images `image`, rejected images `condition`, and captions.
    """
    if "condition" not in batch:
        raise ValueError("loss.dpo_beta needs rejected images: set data.images.condition_dir to their folder")
    if "prior" in batch:
        raise ValueError("data.prior must be null with loss.dpo_beta")
    draw: Any = partial(sample_rows_like, torch.randn)
    preferred, prompts = module.given_values(batch, draw)
    with torch.no_grad():
        moments = module.network.moments(batch["condition"])
    rejected = module.network.latent(moments, draw(preferred))
    noise, t = module.objective.options.noise(preferred), module.objective.times(preferred)
    both: Any = {"size_conditions": torch.cat([batch["size_conditions"]] * 2)} if "size_conditions" in batch else {}
    captions = Prompts(*(None if field is None else torch.cat([field] * 2) for field in module.dropout(prompts)))  # type: ignore[arg-type]
    latents = torch.cat([preferred, rejected])

    def errors() -> tuple[Tensor, ...]:
        return module.objective.batch_errors(
            module.network, both, latents, captions, torch.cat([noise] * 2), torch.cat([t] * 2)
        ).chunk(2)

    with without_adapters(module.network.network):
        reference = errors()
    own = errors()
    margin = (reference[0] - reference[1]) - (own[0] - own[1])
    accuracy = (margin.detach() > 0).to(margin).mean()
    loss = mean_over_images(dpo_loss(margin, module.objective.options.dpo_beta), batch)
    return {"loss": loss, "preference_accuracy": accuracy, "error": own[0].detach().mean()}
