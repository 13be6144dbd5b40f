"""What is drawn for each kind of batch; figures are inspected without rendering them."""

from typing import Any

import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from callbacks.data_preview import plot
from callbacks.data_preview.plot import image_columns


def texts(figure: Figure) -> list[str]:
    """Return the labels, titles and texts of all panels."""
    found = []
    for panel in figure.axes:
        found += [panel.get_xlabel(), panel.get_ylabel(), panel.get_title(), *(each.get_text() for each in panel.texts)]
    return [each for each in found if each]


def test_a_wrong_label_is_red_and_followed_by_the_true_label() -> None:
    batch = {
        "image": torch.rand(4, 1, 8, 8),
        "label": torch.tensor([0, 1, 1, 0]),
        "clean_label": torch.tensor([0, 0, -1, -2]),
    }
    panels = plot(batch, ["cat", "dog"]).axes
    said = [panel.get_xlabel() for panel in panels]
    assert said == ["cat", "dog (true: cat)", "dog (true: out of\ndistribution)", "cat"]
    red = [to_rgb(panel.xaxis.label.get_color()) != (0, 0, 0) for panel in panels]
    assert red == [False, True, True, False]


def test_masks_of_a_batch_are_overlaid_on_its_images() -> None:
    mask = torch.zeros(2, 6, 6, dtype=torch.long)
    mask[:, 2:4, 2:4] = 1
    figure = plot({"image": torch.rand(2, 3, 6, 6), "label": mask, "clean_label": mask * 7}, ["nothing", "tumour"])
    assert [panel.get_ylabel() for panel in figure.axes] == ["image", "", "label", "", "clean_label", ""]
    assert [len(panel.images) for panel in figure.axes] == [1, 1, 2, 2, 2, 2]
    assert plot({"image": torch.rand(1, 1, 6, 6), "label": mask[:1] * 300}).axes  # instances, more than 255


def test_noisy_images_are_clipped_and_unknown_images_are_rescaled() -> None:
    noisy, unknown = torch.tensor([[[[-1.0, 0.5, 3.0]]]]), torch.tensor([[[[-1.0, 1.0, 3.0]]]])
    columns = image_columns({"clean": noisy.clamp(0, 1), "noisy": noisy, "feature": unknown}, None)
    assert {*columns} == {"clean", "noisy", "feature\n-1 ... 3"}
    assert columns["noisy"].values.flatten().tolist() == noisy.flatten().tolist()
    assert columns["feature\n-1 ... 3"].values.flatten().tolist() == pytest.approx([0, 0.5, 1])


def test_clips_are_strips_of_four_frames_and_channels_may_be_last() -> None:
    clip = torch.arange(7.0).div(8)[None, :, None, None, None].expand(1, 7, 1, 2, 2)
    columns = image_columns({"noisy": clip, "photograph": torch.zeros(1, 4, 5, 3, dtype=torch.uint8)}, None)
    assert columns["noisy"].values[0, 0, 0].mul(8).tolist() == [0, 0, 2, 2, 4, 4, 6, 6]
    assert list(columns["photograph"].values.shape) == [1, 3, 4, 5]


def test_a_normal_map_is_shown_by_its_usual_colours() -> None:
    normal = torch.tensor([-1.0, 0.0, 1.0])[None, :, None, None]
    assert image_columns({"normal": normal}, None)["normal"].values.flatten().tolist() == pytest.approx([0, 0.5, 1])


KINDS: list[tuple[Any, set[str]]] = [
    ({"noisy": torch.randn(2, 400), "clean": torch.randn(2, 400), "sample_rate": 100}, {"#0, noisy", "#1, clean"}),
    ({"features": torch.randn(9, 20), "w_true": torch.eye(20)}, {"first 8 rows", "w_true", "features [20]"}),
    ({"features": torch.tensor([[0.25, 2.0], [1.0, 3.0]])}, {"0.25", "features, 2 rows"}),
    ({"observed": torch.randn(2, 7, 1), "interval": 0.5}, {"observed", "time"}),
    (
        {"caption": ["a red fox", "a blue bird"], "seed": torch.tensor([3, 4])},
        {"seed 3\na red fox\n\nseed 4\na blue bird"},
    ),
    ({"caption": ["a red fox"]}, {"a red fox"}),
    ({"scan": torch.randn(3, 300), "dose": torch.rand(3)}, {"scan", "position"}),
    ({"image": torch.rand(1, 3, 4, 4), "caption": ["a fox in the snow"]}, {"a fox in the snow"}),
    ((torch.rand(2, 1, 4, 4), torch.tensor([5, 6])), {"5", "6"}),
    ({"image": torch.rand(0, 3, 4, 4), "label": torch.zeros(0)}, {"no sample"}),
    ({}, {"no sample"}),
    ([{"boxes": torch.rand(2, 4)}, {"boxes": torch.rand(3, 4)}], {"#0\n\n#1"}),
    ([{"image": torch.rand(1, 4, 4), "label": 6}, {"image": torch.rand(1, 4, 4), "label": 7}], {"6", "7"}),
]


@pytest.mark.parametrize(("sample", "expected"), KINDS)
def test_each_kind_of_batch_is_drawn(sample: Any, expected: set[str]) -> None:
    assert expected <= {*texts(plot(sample))}


def test_no_more_rows_are_drawn_than_requested() -> None:
    figure = plot((torch.rand(20, 1, 2, 2), torch.arange(20)), rows=10)
    assert [panel.get_xlabel() for panel in figure.axes] == [str(k) for k in range(10)]


def test_a_notebook_displays_the_figure_without_pyplot() -> None:
    figure: Any = plot((torch.rand(1, 1, 2, 2), torch.arange(1)))
    assert figure._repr_png_().startswith(b"\x89PNG")
