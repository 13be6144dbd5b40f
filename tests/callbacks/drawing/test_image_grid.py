import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from callbacks.drawing.image_grid import concatenate_rows, draw_image_grid, first_rows, num_rows
from lightning_modules.interfaces import ImageColumn


def panels(figure: Figure, rows: int) -> NDArray:
    return np.array(figure.axes).reshape(rows, -1)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pictures_are_in_colour_or_the_mean_of_their_channels(channels: int) -> None:
    image = torch.rand(2, channels, 4, 6)
    shown = panels(draw_image_grid({"image": image, "again": image}, most_rows=1), 1)
    expected = image[0].permute(1, 2, 0) if channels == 3 else image[0].mean(dim=0)
    for panel in shown[0]:
        np.testing.assert_allclose(panel.images[0].get_array(), expected, atol=1e-7)
    assert [panel.get_title() for panel in shown[0]] == ["image", "again"]


def test_a_difference_is_drawn_around_grey_on_the_scale_of_its_largest() -> None:
    difference = torch.zeros(2, 1, 4, 4)
    difference[1, 0, 2, 3] = -0.25
    columns = {"image": torch.rand(2, 1, 4, 4), "change": ImageColumn(difference, difference=True)}
    columns["nothing"] = ImageColumn(0 * difference, difference=True)
    shown = panels(draw_image_grid(columns), 2)
    assert [panel.get_title() for panel in shown[0, 1:]] == ["change\n±0.25", "nothing\n±0"]
    np.testing.assert_array_equal(shown[0, 1].images[0].get_array(), 0.5)
    assert shown[1, 1].images[0].get_array()[2, 3] == 0
    np.testing.assert_array_equal(shown[1, 2].images[0].get_array(), 0.5)


def test_many_columns_are_drawn_in_blocks_of_their_own_height() -> None:
    columns = {str(k): torch.full((2, 1, 4, 16 if k < 5 else 4), k / 10) for k in range(9)}
    figure = draw_image_grid(columns)
    drawn = {panel.get_title(): panel for panel in figure.axes if panel.get_title()}
    assert (list(drawn), len(figure.axes)) == ([*"012345678"], 2 * 9)
    figure.canvas.draw()
    places = {name: panel.get_position() for name, panel in drawn.items()}
    assert [name for name in drawn if places[name].y0 > places["5"].y1] == [*"01234"]
    assert places["5"].height > 2 * places["0"].height
    np.testing.assert_allclose([panel.images[0].get_array()[0, 0] for panel in figure.axes[:5]], np.arange(5) / 10)


def test_categories_are_drawn_over_the_first_column_and_named() -> None:
    image, mask = torch.rand(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    mask[0, 0, :3] = torch.tensor([1, 12, 255])
    figure = draw_image_grid({"image": image, "mask": mask}, [f"class {k}" for k in range(13)])
    below, over = (drawn.get_array() for drawn in figure.axes[1].images)
    np.testing.assert_allclose(below, image[0, 0], atol=1e-7)
    assert (over[1:, :, 3] == 0).all()  # the background is transparent
    assert over[0, 2].tolist() == [1, 1, 1, 1]  # ignored pixels are white
    assert over[0, 0].tolist() != over[0, 1].tolist()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["class 1", "class 12"]
    assert [text.get_text() for text in draw_image_grid({"image": image, "mask": mask}).legends[0].get_texts()] == [
        "1",
        "12",
    ]


def test_regions_are_outlined_where_they_have_an_edge() -> None:
    region = torch.zeros(2, 4, 4, dtype=torch.bool)
    image = torch.rand(2, 3, 4, 4)
    assert not draw_image_grid({"image": image, "the kept region": region}).get_suptitle()
    region[0, 1:3, 1:3] = True
    figure = draw_image_grid({"image": image, "again": image, "the kept region": region})
    assert figure.get_suptitle() == "outlined: the kept region"
    assert [len(panel.collections) for panel in figure.axes] == [1, 1, 0, 0]


def test_captions_stand_below_and_marked_ones_are_red() -> None:
    columns = {"image": ImageColumn(torch.rand(2, 1, 4, 4), ["cat", "eel"], [False, True])}
    labels = [panel.xaxis.label for panel in draw_image_grid(columns).axes]
    assert [(label.get_text(), label.get_color()) for label in labels] == [("cat", "black"), ("eel", "C3")]


def test_without_images_there_is_the_title() -> None:
    assert draw_image_grid({"image": torch.zeros(0, 1, 4, 4)}, title="no image").texts[0].get_text() == "no image"


def test_rows_of_several_batches_are_cut_to_one_size() -> None:
    wide, tall = torch.rand(2, 1, 4, 8), torch.rand(1, 1, 8, 6)
    first = first_rows({"image": ImageColumn(wide, ["a", "b"], [True, False]), "alone": wide}, 1)
    assert (num_rows(first), first["image"].captions, first["image"].marked) == (1, ["a"], [True])
    found = concatenate_rows([first, first_rows({"image": ImageColumn(tall, ["c"], [False])}, None)])
    assert list(found) == ["image"]
    assert torch.equal(found["image"].values, torch.cat([wide[:1, :, :, 1:7], tall[:, :, 2:6]]))
    assert (found["image"].captions, found["image"].marked) == (["a", "c"], [True, False])
    padded = concatenate_rows([{"image": ImageColumn(wide)}, {"image": ImageColumn(tall)}], whole=True)["image"].values
    assert torch.equal(padded[:2, :, 2:6], wide)
    assert torch.equal(padded[2:, :, :, 1:7], tall)
    assert padded.sum().item() == pytest.approx((wide.sum() + tall.sum() + 2 * 32 + 16).item())


def test_images_may_be_side_by_side_with_a_row_for_each_name() -> None:
    images = {
        "noisy": ImageColumn(torch.zeros(10, 1, 4, 8)),
        "clean": ImageColumn(torch.zeros(10, 1, 8, 8), [str(k) for k in range(10)]),
    }
    figure = draw_image_grid(images, side_by_side=True)
    rows = sorted({round(panel.get_position().y0, 6) for panel in figure.axes})
    assert (len(figure.axes), len(rows)) == (20, 4)  # two blocks of five images
    assert [panel.get_ylabel() for panel in figure.axes if panel.get_ylabel()] == ["noisy", "clean"] * 2
    assert [panel.get_xlabel() for panel in figure.axes if panel.get_xlabel()] == [str(k) for k in range(10)]
