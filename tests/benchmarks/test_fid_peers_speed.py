"""Distances of generated images compared with torch-fidelity, pytorch-fid and clean-fid: statistics, and whole runs."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from callbacks.generation.statistics import frechet_distance, moment_sums, moments_of, subset_distances
from lightning_modules.networks.fid_inception import FIDInception, default_weights
from tests.benchmarks.pairs import cost, paired_ratio
from tests.benchmarks.peers import peer

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
CPU = torch.device("cpu")


def features(count: int, dimensions: int, seed: int) -> np.ndarray:
    """Draw positive, correlated numbers, like network features."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((count, dimensions), np.float32) + random.standard_normal((count, 1), np.float32)
    return np.abs(mixed) * (1 + seed / 10)


def test_kid_beside_torch_fidelity(report: Report) -> None:
    """Each uses 100 subsets of 1,000 images. The subsets differ, so the two KIDs agree only within their scatter."""
    kid, name = peer("torch_fidelity.metric_kid", "torch-fidelity")
    first, second = features(2000, 256, 0), features(2000, 256, 1)
    settings = {"kid_subsets": 100, "kid_subset_size": 1000, "verbose": False}

    def theirs() -> float:
        given = torch.from_numpy(first), torch.from_numpy(second)
        return kid.kid_features_to_metric(*given, **settings)["kernel_inception_distance_mean"]

    def ours() -> float:
        return float(subset_distances(first, second, 0, CPU).mean())

    assert ours() == pytest.approx(theirs(), abs=0.15)  # deviation: .29 of a subset, .04 of two means' gap
    ratio = paired_ratio(ours, theirs, 1, time.process_time)
    report(f"CPU time of KID, 100 subsets of 1,000 of 2 x 2,000 images, 256 features, over {name}", ratio, "<= 1")
    assert ratio <= 1


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return frechet_distance(*(moments_of(moment_sums(each, CPU), len(each)) for each in (first, second)))


def test_statistics_of_10000_images_beside_torch_fidelity(report: Report) -> None:
    """From the same features, both libraries compute mean, covariance and distance."""
    fid, name = peer("torch_fidelity.metric_fid", "torch-fidelity")
    first, second = features(10_000, 2048, 0), features(10_000, 2048, 1)

    def theirs() -> float:
        statistics = [fid.fid_features_to_statistics(torch.from_numpy(each)) for each in (first, second)]
        return fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]

    assert distance(first, second) == pytest.approx(theirs(), rel=1e-4)
    ratio = paired_ratio(lambda: distance(first, second), theirs, 1, time.process_time)
    report(f"CPU time of FID of the features of 2 x 10,000 images over {name}", ratio, "<= 1")
    assert ratio <= 1


def test_distance_beside_pytorch_fid(report: Report) -> None:
    score, name = peer("pytorch_fid.fid_score", "pytorch-fid")
    moments = [moments_of(moment_sums(features(3000, 1024, seed), CPU), 3000) for seed in (0, 1)]
    flat = [each.numpy() for moment in moments for each in moment[:2]]
    try:
        theirs = score.calculate_frechet_distance(*flat)
    except (TypeError, ValueError) as error:
        pytest.skip(f"{name} does not compute with the SciPy that is installed: {error}")
    assert frechet_distance(*moments) == pytest.approx(theirs, rel=1e-4)
    ratio = paired_ratio(
        lambda: frechet_distance(*moments), lambda: score.calculate_frechet_distance(*flat), 1, time.process_time
    )
    report(f"CPU time of the Frechet distance of 1,024 features, moments given, over {name}", ratio, "<= 1")
    assert ratio <= 1


def test_ten_times_the_images(report: Report) -> None:
    few, many = features(2000, 512, 0), features(20_000, 512, 0)
    ratio = paired_ratio(lambda: moment_sums(many, CPU), lambda: moment_sums(few, CPU), 5, time.process_time)
    report("growth: CPU time of the moments of 20,000 images against 2,000", ratio, "<= 11")
    assert ratio <= 11


def write_images(folder: Path, seed: int, count: int) -> Path:
    """Write 64 x 64 crops of two photographs."""
    folder.mkdir()
    random, photographs = np.random.default_rng(seed), load_sample_images().images
    for number in range(count):
        top, left = random.integers(0, 360), random.integers(0, 570)
        Image.fromarray(photographs[(number + seed) % 2][top : top + 64, left : left + 64]).save(
            folder / f"{number}.png"
        )
    return folder


TORCH_FIDELITY = """
import sys, torch, torch_fidelity
torch.set_num_threads(1)
print(torch_fidelity.calculate_metrics(input1=sys.argv[1], input2=sys.argv[2], cuda=False, fid=True, verbose=False,
    cache=False, num_workers=0, feature_extractor_weights_path=sys.argv[3])["frechet_inception_distance"])
"""


@pytest.mark.parametrize("count", [200, 1000])
def test_whole_runs_with_the_real_inception(report: Report, tmp_path: Path, count: int) -> None:
    """Each tool computes FID from image folders in a process with one thread; clean-fid uses different weights."""
    _, name = peer("torch_fidelity", "torch-fidelity")
    try:
        default_weights()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    folders = [str(write_images(tmp_path / f"images{seed}", seed, count)) for seed in (0, 1)]
    network = FIDInception()
    network.read()
    classifier = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}  # FID does not use it
    torch.save(network.network.state_dict() | classifier, tmp_path / "weights.pth")
    theirs = cost("-c", TORCH_FIDELITY, *folders, str(tmp_path / "weights.pth"))
    options = ("--resize", "legacy", "--cache_dir", str(tmp_path / "cache"), "--device", "cpu")
    ours = cost("train.py", "fid", *folders, *options)
    found = re.search(r"^fid\S* ([\d.]+)$", ours.printed, re.MULTILINE | re.IGNORECASE)
    assert found, ours.printed
    assert float(found[1]) == pytest.approx(float(theirs.printed.split()[-1]), rel=1e-3)
    run = f"FID of 2 x {count:,} images of 64 x 64 with the real Inception, imports and all, over {name}"
    report(f"CPU time of {run}", ours.seconds / theirs.seconds, "<= 1.05")
    report(f"peak memory of {run}", ours.kib / theirs.kib, "<= 1.05")
    assert max(ours.seconds / theirs.seconds, ours.kib / theirs.kib) <= 1.05
