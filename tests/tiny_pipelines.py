"""Tiny diffusers pipelines with random weights, created without network access and saved in the diffusers layout.

The fixtures of `tests/conftest.py` save each pipeline once per session.
"""

import functools
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

LETTERS = [*string.ascii_lowercase, *string.digits]
VOCABULARY = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
"""A token for each letter: without merges, CLIP's tokenizer splits words into letters."""
PIXTRAL_TOKENS = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
CHAT = "{% for message in messages %}{{ message['role'] }} {{ CONTENT }}{% endfor %}"
"""A chat template; CONTENT depends on the type of messages."""
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def saved(build: Callable[..., Any]) -> Callable[..., Path]:
    """Make a function that builds a pipeline with weights from a fixed seed save it, and return the folder."""

    @functools.wraps(build)
    def save(folder: Path, **options: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        build(folder, **options).save_pretrained(folder / "saved")
        return folder / "saved"

    return save


def randomize(std: float, *networks: nn.Module) -> None:
    """Replace all weights by normal random numbers that are large enough for different inputs to matter."""
    for network in networks:
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=std)


def save_tokenizer(folder: Path, words: list[str], length: int = 8) -> Any:
    """Save a tokenizer of these words, with a start and an end token, for texts of `length` tokens."""
    from transformers import CLIPTokenizer

    vocabulary = {token: number for number, token in enumerate(["<|startoftext|>", "<|endoftext|>", *words])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)


def text_encoder(words: list[str], length: int = 8, width: int = 16, projection: int | None = None) -> Any:
    """Build CLIP's text encoder with weights that are large enough to give different texts different embeddings."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=width, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=2 + len(words), max_position_embeddings=length, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        projection_dim=projection or width,
    )  # fmt: skip
    encoder = CLIPTextModel(config) if projection is None else CLIPTextModelWithProjection(config)
    randomize(0.3, encoder)
    return encoder


def autoencoder(channels: tuple[int, ...] = (4, 8), scaling_factor: float = 0.18215, **more: Any) -> Any:
    """Build an autoencoder; it halves the image size once for each entry of `channels` after the first."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=channels, down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels), latent_channels=4, norm_num_groups=4, layers_per_block=1,
        sample_size=16, scaling_factor=scaling_factor, **more,
    )  # fmt: skip


def conditional_unet(in_channels: int = 4, width: int = 16, **more: Any) -> Any:
    """Build a U-Net for latents `[in_channels, 8, 8]`, conditioned on text embeddings of the given width."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, in_channels=in_channels, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width, attention_head_dim=4, norm_num_groups=4, **more,
    )  # fmt: skip


@saved
def save_text_to_image(folder: Path, prediction_type: str = "epsilon") -> Any:
    """Save a Stable Diffusion pipeline: images of 16 x 16, prompts of 16 letters, a DDIM scheduler."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    scheduler = DDIMScheduler(
        **STABLE_DIFFUSION, set_alpha_to_one=False, clip_sample=False, prediction_type=prediction_type
    )
    return StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=text_encoder(VOCABULARY, 16),
        tokenizer=save_tokenizer(folder, VOCABULARY, 16), unet=conditional_unet(), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@saved
def save_xl(folder: Path) -> Any:
    """Save an SDXL pipeline for 16 x 16 images; its two text encoders read prompts of 16 letters."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizer = save_tokenizer(folder, VOCABULARY, 16)
    unet = conditional_unet(
        width=32, addition_embed_type="text_time", addition_time_embed_dim=8, use_linear_projection=True,
        projection_class_embeddings_input_dim=6 * 8 + 16, transformer_layers_per_block=(1, 2),
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025), text_encoder=text_encoder(VOCABULARY, 16),
        text_encoder_2=text_encoder(VOCABULARY, 16, projection=16), tokenizer=tokenizer, tokenizer_2=tokenizer,
        unet=unet, scheduler=EulerDiscreteScheduler(**STABLE_DIFFUSION), add_watermarker=False,
    )  # fmt: skip


@saved
def save_hunyuan_dit(folder: Path) -> Any:
    """Save a Hunyuan-DiT pipeline for 64 x 64 images, with v-prediction; its two encoders read single letters."""
    from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
    from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

    tokenizer, words = save_tokenizer(folder, VOCABULARY, 77), 2 + len(VOCABULARY)
    bert = BertConfig(
        vocab_size=words, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=77,
    )  # fmt: skip
    t5 = T5Config(vocab_size=words, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=8, hidden_size=16,
        num_layers=4, cross_attention_dim=16, cross_attention_dim_t5=8, pooled_projection_dim=16,
    )  # fmt: skip
    randomize(0.1, transformer)
    return HunyuanDiTPipeline(
        vae=autoencoder((4, 4, 4, 8), 0.13025), text_encoder=BertModel(bert), tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(t5), tokenizer_2=tokenizer, transformer=transformer,
        scheduler=DDPMScheduler(**{**STABLE_DIFFUSION, "beta_end": 0.018}, prediction_type="v_prediction"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def t5_encoder(width: int) -> Any:
    """Build a T5 text encoder for letters, with weights large enough for different texts to differ."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=2 + len(VOCABULARY), d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    return T5EncoderModel(config)


