"""Write the folder that `push` uploads: settings, weights, metrics, a picture and, if there is one, the pipeline."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from datamodules.files.image_files import opened_image
from datamodules.files.text_files import read_json_object
from datamodules.files.whole_files import whole_file, write_text
from experiments.calls.parse import CALL_ONLY
from experiments.hub.portable_settings import portable, private_texts, without_paths
from experiments.run_directory import WEIGHTS, read_checkpoint
from experiments.saving.environment import header, recorded_environments
from experiments.strangers import settings_of_run

PIPELINE_FILES = (".json", ".safetensors", ".txt", ".model")
"""Suffixes of the pipeline files to copy. Other files, such as pickles and code, are left out."""
ADAPTERS = "pytorch_lora_weights.safetensors"
"""File with LoRA weights in a pipeline."""
CONTROLNET = "controlnet"
"""Folder of the ControlNet in a pipeline."""
EMBEDDINGS = ("learned_embeds.safetensors", "learned_embeds_2.safetensors")
"""Files of textual inversion in a pipeline, for the first and for the second text encoder."""
NETWORKS = ("transformer", "unet")
"""Names that the folder of the denoising network can have in a pipeline."""
TABLES = ("metrics.csv", "test_metrics.csv")
WIDEST = 1600
"""Largest width and height of the picture, in pixels."""


@dataclass(frozen=True)
class Pushed:
    """Contents of the folder of a pushed run.

    Args:
        settings: the settings of the run, without local paths.
        named: file names that replace local paths, by the dotted keys of the settings.
        checkpoint: `best` or `last`.
        class_path: class path of the model.
        step: number of training steps after which the checkpoint was saved.
        picture: file name of the picture. None if there is no picture.
        pipeline: names of the pipeline's files.
    """

    settings: Mapping[str, Any]
    named: Mapping[str, str]
    checkpoint: str
    class_path: str
    step: int
    picture: str | None
    pipeline: tuple[str, ...]


def write_pushed_run(run: Path, folder: Path, checkpoint: str | None = None, picture: str | None = None) -> Pushed:
    """Fill an empty folder with the files that `load_run` needs, and with metrics, a picture and the pipeline.

    Args:
        run: run directory.
        folder: the folder, which is created if it does not exist.
        checkpoint: `best` or `last`. None selects the checkpoint that the run sets as `checkpoint.test_checkpoint`.
        picture: name of a PNG file in `figures/`. None selects a picture automatically.
    """
    config = run / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(f"{run} is not a run directory: {config} does not exist")
    saved = settings_of_run(run, CALL_ONLY, [])
    chosen = checkpoint or (saved.get("checkpoint") or {}).get("test_checkpoint") or "last"
    weights = read_checkpoint(run / "checkpoints" / f"{chosen}.ckpt")
    settings, named = portable(saved)
    model = settings.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("class_path"), str):
        raise ValueError(f"{config} must name the class of the model as model.class_path")
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    write_text(folder / "config.yaml", header(recorded_environments(run)) + text)
    _save_weights(weights, folder / WEIGHTS, model["class_path"])
    for name in TABLES:
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
    shown = _copy_picture(run / "figures", folder, picture)
    files = _copy_pipeline(run / "pipeline", folder / "pipeline") if (run / "pipeline").is_dir() else []
    step = weights.get("global_step")
    return Pushed(
        settings, named, chosen, model["class_path"], step if isinstance(step, int) else 0, shown, tuple(files)
    )


def _save_weights(checkpoint: dict[str, Any], file: Path, class_path: str) -> None:
    """Save the weights of a checkpoint. Tensors that share memory are saved once."""
    from safetensors.torch import save_file

    state = {name: value.detach().clone().contiguous() for name, value in checkpoint["state_dict"].items()}
    with whole_file(file) as partial:
        # The metadata has a single key, because the order of several keys would vary.
        named = {"class_path": str(checkpoint.get("class_path", class_path))}
        save_file(state, partial, named)


def _copy_picture(figures: Path, folder: Path, name: str | None) -> str | None:
    """Copy a picture without its metadata, with a height and width of at most `WIDEST` pixels.

    If no name is given, copy the samples of a generative model. If there are none, copy the alphabetically first
    picture.
    """
    found = sorted(path.name for path in figures.glob("*.png"))
    if name is not None and name not in found:
        raise FileNotFoundError(f"{figures} has no picture {name}; it has {', '.join(found) or 'none'}")
    if not found:
        return None
    chosen = name or next((each for each in found if each.startswith("samples")), found[0])
    with opened_image(figures / chosen) as image, whole_file(folder / chosen) as partial:
        picture = image.convert("RGB")
        picture.thumbnail((WIDEST, WIDEST))
        picture.save(partial, optimize=True)
    return chosen


def _copy_pipeline(source: Path, target: Path) -> list[str]:
    """Copy a pipeline's files, except those with code, and replace local paths in JSON files with file names."""
    names = _pipeline_files(source)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    remove_paths(target)
    return names


def _pipeline_files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in PIPELINE_FILES and not path.name.startswith(".")
    )


def with_pipeline(pushed: Pushed, folder: Path) -> Pushed:
    """Update the list of pipeline files to the files that are now in `pipeline/`."""
    return replace(pushed, pipeline=tuple(_pipeline_files(folder / "pipeline")))


def merged_network(pushed: Pushed) -> str | None:
    """Return the folder of the network in `pipeline/` if `pipeline/` is not a complete pipeline, and otherwise None.

    If the diffusers pipeline has no `load_lora_weights`, only the network is saved, with the adapters merged into it.
    """
    if "model_index.json" in pushed.pipeline:
        return None
    return next((name for name in NETWORKS if f"{name}/config.json" in pushed.pipeline), None)


def adapted_network(pushed: Pushed) -> str | None:
    """Return the folder of adapters that peft loads into the network, and None if there are none."""
    return next((name for name in NETWORKS if f"{name}/adapter_config.json" in pushed.pipeline), None)


def remove_paths(pipeline: Path) -> None:
    """Replace local paths in the configurations of a pipeline with file names."""
    for file in (*pipeline.rglob("config.json"), *pipeline.rglob("*_config.json"), *pipeline.rglob("*_index.json")):
        content = read_json_object(file)
        if (portable := without_paths(content)) != content:
            write_text(file, json.dumps(portable, indent=2) + "\n")


def refuse_private(folder: Path, run: Path) -> None:
    """Raise an error if a file in a folder contains a local path or a secret."""
    private = [
        (what, re.compile(rb"(?<![\w.~-])" + re.escape(text) + rb"(?![\w-])")) for what, text in private_texts(run)
    ]
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = _header(file) if file.suffix == ".safetensors" else file.read_bytes()
        for what, pattern in private:
            if pattern.search(content):
                raise ValueError(f"{file.relative_to(folder)} contains {what}, so nothing is published: remove it")


def _header(file: Path) -> bytes:
    """Read the header of a safetensors file, which contains names and metadata but no values, if it is whole."""
    with file.open("rb") as stream:
        if (length := int.from_bytes(stream.read(8), "little")) > file.stat().st_size:
            raise ValueError(f"{file} is not a readable file of weights: it declares a header of {length} bytes")
        return stream.read(length)
