from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from callbacks.labels import find as finding
from callbacks.labels import find_label_errors
from callbacks.labels.cleaning import with_actions, wrong_fraction
from callbacks.labels.measures import label_score
from datamodules.classification.digits import Digits


class NearestMean(nn.Module):
    """Classifies by the nearest class mean; dropout at the output would reveal that it is in training mode."""

    mean: Tensor

    def __init__(self, image: Tensor, label: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", torch.stack([image[label == k].flatten(1).mean(dim=0) for k in range(10)]))
        self.dropout = nn.Dropout(0.5)

    def forward(self, image: Tensor) -> Tensor:
        assert len(image) <= 100
        return self.dropout(-4 * torch.cdist(image.flatten(1), self.mean).square())


def digits() -> tuple[Tensor, Tensor]:
    source = Digits().training()
    return source.image.float() / source.data_range, source.label


def test_the_changed_labels_are_found() -> None:
    image, true = digits()
    given = true.clone()
    given[::10] = (given[::10] + 3) % 10
    network = NearestMean(image, true)
    table = find_label_errors(network, image, given, batch_size=100)
    assert network.training
    assert list(table) == [
        *("index", "given", "proposed", "probability_given", "probability_proposed", "score", "suspected"),
        *("action", "label", "confidence"),
    ]
    assert table["score"].is_monotonic_increasing
    with torch.no_grad():
        probability = (-4 * torch.cdist(image.flatten(1), network.mean).square()).double().softmax(dim=1)
    ordered = table.sort_values("index", ignore_index=True)
    np.testing.assert_allclose(ordered["score"], label_score(probability, given), rtol=0, atol=1e-6)
    assert ordered["given"].tolist() == given.tolist()
    wrong = ordered["given"] != true.numpy()
    assert ordered["suspected"][wrong].mean() > 0.9
    assert (ordered["label"] == true.numpy())[ordered["action"] != "drop"].mean() > 0.93 > 1 - wrong.mean()
    assert table.attrs == wrong_fraction(table)
    pd.testing.assert_frame_equal(with_actions(table), table)
    for same in (probability, probability.numpy()):
        again = find_label_errors(same, None, given.numpy()).sort_values("index", ignore_index=True)
        pd.testing.assert_frame_equal(again, ordered, rtol=0, atol=1e-6)


def test_a_name_is_a_network_of_timm_with_the_classes_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def network(*arguments: Any, **options: Any) -> nn.Module:
        asked.extend((arguments, options))
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(1000))

    monkeypatch.setattr(finding, "timm_model", network)
    table = find_label_errors("resnet18.a1_in1k", torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 999]))
    assert asked == [("resnet18.a1_in1k", 1000), {"pretrained": True}]
    assert len(table) == 4
    monkeypatch.undo()
    with pytest.raises(ValueError, match="no_network"):
        find_label_errors("no_network", torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