@saved
def save_stable_diffusion_3(folder: Path, t5: bool = True, dual: bool = False) -> Any:
    """Save a Stable Diffusion 3 pipeline for 16 x 16 images; CLIP reads 16 letters; `dual` is as in 3.5 Medium."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer = save_tokenizer(folder, VOCABULARY, 16)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
        pos_embed_max_size=12, **({"dual_attention_layers": (0,), "qk_norm": "rms_norm"} if dual else {}),
    )  # fmt: skip
    randomize(0.1, transformer)
    return StableDiffusion3Pipeline(
        vae=autoencoder(scaling_factor=1.5305, shift_factor=0.0609), transformer=transformer,
        text_encoder=text_encoder(VOCABULARY, 16, projection=16), tokenizer=tokenizer,
        text_encoder_2=text_encoder(VOCABULARY, 16, projection=16), tokenizer_2=tokenizer,
        text_encoder_3=t5_encoder(32) if t5 else None, tokenizer_3=tokenizer if t5 else None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


@saved
def save_flux(folder: Path, guidance_embeds: bool = True, kontext: bool = False) -> Any:
    """Save a FLUX.1 pipeline for images of 16 x 16 pixels; its CLIP encoder reads prompts of 16 letters."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxPipeline, FluxTransformer2DModel

    tokenizer = save_tokenizer(folder, VOCABULARY, 16)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    randomize(0.1, transformer)
    return (FluxKontextPipeline if kontext else FluxPipeline)(
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159), transformer=transformer,
        text_encoder=text_encoder(VOCABULARY, 16), tokenizer=tokenizer,
        text_encoder_2=t5_encoder(32), tokenizer_2=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )  # fmt: skip


@saved
def save_pixart_sigma(folder: Path) -> Any:
    """Save a PixArt-Sigma pipeline for 16 x 16 images, with a learned variance; T5 reads single letters."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=16,
        in_channels=4, out_channels=8, cross_attention_dim=16, use_additional_conditions=False,
    )  # fmt: skip
    randomize(0.1, transformer)
    return PixArtSigmaPipeline(
        vae=autoencoder(scaling_factor=0.13025), transformer=transformer, text_encoder=t5_encoder(16),
        tokenizer=save_tokenizer(folder, VOCABULARY, 300),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )  # fmt: skip


@saved
def save_sana(folder: Path) -> Any:
    """Save a Sana pipeline for 32 x 32 images, with the authors' solver; its language model reads single letters."""
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    transformer = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8,
        sample_size=8, timestep_scale=0.5,
    )  # fmt: skip
    config = Gemma2Config(
        head_dim=4, hidden_size=8, intermediate_size=16, num_attention_heads=2, num_key_value_heads=1,
        num_hidden_layers=1, vocab_size=2 + len(VOCABULARY), max_position_embeddings=4096, sliding_window=4096,
    )  # fmt: skip
    encoder = Gemma2Model(config)
    randomize(0.2, transformer, encoder)
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8), encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)), encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1), downsample_block_type="conv", upsample_block_type="interpolate",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, solver_order=2
    )
    return SanaPipeline(
        vae=vae, transformer=transformer, text_encoder=encoder, tokenizer=save_tokenizer(folder, VOCABULARY, 4096),
        scheduler=scheduler,
    )  # fmt: skip


