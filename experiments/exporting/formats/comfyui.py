"""adapters under names that ComfyUI reads, with alphas"""

from pathlib import Path
from typing import Any

from lightning_modules.interfaces import SavesAdapters, require


def write_adapters(folder: Path, module: Any) -> str:
    require(module, SavesAdapters, "--format comfyui").save_adapters(folder / "comfyui.safetensors", "comfyui")
    return (
        'import shutil\n\nshutil.copy("comfyui.safetensors", "ComfyUI/models/loras/the_name_of_the_run.safetensors")\n'
    )
