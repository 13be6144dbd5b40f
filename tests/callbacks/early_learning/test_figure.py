import pytest
import torch

from callbacks.early_learning.counts import ROWS
from callbacks.early_learning.figure import draw_early_learning
from callbacks.early_learning.history import CategoryHistory


@pytest.mark.parametrize("num_classes", [4, 30])
@pytest.mark.parametrize("with_truth", [False, True])
def test_there_is_a_panel_for_what_is_known(num_classes: int, with_truth: bool) -> None:
    history = CategoryHistory(num_classes)
    for epoch in range(6):
        counts = torch.full((1, ROWS, num_classes), 10) + torch.arange(num_classes)
        counts[:, 2] -= 6 - epoch
        counts[:, 3:] *= with_truth
        history.append(epoch, counts, cut=False)
    history.curves[:] = torch.tensor([0.8, 0.9, 2.0, 1.0, 5.0])
    history.ended_at[:] = 4
    figure = draw_early_learning(history, range(6), [f"class {k}" for k in range(num_classes)])
    assert len(figure.axes) == 1 + with_truth
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert ("class 0" in labels) == (num_classes == 4)