@saved
def save_qwen_image(folder: Path) -> Any:
    """Save a Qwen-Image pipeline for 32 x 32 images; its vision-language model reads prompts letter by letter."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    text: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": 2 + len(VOCABULARY), "max_position_embeddings": 2048,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    randomize(0.2, transformer, encoder)
    vae = AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[-0.7, 0.1, 0.9, 0.0], latents_std=[2.8, 1.4, 0.7, 1.0],
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9)
    return QwenImagePipeline(
        scheduler=scheduler, vae=vae, text_encoder=encoder, tokenizer=save_tokenizer(folder, VOCABULARY, 2048),
        transformer=transformer,
    )  # fmt: skip


@saved
def save_z_image(folder: Path) -> Any:
    """Save a Z-Image pipeline for 16 x 16 images; its language model reads prompts letter by letter."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[8, 4, 4], axes_lens=[256, 32, 32],
    )  # fmt: skip
    config = Qwen3Config(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        head_dim=8, vocab_size=2 + len(VOCABULARY), max_position_embeddings=512,
    )  # fmt: skip
    encoder = Qwen3Model(config)
    randomize(0.1, transformer, encoder)
    tokenizer = save_tokenizer(folder, VOCABULARY, 512)
    tokenizer.chat_template = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }}{% endfor %}"
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), text_encoder=encoder, tokenizer=tokenizer,
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159), transformer=transformer,
    )  # fmt: skip


@saved
def save_flux2(folder: Path, klein: bool = False) -> Any:
    """Save a FLUX.2-dev or FLUX.2-klein pipeline for 16 x 16 images; its language model reads single letters.

    The language models have as many layers as the pipelines read by default.
    """
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Pipeline,
        Flux2Transformer2DModel,
    )
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        PixtralImageProcessor,
        PixtralProcessor,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=not klein,
    )  # fmt: skip
    tokenizer = save_tokenizer(folder, [*VOCABULARY, *PIXTRAL_TOKENS], 512)
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 512,
    }  # fmt: skip
    if klein:
        encoder: Any = Qwen3ForCausalLM(Qwen3Config(**text, num_hidden_layers=27))
        tokenizer.chat_template = CHAT.replace("CONTENT", "message['content']")
    else:
        vision = {
            "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
            "image_size": 32, "patch_size": 16, "model_type": "pixtral",
        }  # fmt: skip
        config = Mistral3Config(
            text_config={**text, "num_hidden_layers": 30, "model_type": "mistral"}, vision_config=vision,
            image_token_index=len(tokenizer) - 3,
        )  # fmt: skip
        encoder = Mistral3ForConditionalGeneration(config)
        tokenizer = PixtralProcessor(
            PixtralImageProcessor(), tokenizer, chat_template=CHAT.replace("CONTENT", "message['content'][0]['text']")
        )
    randomize(0.2, transformer, encoder)
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2, sample_size=16, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, layers_per_block=1,
    )  # fmt: skip
    nn.init.normal_(vae.bn.running_mean, std=0.5)
    nn.init.uniform_(vae.bn.running_var, 0.5, 2)
    return (Flux2KleinPipeline if klein else Flux2Pipeline)(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae=vae, text_encoder=encoder,
        tokenizer=tokenizer, transformer=transformer,
    )  # fmt: skip


@saved
def save_chroma(folder: Path) -> Any:
    """Save a Chroma pipeline for 16 x 16 images; its T5 encoder reads prompts letter by letter."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    transformer = ChromaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_num_channels=16, approximator_hidden_dim=16,
        approximator_layers=1,
    )  # fmt: skip
    randomize(0.1, transformer)
    return ChromaPipeline(
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159), transformer=transformer,
        text_encoder=t5_encoder(32), tokenizer=save_tokenizer(folder, VOCABULARY, 512),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )  # fmt: skip


@saved
def save_lumina2(folder: Path) -> Any:
    """Save a Lumina 2 pipeline for 64 x 64 images; its language model reads prompts letter by letter."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    transformer = Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=16, num_layers=2, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 2, 2), axes_lens=(300, 32, 32), cap_feat_dim=8,
    )  # fmt: skip
    config = Gemma2Config(
        head_dim=4, hidden_size=8, intermediate_size=16, num_attention_heads=2, num_key_value_heads=1,
        num_hidden_layers=2, vocab_size=2 + len(VOCABULARY), max_position_embeddings=512, sliding_window=512,
    )  # fmt: skip
    encoder = Gemma2Model(config)
    randomize(0.2, transformer, encoder)
    return Lumina2Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0), text_encoder=encoder,
        vae=autoencoder((4, 4, 4, 8), 0.3611, shift_factor=0.1159),
        tokenizer=save_tokenizer(folder, VOCABULARY, 256),
    )  # fmt: skip


