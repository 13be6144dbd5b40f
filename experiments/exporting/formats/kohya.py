"""LoRA of Stable Diffusion 1, 2 or XL under kohya's names, with alphas, for ComfyUI and others"""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from experiments.exporting.folder import Export
from lightning_modules.interfaces import SavesPipeline

LORA = "pytorch_lora_weights.safetensors"
NEEDED = "--format kohya needs a run with tuning: lora and the U-Net of Stable Diffusion 1, 2 or XL"


def write(folder: Path, export: Export) -> str:
    """Write the adapters as one file. Each layer's alpha is its rank r times the scale of its adapter."""
    from diffusers.utils.state_dict_utils import convert_all_state_dict_to_peft, convert_state_dict_to_kohya

    if not isinstance(export.module, SavesPipeline):
        raise ValueError(f"{NEEDED}, got {type(export.module).__name__}")
    with TemporaryDirectory() as saved:
        export.module.save_pipeline(Path(saved))
        if not (Path(saved) / LORA).is_file():
            raise ValueError(f"{NEEDED}; this run has no adapters of kind lora")
        with safe_open(Path(saved) / LORA, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a mapping
            settings: dict[str, Any] = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    if any(not name.startswith("unet.") for name in tensors):
        part = next(iter(tensors)).partition(".")[0]
        raise ValueError(f"{NEEDED}; the adapters of its {part} have diffusers' names in {LORA}")
    if settings.get("unet.use_dora"):
        raise ValueError(f"{NEEDED}; adapters.dora must be false, as diffusers does not rename DoRA's norms")
    found = convert_state_dict_to_kohya(convert_all_state_dict_to_peft(tensors))
    for name, down in found.items():
        if name.endswith(".lora_down.weight"):
            rank = len(down)
            alpha = settings.get("unet.lora_alpha", rank) * (math.sqrt(rank) if settings.get("unet.use_rslora") else 1)
            found[f"{name.removesuffix('.lora_down.weight')}.alpha"] = torch.tensor(float(alpha))
    save_file({name: value.contiguous() for name, value in found.items()}, folder / "kohya.safetensors")
    return (
        "from diffusers import DiffusionPipeline\n\n"
        'pipeline = DiffusionPipeline.from_pretrained("the base pipeline of the run")\n'
        'pipeline.load_lora_weights(".", weight_name="kohya.safetensors")  # ComfyUI: copy the file to models/loras\n'
    )
