"""Read and write noise pairs on disk, in the file layout of Golden Noise.

A pair is a file `<index>_<seed>.npz` with three arrays. `arr_0` is the noise, `[1, c, h, w]`. `arr_1` is the better
noise, `[1, c, h, w]`. `arr_2` is the index. A JSON-lines file has the keys `caption`, `seed`, `original_score_list` and
`optimized_score_list` for each index. The two lists have the scores of the images that are generated from the noise and
from the better noise, respectively. Only the first score of each list is compared. Each pair file that this project
writes also contains the values of its line in the JSON-lines file. This project assembles the JSON-lines file from
these pair files.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.files.array_files import read_npz
from datamodules.files.limits import to_int64
from datamodules.files.whole_files import DamagedFile, whole_file, write_text
from datamodules.prompts.text_tables import entries

SCORES = "scores.jsonl"
SCORE_LISTS = ("original_score_list", "optimized_score_list")


class StoredPair(NamedTuple):
    """The file and the caption of a noise pair."""

    path: Path
    caption: str


def pair_file(folder: Path, index: int, seed: int) -> Path:
    """Return the path of a pair's file."""
    return folder / f"{index}_{seed}.npz"


def write_pair(
    path: Path, source: Tensor, target: Tensor, caption: str, before: list[float], after: list[float]
) -> None:
    """Write a pair atomically.

    Args:
        path: see `pair_file`.
        source: original noise, `[c, h, w]`.
        target: better noise, `[c, h, w]`.
        caption: prompt for which `target` is better than `source`.
        before: scores of the image generated from `source`.
        after: scores of the image generated from `target`.
    """
    index, seed = map(int, path.stem.split("_"))
    lists: dict[str, Any] = {"original_score_list": before, "optimized_score_list": after}
    arrays = [each[None].cpu().numpy() for each in (source, target)]
    with whole_file(path) as partial:
        np.savez(partial, *arrays, np.array(index), seed=seed, caption=np.array(caption), **lists)


def caption_in(path: Path) -> str | None:
    """Read the prompt of a noise pair from its file, or return None if the file has no prompt.

    Raises:
        DamagedFile: if the file is damaged.
    """
    try:
        arrays = read_npz(path, optional=("caption",))
    except ValueError as error:
        raise DamagedFile(str(error)) from error
    return str(arrays["caption"]) if "caption" in arrays else None


def write_scores(folder: Path) -> None:
    """Assemble the JSON-lines file from the pairs in a folder, in the order of their indices."""
    lines = []
    for path in sorted(folder.glob("*.npz"), key=_index_of):
        arrays = read_npz(path, ("arr_2", "seed", "caption", *SCORE_LISTS))
        index, seed = (to_int64(arrays[key], 0, 2**63 - 1, path, key).item() for key in ("arr_2", "seed"))
        line = {"index": index, "seed": seed, "caption": str(arrays["caption"])}
        lists = {key: arrays[key].tolist() for key in SCORE_LISTS}
        lines.append(json.dumps(line | lists, ensure_ascii=False))
    write_text(folder / SCORES, "".join(f"{line}\n" for line in lines))


def kept_pairs(folder: Path, scores: Path, margin: float | None) -> list[StoredPair]:
    """Select the pairs with s' > s + margin, where s and s' are the scores of the noise and of the better noise.

    Args:
        folder: folder that contains the pairs, directly or in subfolders.
        scores: JSON-lines file with the scores.
        margin: gain in score that a kept pair must exceed. None keeps all pairs.
    """
    if not scores.is_file():
        raise FileNotFoundError(f"no scores of the pairs at {scores}: expected JSON lines with index and caption")
    known: dict[int, tuple[str, dict[str, Any]]] = {}
    for place, entry in entries(scores):
        if not isinstance(entry.get("index"), int) or not isinstance(entry.get("caption"), str):
            raise ValueError(f"{place}: expected index and caption, got {', '.join(entry) or 'nothing'}")
        known[entry["index"]] = place, entry
    paths = sorted(folder.rglob("*.npz"), key=_index_of)
    if not paths:
        raise FileNotFoundError(f"no noise pairs in {folder}: expected <index>.npz or <index>_<seed>.npz")
    kept = []
    for path in paths:
        if _index_of(path) not in known:
            raise ValueError(f"{path} has no line in {scores}")
        place, entry = known[_index_of(path)]
        if margin is None or _better(entry, place, margin):
            kept.append(StoredPair(path, entry["caption"]))
    if not kept:
        raise ValueError(
            f"none of {len(paths)} pairs in {folder} improves the score by more than the margin, {margin}: nothing is "
            f"left to train on; decrease margin, or set it to null"
        )
    return kept


def _index_of(path: Path) -> int:
    index = path.stem.split("_")[0]
    if not index.isdecimal():
        raise ValueError(f"{path} is not a noise pair: expected <index>.npz or <index>_<seed>.npz")
    return int(index)


def _better(entry: dict[str, Any], place: str, margin: float) -> bool:
    try:
        before, after = (float(entry[key][0]) for key in SCORE_LISTS)
        if not math.isfinite(before - after):
            raise ValueError("a score is not finite")
    except (LookupError, TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{place} lacks a score in original_score_list or optimized_score_list: set margin to null to keep all "
            f"pairs"
        ) from None
    return after > before + margin


def read_pair(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read the original noise and the better noise of a pair, each `[c, h, w]`."""
    arrays = read_npz(path, optional=("arr_0", "arr_1"))
    if len(arrays) < 2:
        raise ValueError(f"{path} is not a noise pair: it lacks arr_0 or arr_1")
    source, target = arrays["arr_0"], arrays["arr_1"]
    if any(array.dtype.kind != "f" or not np.isfinite(array).all() for array in (source, target)):
        raise ValueError(f"{path} is not a noise pair: arr_0 or arr_1 has a value that is not finite")
    if source.shape != target.shape or source.ndim not in (3, 4) or (source.ndim == 4 and len(source) != 1):
        raise ValueError(f"{path} must contain two arrays [c, h, w], got {list(source.shape)} and {list(target.shape)}")
    return source.reshape(source.shape[-3:]), target.reshape(source.shape[-3:])
