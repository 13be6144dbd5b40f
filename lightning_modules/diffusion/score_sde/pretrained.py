"""Read the diffusion process of a pretrained score model from diffusers."""

from pathlib import Path
from typing import Any

from datamodules.files.text_files import read_json_object
from lightning_modules.sde.processes import VE, VP, Process


def pretrained_process(name_or_path: str) -> Process:
    """Read the diffusion process of a pretrained score model from its scheduler config.

    A DDPM with a linear beta schedule is a discrete VP model; for such a model, set the argument `num_levels` of
    `ScoreSDE` to the scheduler's `num_train_timesteps`. VE score models are continuous-time models, and need no
    `num_levels`.

    Args:
        name_or_path: folder written by diffusers' `save_pretrained`, or name on the Hugging Face Hub
            (`google/ddpm-cifar10-32`, `google/ncsnpp-celebahq-256`). A folder must contain scheduler_config.json,
            either directly or in the subfolder `scheduler`.

    Raises:
        FileNotFoundError: if scheduler_config.json does not exist.
        ValueError: if the scheduler or its noise schedule is not supported, or if the network does not predict epsilon.
    """
    file = _scheduler_file(name_or_path)
    config = read_json_object(file)
    name = config.get("_class_name")
    if name == "ScoreSdeVeScheduler":
        smallest, largest = _numbers(file, config, "sigma_min", "sigma_max")
        return VE(smallest, largest)
    if name in ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler"):
        wanted = {"beta_schedule": "linear", "prediction_type": "epsilon", "trained_betas": None}
        for key, value in wanted.items():
            if config.get(key, value) != value:
                raise ValueError(f"{file}: {key} must be {value} for a VP score model, got {config[key]}")
        levels, start, end = _numbers(file, config, "num_train_timesteps", "beta_start", "beta_end")
        return VP(start * levels, end * levels)
    allowed = "ScoreSdeVeScheduler, DDPMScheduler, DDIMScheduler or PNDMScheduler"
    raise ValueError(f"{file}: _class_name must be {allowed}, got {name!r}")


def _numbers(file: Path, config: dict[str, Any], *names: str) -> list[float]:
    """Read the numbers that a config contains under the keys `names`."""
    for name in names:
        value: Any = config.get(name)
        if type(value) not in (int, float) or not 0 < value < 1e9:
            raise ValueError(f"{file}: {name} must be a positive number below 1e9, got {value!r}")
    return [config[name] for name in names]


def _scheduler_file(name_or_path: str) -> Path:
    folder = Path(name_or_path).expanduser()
    places = [folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json"]
    found = next((file for file in places if file.is_file()), None)
    if found is not None:
        return found
    if not folder.exists():
        from huggingface_hub import hf_hub_download

        for subfolder in ("scheduler", None):
            try:
                return Path(hf_hub_download(name_or_path, "scheduler_config.json", subfolder=subfolder))
            except (OSError, ValueError):
                continue
    raise FileNotFoundError(
        f"no scheduler config for {name_or_path}: expected {places[0]} or scheduler_config.json in the folder itself, "
        f"as written by save_pretrained; or run `hf download {name_or_path}` with network access"
    )
