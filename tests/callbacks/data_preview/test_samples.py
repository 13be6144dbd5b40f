from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.data_preview.samples import as_batch, class_name, count_rows, row_values

IMAGE = torch.rand(3, 8, 8)
GREY = Image.new("L", (6, 4), 255)
ONE_IMAGE = {"image": [1, 3, 8, 8], "label": [1]}


@pytest.mark.parametrize(
    ("sample", "shapes"),
    [
        ((IMAGE, 3), ONE_IMAGE),
        ({"image": IMAGE, "label": torch.tensor(3)}, ONE_IMAGE),
        ((GREY, 3), {"image": [1, 1, 4, 6], "label": [1]}),
        (IMAGE[None], {"image": [1, 3, 8, 8]}),
        ([torch.rand(4, 3, 8, 8), torch.arange(4)], {"image": [4, 3, 8, 8], "label": [4]}),
        ((torch.rand(4, 7), torch.arange(4)), {"features": [4, 7], "label": [4]}),
        ((torch.rand(4, 7), torch.rand(4, 2), torch.rand(4)), {"0": [4, 7], "1": [4, 2], "2": [4]}),
        ({"a": {"b": np.zeros((4, 2))}, "index": torch.arange(4)}, {"a.b": [4, 2], "index": [4]}),
        ({"noisy": torch.rand(16), "index": torch.tensor(2)}, {"noisy": [1, 16], "index": [1]}),
    ],
)
def test_samples_and_batches_of_any_kind_become_dicts(sample: Any, shapes: dict[str, list[int]]) -> None:
    assert {key: list(value.shape) for key, value in as_batch(sample).items()} == shapes


def test_rows_are_counted_by_the_values_that_are_not_shared() -> None:
    batch = as_batch({"w_true": torch.rand(3, 3), "features": torch.rand(5, 3), "label": torch.arange(5)})
    assert count_rows(batch) == 5
    assert {*row_values(batch)} == {"features", "label"}
    assert count_rows({"caption": ["a", "b"]}) == 2
    assert count_rows({}) == 0


def test_original_labels_that_were_never_corrected_are_no_second_label() -> None:
    label = torch.tensor([1, 2])
    assert {*row_values({"label": label, "original_label": label.clone()})} == {"label"}
    assert {*row_values({"label": label, "original_label": label + 1})} == {"label", "original_label"}


def test_a_label_without_a_name_is_shown_as_its_number() -> None:
    assert [class_name(k, ["cat"]) for k in (0, 1, -1, -2)] == ["cat", "1", "out of distribution", "unverified"]
