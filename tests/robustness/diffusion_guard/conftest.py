"""A tiny Stable Diffusion pipeline, and a folder of photographs."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel

from tests.datamodules.editing.photographs import photographs


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion inpainting pipeline with random weights, saved to disk."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from tests.robustness.diffusion_guard.tiny_clip import save_tokenizer

    folder = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(0)
    tokenizer = save_tokenizer(folder, ["a</w>", "cat</w>"])
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=4,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=9, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, layers_per_block=1,
        sample_size=16,
    )  # fmt: skip
    StableDiffusionInpaintPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet,
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder / "saved")  # fmt: skip
    return folder / "saved"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photographs(tmp_path)
