import numpy as np
import pytest
import torch

from datamodules.classification.clustered import NUM_CLASSES, NUM_FEATURES, Clustered, Clusters
from datamodules.classification.labelled_images import LabelledImages
from datamodules.loading import Loading


def test_clusters_lie_where_they_are_said_to() -> None:
    line = Clusters(offset=2.0, rare_offset=-0.5, scale=0.0, seed=4)
    direction = line.common[0] / 2
    assert np.linalg.norm(direction) == pytest.approx(1)
    np.testing.assert_allclose(line.rare, np.tile(-direction / 2, (6, 1)))
    np.testing.assert_allclose(line.foreign, np.tile(-2 * direction, (6, 1)))
    clusters = Clusters(offset=2.0, rare_offset=-0.5, scale=1.0, seed=4)
    for kind, position in ((clusters.common, 2.0), (clusters.rare, -0.5), (clusters.foreign, -2.0)):
        np.testing.assert_allclose(kind @ direction, position)
    samples = clusters.draw(60000, 0, 0.25, np.random.default_rng(0))
    assert abs(samples.rare.mean() - 0.25) < 0.01
    for k in range(NUM_CLASSES):
        for rare, centre in ((False, clusters.common[k]), (True, clusters.rare[k])):
            own = samples.value[(samples.label == k) & (samples.rare == rare)]
            assert np.abs(own.mean(axis=0) - centre).max() < 0.15
            assert abs((own - centre).std() - 1) < 0.02


def test_clustered_data_know_their_foreign_samples_and_test_on_classes_alone() -> None:
    data = LabelledImages(Clustered(num_clean=90, num_foreign=60, num_test=36), loading=Loading(seed=2), batch_size=10)
    data.setup("fit")
    data.setup("test")
    assert (data.train_set.clean_label == -1).sum() == 60
    clean = data.train_set.clean_label >= 0
    assert torch.equal(data.train_set.label[clean], data.train_set.clean_label[clean])
    assert torch.bincount(data.test_set.label).tolist() == [6] * 6
    again = Clustered(num_clean=90, num_foreign=60, num_test=36).prepare(2, torch.device("cpu")).training()
    assert torch.equal(again.image, data.train_set.source.fetch(torch.arange(150), None))


@pytest.mark.parametrize("seed", [0, 5])
def test_centres_of_a_kind_are_equally_far_from_each_other_whatever_the_seed(seed: int) -> None:
    clusters = Clusters(offset=3.0, rare_offset=1.0, scale=0.5, seed=seed)
    centre = np.concatenate([clusters.common, clusters.rare, clusters.foreign])
    along = np.repeat([3.0, 1.0, -3.0], 6)
    squared = ((centre[:, None] - centre) ** 2).sum(axis=2)
    expected = (along[:, None] - along) ** 2 + 2 * 0.25 * NUM_FEATURES * (1 - np.eye(18))
    np.testing.assert_allclose(squared, expected, atol=1e-10)


def test_no_test_sample_is_a_training_sample() -> None:
    data = Clustered(num_clean=300, num_foreign=0, num_test=300)
    training, test = ({bytes(each.numpy()) for each in part.image} for part in (data.training(), data.test()))
    assert len(training) == len(test) == 300
    assert not training & test
