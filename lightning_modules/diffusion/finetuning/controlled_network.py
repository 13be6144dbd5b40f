"""ControlNets from diffusers. A ControlNet is built from a frozen network, and receives the same inputs."""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn

from datamodules.arguments import positive
from lightning_modules.backbones.adaptation import HALF, in_dtype, with_gradient_checkpointing
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage
from lightning_modules.backbones.quantization import is_quantized

QUANTIZED = "quantization: a ControlNet starts with copies of the weights, which must not be quantised; set it to null"
CHANNELS = (16, 32, 96, 256)
"""Numbers of channels of the convolutions that downsample a condition image to the size of the latents."""


@dataclass(frozen=True)
class Control:
    """Names of the classes and arguments that diffusers uses for the ControlNets of one model family."""

    controlnet: str
    """Name of the ControlNet class."""
    pipeline: str
    """Name of the diffusers pipeline class that samples with the ControlNet."""
    image: str
    """Name of the pipeline's argument for condition images."""
    residuals: tuple[str, ...]
    """Names of the network's arguments that receive the outputs of the ControlNet."""
    sees_latents: bool = True
    """Whether the ControlNet receives condition images as latents, encoded by the autoencoder."""


UNET = ("down_block_additional_residuals", "mid_block_additional_residual")
FLUX = ("controlnet_block_samples", "controlnet_single_block_samples")
CONTROLS = {
    "TextToImage": Control("ControlNetModel", "StableDiffusionControlNetPipeline", "image", UNET, False),
    "SDXL": Control("ControlNetModel", "StableDiffusionXLControlNetPipeline", "image", UNET, False),
    "StableDiffusion3": Control(
        "SD3ControlNetModel", "StableDiffusion3ControlNetPipeline", "control_image", ("block_controlnet_hidden_states",)
    ),
    "Flux": Control("FluxControlNetModel", "FluxControlNetPipeline", "control_image", FLUX),
}


def check_family(name: str) -> None:
    """Reject a model class whose family of networks has no supported ControlNet."""
    if name not in CONTROLS:
        raise ValueError(
            f"network must be TextToImage (Stable Diffusion, SDXL), StableDiffusion3 or Flux to train a ControlNet, "
            f"got {name}"
        )


def control_of(network: TextToImage) -> Control:
    """Return the names of classes and arguments for ControlNets of a model's family."""
    check_family(type(network).__name__)
    return CONTROLS["SDXL" if network.is_xl else type(network).__name__]


@dataclass(frozen=True)
class CopiedBlocks:
    """Blocks of a network that a ControlNet copies.

    Args:
        num_layers: number of transformer blocks to copy. None copies as many blocks as diffusers does by default, or
            all suitable blocks if there are fewer, and is required for U-Nets.
        num_single_layers: like `num_layers`, but for the blocks of FLUX.1 that process image and text as one sequence.
        gradient_checkpointing: recompute the ControlNet's activations in the backward pass instead of storing them.
    """

    num_layers: int | None = None
    num_single_layers: int | None = None
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        positive(num_layers=self.num_layers, num_single_layers=self.num_single_layers)


def new_controlnet(network: TextToImage, blocks: CopiedBlocks) -> nn.Module:
    """Build a float32 ControlNet of copies of the network's blocks, whose outputs are initially zero."""
    if is_quantized(network.network):
        raise ValueError(QUANTIZED)
    control, base = control_of(network), network.network
    kind: Any = getattr(diffusers, control.controlnet)
    if not control.sees_latents:
        halvings = int(math.log2(network.pipeline.vae_scale_factor))
        controlnet = kind.from_unet(base, conditioning_embedding_out_channels=CHANNELS[: 1 + halvings])
    else:
        defaults = inspect.signature(kind.from_transformer).parameters
        given = {"num_layers": blocks.num_layers, "num_single_layers": blocks.num_single_layers}
        options: dict[str, Any] = {}
        for key in given.keys() & defaults.keys():
            # The last block of Stable Diffusion 3 cannot be copied, because it has no output for the text.
            most = base.config[key] - (control.controlnet == "SD3ControlNetModel")
            if (number := given[key] or min(defaults[key].default, most)) > most:
                raise ValueError(f"{key} must be at most {most} for a ControlNet of this network, got {number}")
            options[key] = number
        options |= {key: base.config[key] for key in ("attention_head_dim", "num_attention_heads") if key in defaults}
        options |= {key: 0 for key in ("num_extra_conditioning_channels",) if key in defaults}
        # diffusers modifies the config of the network. In the ControlNet, it would replace those values that were left
        # at the defaults of the network's class.
        kept = base._internal_dict
        base._internal_dict = FrozenDict({key: kept[key] for key in kept if key != "_use_default_values"})
        controlnet = kind.from_transformer(base, **options)
        base._internal_dict = kept
        if "force_zeros_for_pooled_projection" in controlnet.config:
            # With False, the pipeline passes the pooled prompt and shifted condition latents to the ControlNet.
            controlnet.register_to_config(force_zeros_for_pooled_projection=False)
    if base.dtype in HALF:  # the pipeline of a half-precision network passes half-precision inputs
        in_dtype(controlnet, "float32")
    if blocks.gradient_checkpointing:
        with_gradient_checkpointing(controlnet)
    return controlnet.train()


class ControlledNetwork:
    """A frozen network that receives the outputs of a ControlNet, and is called like `TextToImage.forward`.

    Args:
        network: text-to-image model.
        controlnet: ControlNet of the model.
        condition: condition images, `[B, 3, H, W]` in [0, 1].
        draw: function that samples standard normal noise with the shape of its argument. It provides the noise for
            sampling the latents of condition images.
    """

    def __init__(self, network: TextToImage, controlnet: nn.Module, condition: Tensor, draw: Any) -> None:
        self.network = network
        self.controlnet = controlnet
        self.control = control_of(network)
        self.is_xl = network.is_xl
        self.condition = condition
        if self.control.sees_latents:
            with torch.no_grad():
                moments = network.moments(condition)
                self.condition = network.pack(network.latent(moments, draw(moments[:, 0])))

    def __call__(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        return self.with_sizes(latent, timestep, prompts)

    def with_sizes(
        self, latent: Tensor, timestep: Tensor, prompts: Prompts, size_conditions: Tensor | None = None
    ) -> Tensor:
        inputs = self.network.network_inputs(latent, timestep, prompts, size_conditions)
        outputs = self.controlnet(**inputs, controlnet_cond=self.condition, return_dict=False)
        residuals = dict(zip(self.control.residuals, outputs, strict=True))
        return self.network.network_output(self.network.network(**inputs, **residuals).sample, latent)


def controlled_pipeline(network: TextToImage, controlnet: nn.Module) -> Any:
    """Build a diffusers pipeline for sampling with a ControlNet; its other parts are those of the model's pipeline."""
    kind: Any = getattr(diffusers, control_of(network).pipeline)
    known = inspect.signature(kind.__init__).parameters
    parts = {name: part for name, part in network.pipeline.components.items() if name in known}
    options = {"requires_safety_checker": False} if "requires_safety_checker" in known else {}
    pipeline = kind(**parts, controlnet=controlnet, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
