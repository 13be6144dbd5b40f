from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from callbacks.labels import find_label_errors
from tests.rejections import Row, rejections

TWO = np.array([[0.9, 0.1], [0.4, 0.6]])


IMAGES = torch.rand(2, 1, 8, 8)


# fmt: off
REJECTED: list[Row] = [
    ("find_label_errors 2", lambda _: find_label_errors(TWO, None, np.array([0.0, 1.0])), ValueError,
     "labels must be one integer per sample, got float64"),
    ("find_label_errors 3", lambda _: find_label_errors(TWO, None, np.array([])), ValueError,
     "labels must have at least one entry, got none"),
    ("find_label_errors 4", lambda _: find_label_errors(TWO, None, np.array([0])), ValueError,
     r"probabilities must be \[1, K\], one row per label, got \[2, 2\]"),
    ("find_label_errors 5", lambda _: find_label_errors(TWO[:, 0], None, np.array([0, 1])), ValueError,
     r"probabilities must be \[2, K\], one row per label, got \[2\]"),
    ("find_label_errors 6", lambda _: find_label_errors(TWO[:, :1], None, np.array([0, 0])), ValueError,
     "must sum to 1"),
    ("find_label_errors 7", lambda _: find_label_errors(np.log(TWO), None, np.array([0, 1])), ValueError,
     "must be nonnegative, and each row must sum to 1; apply softmax"),
    ("find_label_errors 8", lambda _: find_label_errors((TWO * np.nan), None, np.array([0, 1])), ValueError,
     "must be nonnegative"),
    ("find_label_errors 9", lambda _: find_label_errors(nn.Flatten(), None, np.array([0, 1])), ValueError,
     "there must be one image for each of the 2 labels, got None"),
    ("find_label_errors 10", lambda _: find_label_errors(nn.Flatten(), IMAGES, np.array([0, 1, 1])), ValueError,
     "there must be one image for each of the 3 labels, got 2 images"),
    ("find_label_errors 11", lambda _: find_label_errors(nn.Flatten(), (255 * IMAGES).byte(), np.array([0, 1])),
     ValueError, r"floating-point numbers in \[0, 1\], got torch.uint8 in \["),
    ("find_label_errors 12", lambda _: find_label_errors(nn.Flatten(), (IMAGES + 1), np.array([0, 1])), ValueError,
     r"floating-point numbers in \[0, 1\], got torch.float32 in \[1"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
