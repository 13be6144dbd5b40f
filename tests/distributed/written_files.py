"""Compare the files of two run directories by their content."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tests.conformance.runs import rows

LEFT = (".lock", "config.yaml", "checkpoints/*", "tensorboard/*", "certification_rows/*", "cache/*")
"""Files that are not compared: they depend on how a run was started, or belong to one process."""
DIGESTS = ("weights", "labels", "images")
"""Keys of settings whose values are hashes."""


def written(directory: Path) -> dict[str, Path]:
    """Find the files of a run, keyed by relative path."""
    found = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if not any(Path(name).match(pattern) for pattern in LEFT)}


def pixels(path: Path) -> np.ndarray:
    """Read an image file."""
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def content(path: Path) -> Any:
    """Read a file as numbers and text, according to its suffix."""
    match path.suffix:
        case ".csv":
            return [{key: value for key, value in row.items() if key not in DIGESTS} for row in rows(path)]
        case ".tsv":
            return pd.read_csv(path, sep="\t").drop(columns="time").to_dict("list")
        case ".json":
            return json.loads(path.read_text())
        case ".npz":
            with np.load(path) as arrays:
                return dict(arrays)
        case ".parquet":
            return pd.read_parquet(path).to_dict("list")
        case ".safetensors":
            return load_file(path)
        case ".png":
            return pixels(path)
        case ".yaml":
            return path.read_text().replace(str(path.parent), "")
        case _:
            return path.read_bytes()


def assert_close(one: Any, other: Any, where: str, accuracy: float) -> None:
    """Compare the results of `content`: numbers within a tolerance, everything else exactly."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_close(one[key], other[key], f"{where}: {key}", accuracy)
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for place, pair in enumerate(zip(one, other, strict=True)):
            assert_close(*pair, f"{where}[{place}]", accuracy)
    elif isinstance(one, np.ndarray) and one.dtype.kind in "fiu":
        assert one.shape == other.shape, where
        np.testing.assert_allclose(other, one, rtol=accuracy, atol=accuracy, err_msg=where)
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=accuracy, abs=accuracy, nan_ok=True), where
    else:
        assert np.array_equal(one, other), f"{where}: {one!r} and {other!r}"


def assert_same_files(one: Path, two: Path, accuracy: float, first_only: Sequence[str] = ()) -> None:
    """Compare all files of two runs.

    Args:
        one: directory of the first run.
        two: directory of the second run.
        accuracy: tolerance for numbers.
        first_only: patterns of files whose contents are not compared, only their number.
    """
    ours, theirs = written(two), written(one)
    for pattern in first_only:
        counts = {sum(Path(name).match(pattern) for name in each) for each in (ours, theirs)}
        assert len(counts) == 1, f"{pattern}: {counts} files"
        assert counts != {0}, f"no {pattern}"
        ours, theirs = (
            {name: path for name, path in each.items() if not Path(name).match(pattern)} for each in (ours, theirs)
        )
    assert ours.keys() == theirs.keys()
    for name, path in theirs.items():
        assert_close(content(path), content(ours[name]), name, accuracy)
