"""Scores of generated images: CLIP score, PickScore, HPSv2, MPS, ImageReward and LAION's aesthetic score."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from callbacks.generation.generated_folder import TABLE
from callbacks.generation.image_lists import FolderImages
from callbacks.generation.image_requests import read_prompts
from datamodules.arguments import at_least
from datamodules.files.limits import check_is_file, check_unpacked, sentence
from datamodules.files.module_hash import hash_of_module
from datamodules.jobs.cached_array import Parts, cached_array
from lightning_modules.diffusion.golden_noise.image_reward import ImageReward
from lightning_modules.diffusion.golden_noise.preference_score import MPS
from lightning_modules.diffusion.golden_noise.rewards import AestheticReward, CLIPReward

ROWS_PER_PART = 1024
"""Approximate number of images per saved part; a killed computation resumes after the last saved part."""


class Known(NamedTuple):
    """A score that can be selected by name."""

    model: str
    """Name of the score's CLIP model on the Hugging Face Hub, or of its tokenizer in the case of ImageReward."""
    weights: str | None = None
    """Description of further weights that the score needs. If `default_weights` is None, the user must pass a file."""
    for_texts: bool = True
    """Whether the score depends on the prompt, and not only on the image."""
    default_weights: str | None = None
    """Repository on the Hub from which the further weights are loaded if the user passes no file."""


