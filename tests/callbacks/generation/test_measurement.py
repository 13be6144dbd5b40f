"""Files of statistics, and combinations that must not be compared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.generation.extraction import ALONE, INCEPTION
from callbacks.generation.measurement import compute_moments, generation_metrics, read_statistics, write_statistics

FEATURE = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
FITTING = {"mu": np.zeros(8), "sigma": np.eye(8)}
OTHER = '{"name": "resnet18", "digest": "b", "resize": null}'
IDENTITY: dict[str, Any] = {"name": INCEPTION, "digest": "a", "resize": "legacy"}


def test_statistics_are_kept_and_read_again(tmp_path: Path) -> None:
    first = compute_moments("first", FEATURE, IDENTITY, ALONE, tmp_path / "first.npz")
    kept = read_statistics(tmp_path / "first.npz")
    assert (kept.extractor, kept.moments.images, kept.feature) == (IDENTITY, 300, None)
    torch.testing.assert_close(kept.moments.covariance, first.moments.covariance)
    np.testing.assert_allclose(first.moments.covariance, np.cov(FEATURE, rowvar=False), atol=1e-6)
    (again := np.zeros_like(FEATURE))[:] = FEATURE
    found = compute_moments("again", again, IDENTITY, ALONE, tmp_path / "first.npz")
    assert found.name == "again"
    assert found.feature is again


def test_statistics_and_features_of_other_projects_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "moments.npz", mu=FEATURE.mean(axis=0), sigma=np.cov(FEATURE, rowvar=False))
    np.savez(tmp_path / "features.npz", pool_3=FEATURE)
    moments, features = (read_statistics(tmp_path / f"{name}.npz") for name in ("moments", "features"))
    result = generation_metrics(moments, features)
    assert result == pytest.approx({"fid": 0.0}, abs=1e-6)
    other = read_statistics(tmp_path / "features.npz")
    assert generation_metrics(features, other).keys() == {"fid", "kid"}


def test_few_images_are_warned_of_and_named() -> None:
    few, many = (compute_moments(str(n), FEATURE[:n], IDENTITY, ALONE, None) for n in (8, 300))
    with pytest.warns(UserWarning, match="fid of 8 images and 8 features uses a singular covariance"):
        assert "fid_n8" in generation_metrics(few, many)
    enough = compute_moments("9", FEATURE[:9], IDENTITY, ALONE, None)
    assert "fid" in generation_metrics(enough, many)


def test_inception_score_is_of_the_generated_images_where_there_is_a_classifier() -> None:
    both = compute_moments("both", FEATURE, IDENTITY, ALONE, None)
    log_probability = torch.from_numpy(FEATURE).double().log_softmax(dim=1)
    probability = log_probability.exp()
    divergence = (probability * (log_probability - probability.mean(dim=0).log())).sum(dim=1).mean()
    assert generation_metrics(both, both, torch.eye(8))["is"] == pytest.approx(float(divergence.exp()), rel=1e-9)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"mu": np.zeros(8), "sigma": np.eye(8), "extractor": OTHER}, "measured with the extractor"),
        ({"mu": np.zeros(9), "sigma": np.eye(9)}, "first has 8 features and .*given.npz has 9"),
        ({"mu": np.zeros(8), "sigma": np.eye(7)}, r"mu \[8\] and sigma \[7, 7\] must be"),
        ({"mean": np.zeros(8)}, "lacks mu, sigma, or features as pool_3; it has 'mean'"),
        ({"pool_3": np.zeros((1, 8))}, "a covariance needs at least 2 images, got 1"),
        (b"nothing", "damaged or not an .npz file"),
        ({**FITTING, "mu": np.full(8, np.nan)}, r"given\.npz: mu must be finite real numbers, got nan"),
        ({**FITTING, "mu": np.full(8, 1 + 1j)}, "mu must be finite real numbers, got complex128"),
        ({**FITTING, "mu": np.array(["1"] * 8)}, "mu must be finite real numbers, got <U1"),
        (
            {**FITTING, "mu": np.array([{}] * 8)},
            "damaged or not an .npz file of numbers or text: 'mu': it is of type obj",
        ),
        ({**FITTING, "sigma": np.full((8, 8), np.nan)}, "sigma must be finite real numbers, got nan"),
        ({**FITTING, "sigma": np.triu(np.ones((8, 8)))}, "sigma must be a covariance: symmetric"),
        ({**FITTING, "sigma": -np.eye(8)}, "sigma must be a covariance: symmetric, with a nonnegative diagonal"),
        ({**FITTING, "count": -5}, "count must be a whole number of at least 2, or 0 if unknown, got -5"),
        ({**FITTING, "count": 2.5}, "count must be a whole number .* got 2.5"),
        ({**FITTING, "count": [3, 4]}, r"count must be a whole number .* got \[3 4\]"),
        ({**FITTING, "extractor": "{"}, "extractor must be null or a JSON object with name, digest and resize"),
        ({**FITTING, "extractor": "[" * 9999}, "extractor must be null or a JSON object with name, digest and resize"),
        ({**FITTING, "extractor": '{"name": 3}'}, "extractor must be null or a JSON object with name, digest"),
        ({"pool_3": np.full((3, 8), np.nan)}, "pool_3 must be finite real numbers, got nan"),
        ({"pool_3": np.array(1.0)}, r"pool_3 must be \[N, D\] or \[N, D, 1, 1\], got \[\]"),
    ],
)
def test_refusals(tmp_path: Path, content: Any, error: str) -> None:
    file = tmp_path / "given.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.savez(file, **content)
    with pytest.raises(ValueError, match=error) as caught:
        generation_metrics(compute_moments("first", FEATURE, IDENTITY, ALONE, None), read_statistics(file))
    assert "given.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_writing_leaves_no_half_file(tmp_path: Path) -> None:
    write_statistics(tmp_path / "first.npz", compute_moments("first", FEATURE, IDENTITY, ALONE, None))
    assert [path.name for path in tmp_path.iterdir()] == ["first.npz"]
