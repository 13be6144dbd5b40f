"""The process that a pretrained score model of diffusers was trained with."""

import json
from pathlib import Path
from typing import Any

from lightning_modules.sde.processes import VE, VP, Process


def pretrained_process(name_or_path: str) -> Process:
    """Read the process of a pretrained score model from the settings of its scheduler.

    DDPM with linear beta is a discrete VP, for `num_levels` of the scheduler's `num_train_timesteps`; score models of
    VE are continuous.

    Args:
        name_or_path: a folder as diffusers' `save_pretrained` writes it, with scheduler_config.json in it or in
            `scheduler`, or a name on the Hugging Face Hub (`google/ddpm-cifar10-32`, `google/ncsnpp-celebahq-256`).

    Raises:
        FileNotFoundError: if there is no scheduler_config.json.
        ValueError: if the scheduler or its schedule is another one, or the network predicts something else than noise.
    """
    file = _scheduler_file(name_or_path)
    config: dict[str, Any] = json.loads(file.read_text())
    name = config.get("_class_name")
    if name == "ScoreSdeVeScheduler":
        return VE(config["sigma_min"], config["sigma_max"])
    if name in ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler"):
        wanted = {"beta_schedule": "linear", "prediction_type": "epsilon", "trained_betas": None}
        for key, value in wanted.items():
            if config.get(key, value) != value:
                raise ValueError(f"{file}: {key} must be {value} for a score model of VP, got {config[key]}")
        levels = config["num_train_timesteps"]
        return VP(config["beta_start"] * levels, config["beta_end"] * levels)
    allowed = "ScoreSdeVeScheduler, DDPMScheduler, DDIMScheduler or PNDMScheduler"
    raise ValueError(f"{file}: _class_name must be {allowed}, got {name!r}")


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
        f"no scheduler of {name_or_path}: expected {places[0]} or scheduler_config.json in the folder itself, as "
        f"save_pretrained writes them; or run `hf download {name_or_path}` where there is a network"
    )
