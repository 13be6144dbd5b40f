"""Collected pairs are the same for any batch size and world size, after a kill, and rejected for other settings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_modules.diffusion.golden_noise.collection import FOLDER
from tests.diffusion.golden_noise.small import brightness, data, module
from tests.trainers import quiet
from tests.two_processes import in_two_processes


def predict(directory: Path, batch_size: int = 3, batches: float = 1.0, devices: int = 1, **more: Any) -> Any:
    strategy: dict[str, Any] = {"devices": devices, "strategy": "ddp"} if devices > 1 else {}
    trainer = quiet(default_root_dir=directory, limit_predict_batches=batches, precision="64-true", **strategy)
    return trainer.predict(module(**more), data(evaluation_batch_size=batch_size))


def pairs(directory: Path) -> dict[str, dict[str, NDArray[Any]]]:
    return {path.name: dict(np.load(path)) for path in sorted((directory / FOLDER).glob("*.npz"))}


def assert_equal(one: Path, other: Path) -> None:
    ours, theirs = pairs(one), pairs(other)
    assert ours.keys() == theirs.keys() != set()
    for name, arrays in ours.items():
        for key, array in arrays.items():
            if array.dtype.kind == "f":
                np.testing.assert_allclose(array, theirs[name][key], rtol=0, atol=1e-10)
    lists = [[json.loads(line) for line in (each / FOLDER / "scores.jsonl").open()] for each in (one, other)]
    assert [line["index"] for line in lists[0]] == [line["index"] for line in lists[1]]


def test_a_pair_is_the_noise_of_its_seed_moved_there_and_back_with_scores_of_both(tmp_path: Path) -> None:
    assert predict(tmp_path) == [[10, 11, 12], [13, 14, 15], [16]]
    found, method = pairs(tmp_path)["11_99.npz"], module().double()
    noise = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(99), dtype=torch.float64)[None]
    target = method.better(noise, ["b"])
    np.testing.assert_allclose(found["arr_0"], noise, rtol=0, atol=0)
    np.testing.assert_allclose(found["arr_1"], target, rtol=0, atol=1e-12)
    for key, each in (("original_score_list", noise), ("optimized_score_list", target)):
        np.testing.assert_allclose(found[key], brightness(method.images(each, ["b"]), ["b"]), rtol=0, atol=1e-12)
    line = json.loads((tmp_path / FOLDER / "scores.jsonl").read_text().splitlines()[1])
    assert (line["index"], line["seed"], line["caption"]) == (11, 99, "b")


def test_batches_do_not_count_and_a_killed_collection_continues(tmp_path: Path) -> None:
    predict(tmp_path / "whole")
    predict(tmp_path / "cut", batch_size=4, batches=1)
    kept = tmp_path / "cut" / FOLDER / "10_100.npz"
    written = kept.stat().st_mtime_ns
    assert predict(tmp_path / "cut", batch_size=2) == [[], [], [14, 15], [16]]
    assert kept.stat().st_mtime_ns == written
    assert_equal(tmp_path / "whole", tmp_path / "cut")


def test_two_processes_collect_what_one_does(tmp_path: Path) -> None:
    predict(tmp_path / "one")
    in_two_processes(predict, tmp_path / "two", 3, 1.0, 2)
    assert_equal(tmp_path / "one", tmp_path / "two")


def test_without_rewards_no_image_is_made_and_all_pairs_are_trained_on(tmp_path: Path) -> None:
    predict(tmp_path, rewards=None)
    assert pairs(tmp_path)["10_100.npz"]["original_score_list"].size == 0
    method, given = module(rewards=None), data(data_dir=str(tmp_path / FOLDER), margin=None)
    trainer = quiet(default_root_dir=tmp_path / "fit", max_epochs=1, precision="64-true")
    trainer.fit(method, given)
    assert trainer.global_step == 3
    with pytest.raises(ValueError, match="set margin to null to keep all pairs"):
        quiet(max_epochs=1).fit(method, data(data_dir=str(tmp_path / FOLDER)))
    with pytest.raises(ValueError, match=r"levels \[901, .*, and this run has \[951, .*: train on pairs of this model"):
        quiet(max_epochs=1).fit(module(rewards=None, pair_steps=20).double(), given)
