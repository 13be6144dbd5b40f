"""adapters under the names of kohya's sd-scripts and LyCORIS, with alphas, for many programs"""

from pathlib import Path
from typing import Any

from lightning_modules.interfaces import SavesAdapters, require


def write_adapters(folder: Path, module: Any) -> str:
    require(module, SavesAdapters, "--format kohya").save_adapters(folder / "kohya.safetensors", "kohya")
    return (
        "from diffusers import DiffusionPipeline\n\n"
        'pipeline = DiffusionPipeline.from_pretrained("the base pipeline of the run")\n'
        'pipeline.load_lora_weights(".", weight_name="kohya.safetensors")  # not SD 3, LoHa and LoKr\n'
    )
