"""Stable Diffusion and SDXL, which are latent text-to-image models from diffusers, for training and evaluation.

Diffusion transformers are implemented in `hunyuan_dit.py` and `pixart.py`. Flow-matching transformers are implemented
in `flow_transformer.py`, which contains their base class, and in one file for each other family.

    z_t = sqrt(abar_t) z + sqrt(1 - abar_t) e,   z = s E(2 x - 1)

Here x is an image in [0, 1], E is the encoder of an autoencoder, s is the scaling factor of its latents, and e is
standard normal noise. From z_t, t and the embedding of a prompt, the U-Net predicts e or v = sqrt(abar_t) e - sqrt(1 -
abar_t) z.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from datamodules.arguments import one_of, only_with
from lightning_modules.backbones.adaptation import Adapters, Precision, Tuning, adapt, frozen
from lightning_modules.backbones.attention_backends import check_attention_backend, set_attention_backend
from lightning_modules.backbones.diffusion.autoencoder_latents import AutoencoderLatents
from lightning_modules.backbones.diffusion.guidance import PipelineSampling
from lightning_modules.backbones.diffusion.pipelines import check_schedule, diffusers_pipeline
from lightning_modules.backbones.diffusion.text_encoders import ENCODERS, Prompts, TextEncoders, skip_last_layers
from lightning_modules.backbones.lora_file import load_lora
from lightning_modules.backbones.quantization import (
    Quantization,
    check_quantization,
    is_quantized,
    quantization_config,
    store_in_float8,
)
from lightning_modules.backbones.weight_copies import offload_blocks

Sampler = Literal[
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
]
Spacing = Literal["leading", "linspace", "trailing"]


@dataclass(frozen=True)
class Weights:
    """How the weights of a diffusers pipeline are loaded.

    Args:
        config: folder or name of a pipeline with the same architecture; allowed only if the pipeline is a single file.
        variant: variant of the weight files, such as fp16; None loads the files without a variant.
        local_files_only: never download files; a pipeline given by name must be in the Hugging Face cache.
        dtype: precision of the denoising network and the text encoders; the autoencoder, inputs and outputs are
            float32.
        quantization: store the frozen weights of the network's layers in 8 bits (`int8`, `float8`) or 4 bits (`nf4`);
            None does not quantise weights.
        lora: `.safetensors` file of a LoRA, LoHa or LoKr, with the names of diffusers, kohya, LyCORIS or ComfyUI, at
            which training of the adapters starts; None starts at adapters that do not change the output. It is allowed
            only if `tuning` is lora.
        offload_blocks: keep the frozen weights of the network's blocks on the CPU, and copy those of one layer at a
            time to the GPU; training needs tuning lora and gradient checkpointing.
        attention_backend: implementation of attention, by the name that diffusers gives it, such as native, flash or
            sage; None uses PyTorch's. Only for networks for which diffusers has a choice.
    """

    config: str | None = None
    variant: str | None = None
    local_files_only: bool = False
    dtype: Precision | None = None
    quantization: Quantization | None = None
    lora: str | None = None
    offload_blocks: bool = False
    attention_backend: str | None = None

    def check(self, tuning: Tuning, adapters: Adapters, gradient_checkpointing: bool) -> None:
        """Reject options that do not work together, before any weights are loaded."""
        adapted = tuning == "lora" and adapters.kind != "oft"
        only_with("tuning lora and adapters.kind lora, loha or lokr", adapted, Weights, **{"weights.lora": self.lora})
        check_attention_backend(self.attention_backend)
        if not self.offload_blocks:
            return
        for key, value, needed in (
            ("tuning", tuning, ("lora", "frozen")),
            ("gradient_checkpointing", gradient_checkpointing, (True,) if tuning == "lora" else (True, False)),
            ("adapters.dora", adapters.dora, (False,)),
            ("weights.quantization", self.quantization, (None, "float8")),
        ):
            if value not in needed:
                raise ValueError(
                    f"{key} must be {' or '.join(map(str, needed))} with weights.offload_blocks, got {value}"
                )


class TextToImage(PipelineSampling, TextEncoders, AutoencoderLatents):
    """A latent text-to-image model with a U-Net, a frozen autoencoder and frozen text encoders.

    The state dict contains only the trained tensors, because the constructor loads the frozen tensors from the
    pipeline.

    Args:
        pipeline: local folder written by `save_pretrained`, name of a pipeline on the Hugging Face Hub
            (`stable-diffusion-v1-5/stable-diffusion-v1-5`, `stabilityai/stable-diffusion-xl-base-1.0`), or a single
            `.safetensors` file, which requires `weights.config`.
        weights: files, precision and quantisation of the weights.
        tuning: `full` trains all parameters of the denoising network, `lora` trains only adapters in its attention, and
            `frozen` trains nothing.
        adapters: settings of the adapters.
        gradient_checkpointing: recompute the network's activations in the backward pass instead of storing them.
        offload_text_encoders: keep the text encoders on the CPU, and embed prompts there.
        prediction_types: values of the scheduler's `prediction_type` that are accepted.
        sampler: class of the diffusers scheduler that replaces the pipeline's scheduler in sampling, with the same
            noise levels.
        sampler_spacing: timestep spacing of `sampler`, such as trailing for SDXL-Lightning; None uses the spacing of
            the pipeline's scheduler.
        text_adapters: settings of adapters of the text encoders, which are trained with those of the U-Net; None leaves
            the text encoders as they are.
        clip_skip: number of last layers of the CLIP text encoders that prompts skip, as in the pipeline's argument; 1
            is called `clip skip 2` by programs that count from 1. None skips no layer. As in the pipeline, negative and
            empty prompts skip no layer. Only for Stable Diffusion and SDXL.
    """

    parts: Sequence[str] = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    """Names of the required parts of the pipeline; the first one is the denoising network."""
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {"unet": "UNet2DConditionModel"}
    """Required diffusers class of parts, first of all of the denoising network, which identifies the model family.

    If several class names are allowed, the first one is the current name. The key `_class_name` stands for the pipeline
    itself.
    """
    pipeline_class: ClassVar[str | None] = None
    """Name of the diffusers class into which the parts are loaded; None means the pipeline's own class."""
    unread: ClassVar[Sequence[str]] = ()
    """Names of parts of the pipeline that are not loaded."""
    default_lora_targets: ClassVar[Sequence[str]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that are adapted if `adapters.targets` is None: the projections of the attention."""
    packing: ClassVar[int] = 1
    """Number of latent pixels that are packed into one input position of the network."""
    needs_captions: ClassVar[bool] = True
    """Whether the model is trained with the captions of the images."""
    unquantized: ClassVar[Sequence[str]] = ()
    """Submodules that must not be quantised, because the network reads their weights without calling them."""

    def __init__(
        self,
        pipeline: str,
        weights: Weights = Weights(),
        tuning: Tuning = "frozen",
        adapters: Adapters = Adapters(),
        gradient_checkpointing: bool = False,
        offload_text_encoders: bool = False,
        prediction_types: Sequence[str] = ("epsilon", "v_prediction"),
        sampler: Sampler | None = None,
        sampler_spacing: Spacing | None = None,
        text_adapters: Adapters | None = None,
        clip_skip: int | None = None,
    ) -> None:
        super().__init__()
        only_with("Stable Diffusion and SDXL", type(self).embed is TextToImage.embed, TextToImage, clip_skip=clip_skip)
        only_with("a sampler", sampler is not None, TextToImage, sampler_spacing=sampler_spacing)
        one_of((None, *get_args(Spacing)), sampler_spacing=sampler_spacing)
        adapters.check_tuning(tuning)
        weights.check(tuning, adapters, gradient_checkpointing)
        if text_adapters is not None:
            _check_text_adapters((tuning, adapters.kind, text_adapters.kind), offload_text_encoders)
        check_quantization(weights.quantization, tuning, Path(pipeline).expanduser() / self.parts[0], adapters)
        self.pipeline = diffusers_pipeline(
            pipeline, self.parts, weights.config, weights.variant, weights.dtype, weights.local_files_only,
            self.pipeline_class, self.part_classes, families(),
            quantization_config(weights.quantization, weights.dtype, self.unquantized), self.unread,
        )  # fmt: skip
        self.pipeline.set_progress_bar_config(disable=True)
        if sampler is not None:
            self.pipeline.scheduler = _other_sampler(self.pipeline.scheduler, sampler, sampler_spacing)
        self.scheduler = self.pipeline.scheduler
        self.prediction = check_schedule(self.scheduler, prediction_types)
        self.vae: Any = frozen(self.pipeline.vae)
        network, channels = getattr(self.pipeline, self.parts[0]), self.latent_channels * self.packing
        self.network: Any = adapt(
            _check(f"the {self.parts[0]} of {pipeline}", network, channels, tuning).train(),
            tuning,
            None,
            replace(adapters, targets=adapters.targets or self.default_lora_targets) if tuning == "lora" else adapters,
            gradient_checkpointing,
            None if tuning == "full" else weights.dtype,
        )
        set_attention_backend(self.network, weights.attention_backend)
        if weights.quantization == "float8":
            store_in_float8(self.network, adapters, weights.dtype)
        if weights.offload_blocks:
            offload_blocks(self.network)
        self.is_xl = getattr(self.network.config, "addition_embed_type", None) == "text_time"
        encoders = [each for name in ENCODERS if (each := getattr(self.pipeline, name, None)) is not None]
        if text_adapters is not None:
            self.trains_text = True
            more = (text_adapters, gradient_checkpointing, self.is_xl)
            encoders = [_adapt_text_encoder(each, *more) for each in encoders]
        if weights.lora is not None:
            load_lora(adapted_parts(self), self.pipeline, weights.lora)
        self.text_encoders = nn.ModuleList(encoders if self.trains_text else map(frozen, encoders))
        if clip_skip is not None:
            skip_last_layers([*self.text_encoders], clip_skip, self.is_xl)
        self.clip_skip = clip_skip
        if offload_text_encoders:
            self.offload_text_encoders()
        saving_what_is_trained(self)
        self.prepare_parts()

    def prepare_parts(self) -> None:
        """Complete the construction of a model after its parts have been loaded; for model families that need it."""

    def extra_repr(self) -> str:
        return f"{type(self.scheduler).__name__}, scaling_factor={self.scaling_factor}"

    @property
    def prompt_fields(self) -> tuple[str, ...]:
        """Names of the fields of `Prompts` that the model uses."""
        return ("embedding", "pooled") if self.is_xl else ("embedding",)

    @property
    def size_multiple(self) -> int:
        """Number of pixels by which the height and width of an image must be divisible."""
        return self.latent_scale

    @property
    def image_size(self) -> int:
        """Height and width of the images with which the model was trained."""
        return self.network.config.sample_size * self.pipeline.vae_scale_factor

    def latent_shape(self, n: int, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """Return the shape of z for n images. If height and width are None, images have the size used in training."""
        scale, size = self.latent_scale, self.image_size
        return n, self.latent_channels, (height or size) // scale, (width or size) // scale

    def embed(self, texts: list[str], device: torch.device) -> Prompts:
        return self._embed(texts, device, self.clip_skip)

    def embedded_negative(self, texts: list[str], device: torch.device) -> Prompts:
        return self.embed(texts, device) if self.clip_skip is None else self._embed(texts, device, None)

    def _embed(self, texts: list[str], device: torch.device, clip_skip: int | None) -> Prompts:
        skip = {} if clip_skip is None else {"clip_skip": clip_skip}
        found = self.pipeline.encode_prompt(
            prompt=texts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False, **skip
        )
        return Prompts(found[0], found[2] if self.is_xl else None)

    def embedded_empty(self, n: int, device: torch.device) -> Prompts:
        """Embed n empty prompts, as the pipeline does for guidance; some pipelines use zeros as the embeddings."""
        empty = super().embedded_empty(n, device)
        if empty.pooled is not None and self.pipeline.config.get("force_zeros_for_empty_prompt"):
            empty = Prompts(torch.zeros_like(empty.embedding), torch.zeros_like(empty.pooled))
        return empty

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict the quantity named by the scheduler's `prediction_type`.

        Args:
            latent: z_t, `[B, c, h, w]`.
            timestep: times t, int64, either `[B]` or one value for all images.
            prompts: B prompts.
        """
        return self.with_sizes(latent, timestep, prompts)

    def with_sizes(
        self, latent: Tensor, timestep: Tensor, prompts: Prompts, size_conditions: Tensor | None = None
    ) -> Tensor:
        """Make the same prediction as `forward`, but with SDXL's size conditions, `[B, 6]`.

        The six size conditions are the height and width of the original image, the top and left position of the crop,
        and the height and width of the crop, in pixels. None means uncropped images of the size to which the latents
        decode.
        """
        inputs = self.network_inputs(latent, timestep, prompts, size_conditions)
        return self.network_output(self.network(**inputs).sample, latent)

    def network_inputs(
        self, latent: Tensor, timestep: Tensor, prompts: Prompts, size_conditions: Tensor | None = None
    ) -> dict[str, Any]:
        """Return keyword arguments with which the network or its ControlNet can be called; see `with_sizes`."""
        added = None
        if prompts.pooled is not None:
            scale = self.pipeline.vae_scale_factor
            height, width = latent.shape[2] * scale, latent.shape[3] * scale
            size = torch.tensor([height, width, 0, 0, height, width]) if size_conditions is None else size_conditions
            time_ids = size.to(latent, non_blocking=True).expand(latent.shape[0], -1)
            added = {"text_embeds": prompts.pooled, "time_ids": time_ids}
        embedding = prompts.embedding.to(latent.dtype)
        given = {"sample": latent, "timestep": timestep}
        return {**given, "encoder_hidden_states": embedding, "added_cond_kwargs": added}

    def network_output(self, output: Tensor, latent: Tensor) -> Tensor:
        """Rearrange the network's output to the shape of z_t."""
        return output


def adapted_parts(model: TextToImage) -> dict[str, Any]:
    """Map the names of a model's networks with adapters, as in its pipeline, to the networks; first the trained one."""
    names = [name for name in ENCODERS if getattr(model.pipeline, name, None) is not None] if model.trains_text else []
    return {model.parts[0]: model.network} | {name: getattr(model.pipeline, name) for name in names}


def families() -> dict[str, type[TextToImage]]:
    """Map the diffusers class of a denoising network to the model class for this family of networks.

    A family is a subclass of `TextToImage` with its own `part_classes`. All families of this project are imported in
    the `__init__.py` of this package. The key of a family whose network another family has is its pipeline's class.
    """
    found: dict[str, type[TextToImage]] = {}
    waiting: list[type[TextToImage]] = [TextToImage]
    while waiting:
        model = waiting.pop(0)
        waiting += model.__subclasses__()
        if "part_classes" in vars(model):
            names = model.part_classes[model.parts[0]]
            for name in (names,) if isinstance(names, str) else names:
                if found.setdefault(name, model) is not model:
                    found[str(model.part_classes["_class_name"])] = model
    return found


def _check(name: str, network: Any, channels: int, tuning: Tuning) -> Any:
    """Check a network and return it, converted to float32 if `tuning` is full."""
    if network.config.in_channels != channels:
        raise ValueError(
            f"{name} takes {network.config.in_channels} channels, but its autoencoder's latents have {channels}"
        )
    if tuning == "full" and is_quantized(network):
        raise ValueError(f"tuning: {name} has quantised weights; set tuning to lora, got full")
    return network.float() if tuning == "full" else network


def _other_sampler(scheduler: Any, sampler: Sampler, spacing: Spacing | None) -> Any:
    """Return a scheduler of another class with the settings of a given one."""
    import diffusers

    one_of(get_args(Sampler), sampler=sampler)
    spaced = {} if spacing is None else {"timestep_spacing": spacing}
    return getattr(diffusers, sampler).from_config(scheduler.config, **spaced)


def _check_text_adapters(kinds: tuple[str, ...], offload_text_encoders: bool) -> None:
    if kinds != ("lora",) * 3 or offload_text_encoders:
        raise ValueError(
            "text_adapters need tuning lora, adapters of kind lora and offload_text_encoders false, "
            f"got {', '.join(kinds)} and {offload_text_encoders}"
        )


def _adapt_text_encoder(encoder: Any, adapters: Adapters, gradient_checkpointing: bool, is_xl: bool) -> Any:
    """Add adapters to the layers of a CLIP text encoder that have an effect: SDXL ignores the last one of the first."""
    unread = (
        f".layers.{encoder.config.num_hidden_layers - 1}." if is_xl and not hasattr(encoder, "text_projection") else " "
    )
    wanted = tuple(f".{target}" for target in adapters.targets or ("q_proj", "k_proj", "v_proj", "out_proj"))
    targets = [name for name, _ in encoder.named_modules() if name.endswith(wanted) and unread not in name]
    return adapt(encoder, "lora", None, replace(adapters, targets=targets or adapters.targets), gradient_checkpointing)


def saving_what_is_trained(module: nn.Module) -> None:
    """Exclude frozen tensors from a model's state dict.

    They need not be saved, because the constructor of the model loads them from the pipeline.
    """
    module.register_state_dict_post_hook(_keep_what_is_trained)
    module.register_load_state_dict_post_hook(_miss_only_what_is_trained)


def _frozen_names(module: nn.Module) -> set[str]:
    """Return the names of a model's frozen tensors."""
    # Tied weights have several names, and a state dict contains all of these names.
    named = list(module.named_parameters(remove_duplicate=False))
    fixed = {name for name, parameter in named if not parameter.requires_grad}
    return fixed | {name for name, _ in module.named_buffers(remove_duplicate=False)}


def _keep_what_is_trained(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    fixed = _frozen_names(module)
    for key in [key for key in state if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        weight, inside, _ = name.partition(".weight.")  # keys of a quantised weight's scales begin with its name
        if name in fixed or (inside and f"{weight}.weight" in fixed):
            del state[key]


def _miss_only_what_is_trained(module: nn.Module, incompatible: Any) -> None:
    fixed = _frozen_names(module)
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if not _ends_with_one(key, fixed)]


def _ends_with_one(key: str, names: set[str]) -> bool:
    parts = key.split(".")
    return any(".".join(parts[start:]) in names for start in range(len(parts)))