SCORES = {
    "clip_score": Known("openai/clip-vit-large-patch14"),
    "pick_score": Known("yuvalkirstain/PickScore_v1"),
    "hpsv2": Known("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "HPS_v2.1_compressed.pt of xswu/HPSv2"),
    "mps": Known("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "MPS_overall_checkpoint.pth of Kwai-Kolors/MPS"),
    "image_reward": Known("google-bert/bert-base-uncased", "ImageReward.pt", default_weights="THUDM/ImageReward"),
    "aesthetic": Known(
        "openai/clip-vit-large-patch14",
        "sac+logos+ava1-l14-linearMSE.pth of LAION's improved aesthetic predictor",
        for_texts=False,
    ),
}


def check_scores(names: Sequence[str], models: Mapping[str, str], weights: Mapping[str, str]) -> None:
    """Before anything is loaded, reject unknown scores, and scores with missing or superfluous weights."""
    for name in names:
        if name not in SCORES:
            raise ValueError(f"--scores must be among {', '.join(SCORES)}, got {name}")
        if SCORES[name].weights is not None and SCORES[name].default_weights is None and name not in weights:
            raise ValueError(f"{name} needs a file of weights: --weights {name}=FILE, {SCORES[name].weights}")
    for option, given in (("models", models), ("weights", weights)):
        for name in given:
            if name not in names:
                raise ValueError(f"--{option} {name}=...: the scores are {', '.join(names)}")
    if wrong := [name for name in weights if SCORES[name].weights is None]:
        raise ValueError(f"--weights {wrong[0]}=...: {wrong[0]} has no further weights; give --models {wrong[0]}=...")


def build_score(name: str, models: Mapping[str, str], weights: Mapping[str, str], local_files_only: bool) -> nn.Module:
    """Load the model of a score."""
    model = models.get(name, SCORES[name].model)
    if name == "image_reward":
        return ImageReward(weights.get(name) or SCORES[name].default_weights or "", model, local_files_only)
    if name == "mps":
        return MPS(weights[name], model, local_files_only)
    if name == "aesthetic":
        return AestheticReward(model, weights[name], local_files_only)
    return CLIPReward(model, weights.get(name), local_files_only)


def listed_images(folder: Path) -> tuple[FolderImages, list[str | None] | None]:
    """List the images of a folder, with their prompts if the folder was written by `generate`."""
    if not (folder / TABLE).is_file():
        return FolderImages(folder), None
    names, prompts = read_image_table(folder / TABLE)
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder / absent[0]} does not exist, but {folder / TABLE} lists it")
    return FolderImages(folder, names), prompts


def read_image_table(path: Path) -> tuple[list[str], list[str | None]]:
    """Read the file names and prompts from a table that lists images."""
    import pyarrow
    import pyarrow.parquet

    check_is_file(path)
    try:
        file = pyarrow.parquet.ParquetFile(path)
        described = file.metadata
        check_unpacked(path, sum(described.row_group(each).total_byte_size for each in range(described.num_row_groups)))
        columns = file.read(["file", "prompt"])
        names, prompts = (columns.column(name).cast(pyarrow.string()).to_pylist() for name in ("file", "prompt"))
    except Exception as error:  # Arrow raises many types
        raise ValueError(
            f"{path} is not a table of images with the columns file and prompt: {sentence(error)}"
        ) from error
    if not names:
        raise ValueError(f"{path} lists no image")
    if wrong := [name for name in names if not name or Path(name).is_absolute() or ".." in Path(name).parts]:
        raise ValueError(f"{path} must list files in its folder, got {wrong[0]!r}")
    return names, prompts


def prompts_of(count: int, given: Sequence[str] | None, own: Sequence[str | None] | None) -> list[str]:
    """Return the prompt of each image.

    Args:
        count: number of images.
        given: prompts, or a file of prompts. If there are fewer prompts than images, each prompt belongs to several
            successive images, equally many for all prompts.
        own: prompts in the folder's table; None if the folder has no table.
    """
    if given is not None:
        texts = [prompt.caption for prompt in read_prompts(given, 1)]
        if count % len(texts):
            raise ValueError(f"{count} images cannot be divided equally among the {len(texts)} prompts of --prompts")
        return [text for text in texts for _ in range(count // len(texts))]
    found = [text for text in own or () if text is not None]
    if len(found) != count:
        raise ValueError(f"{count - len(found)} of {count} images have no prompt in {TABLE}: give --prompts")
    return found


def score_folder(
    folder: Path,
    scores: Mapping[str, nn.Module],
    prompts: Sequence[str] | None,
    batch_size: int,
    cache_dir: Path,
    device: torch.device,
) -> pd.DataFrame:
    """Score the images of a folder. Scores are cached, and an interrupted computation can be resumed.

    Args:
        folder: folder of images.
        scores: dict that maps the name of each score to its model.
        prompts: see `prompts_of`.
        batch_size: number of images that are scored as one batch.
        cache_dir: folder of the cache.
        device: device of the models.

    Returns:
        A table with one row for each image, with its file, prompt and scores.
    """
    at_least(1, batch_size=batch_size)
    images, own = listed_images(folder)
    needed = prompts is not None or any(SCORES[name].for_texts for name in scores)
    texts = prompts_of(len(images), prompts, own) if needed else [""] * len(images)
    known = [images.name_of(row) for row in range(len(images))]
    table = {"file": [Path(name).relative_to(folder).as_posix() for name in known], "prompt": texts}
    for name, model in scores.items():
        table[name] = cached_scores(name, model, images, texts, batch_size, cache_dir, device).tolist()
    return pd.DataFrame(table)


def cached_scores(
    name: str,
    model: nn.Module,
    images: FolderImages,
    texts: Sequence[str],
    batch_size: int,
    cache_dir: Path,
    device: torch.device,
) -> NDArray[Any]:
    """Return the scores of images, `[N]`, read from the cache or computed."""
    rows = batch_size * max(ROWS_PER_PART // batch_size, 1)
    parts = [range(start, min(start + rows, len(images))) for start in range(0, len(images), rows)]
    identity = {
        "score": name,
        "model": hash_of_module(model),
        "data": {"name": images.name, **images.identity},
        "prompts": list(texts) if SCORES[name].for_texts else [],
        "batch_size": batch_size,
    }
    model.to(device)

    def compute(numbers: list[int]) -> Parts:
        for number in numbers:
            part = parts[number]
            batches = [part[at : at + batch_size] for at in range(0, len(part), batch_size)]
            found = [scores_of(model, images, texts, batch, device) for batch in batches]
            yield number, np.concatenate(found)

    return cached_array(cache_dir, name, identity, len(parts), compute)


def scores_of(
    model: nn.Module, images: FolderImages, texts: Sequence[str], batch: range, device: torch.device
) -> NDArray[Any]:
    """Score a batch of images; images of different sizes are scored one by one."""
    read = images[batch]
    groups = [range(len(read))] if len({image.shape for image in read}) == 1 else [[at] for at in range(len(read))]
    found = []
    for group in groups:
        pixels = torch.stack([read[at] for at in group]).to(device).float() / 255
        found.append(model(pixels, [texts[batch[at]] for at in group]).double().cpu().numpy())
    return np.concatenate(found)
