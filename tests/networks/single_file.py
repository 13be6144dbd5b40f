"""The weights of the tiny Stable Diffusion pipeline under the names of the original single-file format."""

import re
from typing import Any

from torch import Tensor

RESNET = r"^((?:input|output)_blocks\.\d\.0\.|middle_block\.\d\.)"
UNET = [
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^down_blocks\.0\.resnets\.0", "input_blocks.1.0"),
    (r"^down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.2.0.op"),
    (r"^down_blocks\.1\.resnets\.0", "input_blocks.3.0"),
    (r"^down_blocks\.1\.attentions\.0", "input_blocks.3.1"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
    (r"^up_blocks\.0\.upsamplers\.0\.conv", "output_blocks.1.2.conv"),
    (r"^up_blocks\.0\.resnets\.(\d)", r"output_blocks.\1.0"),
    (r"^up_blocks\.0\.attentions\.(\d)", r"output_blocks.\1.1"),
    (r"^up_blocks\.1\.resnets\.0", "output_blocks.2.0"),
    (r"^up_blocks\.1\.resnets\.1", "output_blocks.3.0"),
    (RESNET + r"norm1\.", r"\1in_layers.0."),
    (RESNET + r"conv1\.", r"\1in_layers.2."),
    (RESNET + r"norm2\.", r"\1out_layers.0."),
    (RESNET + r"conv2\.", r"\1out_layers.3."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.conv_shortcut\.", ".skip_connection."),
]
AUTOENCODER = [
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.0\.resnets", "up.1.block"),
    (r"up_blocks\.1\.resnets", "up.0.block"),
    (r"up_blocks\.0\.upsamplers\.0", "up.1.upsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"attn_1\.group_norm", "attn_1.norm"),
    (r"attn_1\.to_([qkv])", r"attn_1.\1"),
    (r"attn_1\.to_out\.0", "attn_1.proj_out"),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
]


def original_names(pipeline: Any) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for part, prefix, rules in (
        (pipeline.unet, "model.diffusion_model.", UNET),
        (pipeline.vae, "first_stage_model.", AUTOENCODER),
        (pipeline.text_encoder, "cond_stage_model.transformer.text_model.", [(r"^text_model\.", "")]),
    ):
        for name, value in part.state_dict().items():
            for pattern, replacement in rules:
                name = re.sub(pattern, replacement, name)
            renamed[prefix + name] = value.contiguous()
    return renamed
