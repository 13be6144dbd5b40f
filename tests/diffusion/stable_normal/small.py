"""Networks with a few thousand weights, and batches for them."""

import json
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from datamodules.batches import NormalMapBatch
from datamodules.normals.height_fields import surface_normals
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.diffusion.stable_normal import ConditionedUNet, PatchFeatures, PixelUNet, StableNormal


def unet(blocks: tuple[str, str] = ("CrossAttnDownBlock2D", "DownBlock2D"), layers: int = 1) -> UNet2DConditionModel:
    up = {"CrossAttnDownBlock2D": "CrossAttnUpBlock2D", "DownBlock2D": "UpBlock2D"}
    return UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=layers,
        down_block_types=blocks, up_block_types=tuple(up[block] for block in reversed(blocks)),
        cross_attention_dim=8, attention_head_dim=4, norm_num_groups=4,
    ).double()  # fmt: skip


def features() -> PatchFeatures:
    """Build a transformer with four by four patches, a class token and two registers."""
    network = timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=12, depth=1, num_heads=2, num_classes=0, reg_tokens=2
    )
    return PatchFeatures(Normalized(network, [0.5] * 3, [0.25] * 3), image_size=16).double()


def stage(semantic: bool = False, trained: Any = "all") -> ConditionedUNet:
    return ConditionedUNet(PixelUNet(unet()), features() if semantic else None, trained=trained).double()


def stirred(network: torch.nn.Module) -> None:
    """Set zero-initialised layers to non-zero values, so that all encoders have an effect."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "controlnet" in name or "embedding.8" in name:
                parameter.normal_(std=0.2)


def module(yoso: bool = True, refiner: bool = True, semantic: bool = False, **more: Any) -> StableNormal:
    torch.manual_seed(0)
    first, second = stage() if yoso else None, stage(semantic) if refiner else None
    found = StableNormal(first, second, **{"resolution": None, **more}).double()
    found.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    return found


def batch(n: int = 4, size: int = 8) -> NormalMapBatch:
    random = torch.Generator().manual_seed(1)
    normal = surface_normals(torch.rand(n, 19, dtype=torch.float64, generator=random), size)
    image = torch.rand(n, 3, size, size, dtype=torch.float64, generator=random)
    return {"image": image, "normal": normal, "index": torch.arange(n), "global_batch_size": n}


def latent(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def released_folder(pipeline: Path, folder: Path) -> ControlNetModel:
    """Save a pipeline in the layout of the released models; return its image encoder, which is a complete ControlNet.

    Running the code in the folder would create a file `ran`.
    """
    shutil.copytree(pipeline, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "YOSONormalsPipeline", "controlnet": ["controlnetvae", "ControlNetVAEModel"]}
    (folder / "model_index.json").write_text(json.dumps({**index, "dino_controlnet": ["dino", "DinoControlNet"]}))
    control = ControlNetModel.from_unet(UNet2DConditionModel.from_pretrained(folder / "unet"))
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    control.save_pretrained(folder / "controlnet", variant="fp16")
    (folder / "controlnet" / "controlnetvae.py").write_text("open('ran', 'w').close()")
    return control
