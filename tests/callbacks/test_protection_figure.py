from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.protection_figure import ProtectionFigure, draw_protection


def pictures(count: int, channels: int) -> dict[str, torch.Tensor]:
    names = ("image", "protected", "edit", "edit_of_protected")
    return {name: torch.rand(count, channels, 16, 16) for name in names}


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_are_images_and_the_largest_change_stands_above(channels: int) -> None:
    kept = torch.zeros(2, 16, 16, dtype=torch.bool)
    kept[0, 4:9, 3:9] = True  # of the second image nothing is kept, and there is nothing to outline
    shown = pictures(2, channels)
    shown["protected"] = shown["image"].clone()
    shown["protected"][0, 0, 4, 4] += 0.25
    shown["edit_of_protected"] = shown["edit"]
    figure = draw_protection(kept=kept, **shown)
    titles = [panel.get_title() for panel in figure.axes if panel.get_title()]
    assert titles == [
        "image", "protected", "change\n±0.25", "edit of image", "edit of protected", "difference of edits\n±0"
    ]  # fmt: skip
    assert len(figure.axes) == 2 * 6
    assert figure.get_suptitle() == "outlined: the region that the editor keeps"
    assert not draw_protection(kept=torch.ones_like(kept), **shown).get_suptitle()  # there is no outline
    change = figure.axes[2].images[0].get_array()
    assert float(change[4, 4].flat[0]) == pytest.approx(1)
    assert float(change[5, 5].flat[0]) == pytest.approx(0.5)


def test_the_first_batch_is_drawn_once(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(log_dir=str(tmp_path), loggers=[1], is_global_zero=True)
    shown = pictures(3, 1)
    batch = {"image": shown.pop("image"), "editor_keeps": torch.ones(3, 2, 16, 16, dtype=torch.bool)}
    figure: Any = ProtectionFigure(num_images=2)
    figure.on_test_batch_end(trainer, None, shown, batch, 0)
    path = tmp_path / "figures" / "protection.png"
    drawn = path.read_bytes()
    path.unlink()
    figure.on_test_batch_end(trainer, None, shown, batch, 1)
    assert drawn
    assert not path.exists()


def test_what_it_needs_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        ProtectionFigure(num_images=0)
    trainer: Any = SimpleNamespace(log_dir=str(tmp_path), loggers=[1], is_global_zero=True)
    figure: Any = ProtectionFigure()
    with pytest.raises(TypeError, match="needs a test step that gives `protected`"):
        figure.on_test_batch_end(trainer, None, {"loss": 0}, {}, 0)