@saved
def save_inpainting(folder: Path) -> Any:
    """Save a Stable Diffusion inpainting pipeline, whose U-Net takes 9 channels, with its PNDM scheduler."""
    from diffusers import PNDMScheduler, StableDiffusionInpaintPipeline

    words = ["a</w>", "cat</w>"]
    return StableDiffusionInpaintPipeline(
        vae=autoencoder(), text_encoder=text_encoder(words), tokenizer=save_tokenizer(folder, words),
        unet=conditional_unet(in_channels=9), scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def save_clip(folder: Path) -> Path:
    """Save a CLIP model for images of 16 x 16 pixels and texts of 16 letters."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder.mkdir(parents=True, exist_ok=True)
    size: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    size |= {"num_attention_heads": 2, "hidden_act": "gelu"}
    text = {**size, "vocab_size": 2 + len(VOCABULARY), "max_position_embeddings": 16, "eos_token_id": 1}
    config = CLIPConfig(
        text_config={**text, "bos_token_id": 0, "pad_token_id": 1},
        vision_config={**size, "image_size": 16, "patch_size": 8}, projection_dim=12,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(config)
    randomize(0.3, model)
    model.save_pretrained(folder)
    save_tokenizer(folder, VOCABULARY, 16).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@saved
def save_unconditional(folder: Path, size: int = 8, channels: int = 1) -> Any:
    """Save a DDPM pipeline with a `UNet2DModel` in pixel space."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=channels, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=4,
    )  # fmt: skip
    return DDPMPipeline(unet=unet, scheduler=DDPMScheduler(clip_sample=True))


@saved
def save_dit(folder: Path, stochastic: bool = False) -> Any:
    """Save a DiT pipeline for 16 x 16 images of 1,000 classes."""
    from diffusers import DDIMScheduler, DDPMScheduler, DiTPipeline, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=1000, norm_num_groups=4,
    )  # fmt: skip
    randomize(0.3, transformer)
    scheduler = DDPMScheduler() if stochastic else DDIMScheduler()
    return DiTPipeline(transformer=transformer, vae=autoencoder(), scheduler=scheduler)  # type: ignore[arg-type]


@saved
def save_wan(folder: Path) -> Any:
    """Save a Wan pipeline for clips of 5 frames of 16 x 16 pixels; its UMT5 encoder reads prompts letter by letter."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=12,
        text_dim=16, freq_dim=16, ffn_dim=16,
    )  # fmt: skip
    config = UMT5Config(vocab_size=2 + len(VOCABULARY), d_model=16, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    encoder = UMT5EncoderModel(config)
    randomize(0.2, transformer, encoder)
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[True, True],
        latents_mean=[-0.7, 0.1, 0.9, 0.0], latents_std=[2.8, 1.4, 0.7, 1.0], scale_factor_spatial=4,
    )  # fmt: skip
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return WanPipeline(
        tokenizer=save_tokenizer(folder, VOCABULARY, 512), text_encoder=encoder, vae=vae, scheduler=scheduler,
        transformer=transformer,
    )  # fmt: skip


PIPELINES: dict[str, Callable[[Path], Path]] = {
    "text_to_image": save_text_to_image,
    "xl": save_xl,
    "hunyuan_dit": save_hunyuan_dit,
    "stable_diffusion_3": save_stable_diffusion_3,
    "flux": save_flux,
    "flux_kontext": functools.partial(save_flux, kontext=True),
    "flux2": save_flux2,
    "flux2_klein": functools.partial(save_flux2, klein=True),
    "chroma": save_chroma,
    "lumina2": save_lumina2,
    "pixart_sigma": save_pixart_sigma,
    "sana": save_sana,
    "qwen_image": save_qwen_image,
    "z_image": save_z_image,
    "wan": save_wan,
    "unconditional": save_unconditional,
}
"""The pipelines that `tests/conftest.py` saves once per session, by the name of the fixture with the folder."""
