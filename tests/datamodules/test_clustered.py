import numpy as np
import pytest
import torch

from datamodules.classification.clustered import NUM_FEATURES, Clustered, Clusters


@pytest.mark.parametrize("seed", [0, 5])
def test_centres_of_a_kind_are_equally_far_from_each_other_whatever_the_seed(seed: int) -> None:
    clusters = Clusters(offset=3.0, rare_offset=1.0, scale=0.5, seed=seed)
    centre = np.concatenate([clusters.common, clusters.rare, clusters.foreign])
    along = np.repeat([3.0, 1.0, -3.0], 6)
    squared = ((centre[:, None] - centre) ** 2).sum(axis=2)
    expected = (along[:, None] - along) ** 2 + 2 * 0.25 * NUM_FEATURES * (1 - np.eye(18))
    np.testing.assert_allclose(squared, expected, atol=1e-10)


def test_a_hyperplane_parts_samples_of_no_class_from_all_others_by_default() -> None:
    data = Clustered().prepared(1, torch.device("cpu"))
    samples = data.drawn("train")
    clusters = Clusters(data.offset, data.rare_offset, data.scale, 1)
    direction = (clusters.common - clusters.foreign).sum(axis=0)
    position = samples.value @ direction / np.linalg.norm(direction)
    centre = (clusters.rare.mean(axis=0) + clusters.foreign.mean(axis=0)) / 2 @ direction / np.linalg.norm(direction)
    assert ((position < centre) == samples.foreign).mean() > 0.97
