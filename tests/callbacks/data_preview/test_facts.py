"""Facts about recorded batches, with expectations that are computed by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.data_preview.facts import count_classes, describe_keys, measure_noise
from callbacks.data_preview.recorded import RecordedSplit
from datamodules.corruptions.image_noise import Gaussian
from datamodules.corruptions.operators import AverageDownsampling


def split(*batches: dict[str, Any], dataset: Any = None) -> RecordedSplit:
    return RecordedSplit("training", list(batches), dataset)


class OneWay:
    """Label noise that changes half of the labels 0 to 1, and no others."""

    noise_rate = 0.5

    def transition_matrix(self, num_classes: int) -> Tensor:
        return torch.tensor([[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)


LABEL, TRUE = torch.tensor([0, 1, 1, 2, 1, 0]), torch.tensor([0, 0, 1, 2, -1, -2])
NOISY_LABELS = SimpleNamespace(label_noise=OneWay(), num_classes=3)


@pytest.mark.parametrize("stored", [True, False])
def test_the_stated_rate_of_wrong_labels_is_that_of_the_counts_of_true_classes(stored: bool) -> None:
    """Of four known labels, one is wrong. Two of them have class 0, whose labels stay with probability 1/2."""
    read = {"label": LABEL, "clean_label": TRUE}
    dataset = SimpleNamespace(**read) if stored else None
    batch = {"label": LABEL[:2], "clean_label": TRUE[:2]} if stored else read
    assert measure_noise(split(batch, dataset=dataset), NOISY_LABELS) == [
        ["wrong labels", "0.2500, OneWay()", "0.2500 of 4 samples"],
        ["out of distribution", "", "0.1667 of 6 samples"],
    ]
    rows, what = count_classes(split(batch, dataset=dataset), ["cat", "dog", "fox"])
    assert rows == [
        ["unverified", "0", "1"],
        ["out of distribution", "0", "1"],
        ["cat", "2", "2"],
        ["dog", "3", "1"],
        ["fox", "1", "1"],
    ]
    assert what == ("all 6 samples" if stored else "the 6 samples read")


def test_recorded_label_noise_without_a_matrix_is_named() -> None:
    class Recorded(OneWay):
        def transition_matrix(self, num_classes: int) -> Tensor:
            raise ValueError

    data = SimpleNamespace(label_noise=Recorded(), num_classes=3)
    assert measure_noise(split({"label": LABEL, "clean_label": TRUE}), data)[0][1] == "Recorded()"


def test_pixels_are_counted_without_the_ignored_ones() -> None:
    label, true = torch.tensor([[[0, 1], [255, 1]]]), torch.tensor([[[0, 0], [1, 255]]])
    read = split({"label": label, "clean_label": true})
    assert measure_noise(read, None) == [["wrong labels", "", "0.5000 of 2 pixels"]]
    assert count_classes(read, None) == ([["0", "1", "2"], ["1", "2", "1"]], "pixels of the 1 samples read")


def test_image_noise_is_measured_over_images_of_all_sizes() -> None:
    """The errors are 0.1, -0.1, 0.1 and infinity: mean 1/30, variance 0.01 - 1/900. The signal's mean square is 1."""
    small = {"noisy": torch.tensor([[[[1.1, 0.9]]]]), "clean": torch.ones(1, 1, 1, 2)}
    other = {"noisy": torch.tensor([[[[1.1], [torch.inf]]]]), "clean": torch.ones(1, 1, 2, 1)}
    data = SimpleNamespace(noise=Gaussian(25.5))
    assert measure_noise(split(small, other), data) == [
        ["noisy - clean", "std 0.1, Gaussian(grey_levels=25.5)", "std 0.09428, mean 0.033, SNR 20.0 dB, 1 not finite"]
    ]
    ranged = SimpleNamespace(noise=Gaussian((5.0, 50.0)))
    assert measure_noise(split(small), ranged)[0][1] == "Gaussian(grey_levels=(5.0, 50.0))"


def test_noise_of_measurements_is_what_the_operator_does_not_explain() -> None:
    """Means of blocks of x = 2 image - 1 = 0 are 0; the noise of std 0.1 in [0, 1] has std 0.2 in the range of x."""
    batch = {
        "clean": torch.full((1, 1, 2, 4), 0.5),
        "measured": torch.tensor([[[[0.2, -0.2]]]]),
        "index": torch.arange(1),
    }
    (row,) = measure_noise(split(batch), SimpleNamespace(operator=AverageDownsampling(2), sigma=0.1))
    assert row[1].startswith("std 0.2, AverageDownsampling(")
    assert row[2].startswith("std 0.2, mean 0,")


def test_targets_that_are_signs_are_wrong_or_right() -> None:
    signs = {"target": torch.tensor([1.0, -1, 1, 1]), "clean_target": torch.tensor([1.0, 1, 1, -1])}
    assert measure_noise(split(signs), None) == [["wrong targets", "", "0.5000 of 4 samples"]]
    values = {"target": torch.tensor([1.0, 3]), "clean_target": torch.tensor([1.0, 1])}
    assert measure_noise(split(values), None) == [["target - clean_target", "", "std 1, mean 1, SNR -3.0 dB"]]


def test_noise_of_the_nodes_of_a_graph_is_what_the_parents_do_not_explain() -> None:
    """Node 1 is twice node 0 plus z with values 1, -1, 0, whose standard deviation is 1; so is that of node 0."""
    features = torch.tensor([[1.0, 3.0], [-1.0, -3.0], [0.0, 0.0]])
    batch = {"features": features, "w_true": torch.tensor([[0.0, 2.0], [0.0, 0.0]]), "noise_std": torch.ones(2)}
    assert measure_noise(split(batch), None) == [["std of the nodes' noise", "1 ... 1", "1 ... 1"]]


def test_keys_are_listed_with_their_shapes_and_ranges() -> None:
    batches = [
        {"image": torch.tensor([[0.0, 1.0]]), "name": ["a"], "rate": 8},
        {"image": torch.tensor([[torch.nan, 2.0]])},
    ]
    assert describe_keys(split(*batches)) == [
        ["image", "[1, 2]", "float32", "0 ... 2 (1 not finite)", "1", "0.8165"],
        ["name", "list of 1", "list", "a", "", ""],
        ["rate", "", "int", "8", "", ""],
    ]
