import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from datamodules.files.whole_files import save_in_format


def two_panels() -> Figure:
    figure = Figure(figsize=(8, 3), layout="constrained")
    for ax in figure.subplots(1, 2, sharey=True):
        ax.plot([0, 1], [0, 1], label="a")
        ax.set_title("accuracy", fontsize=12)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper left")
    figure.supxlabel("a note that is much longer than the width of a column of a paper, so it has two lines")
    return figure


def test_a_pdf_has_the_width_of_a_column_and_embedded_truetype_fonts(tmp_path: Path) -> None:
    """The width is 3.25 inches of 72 points. Type 42 fonts are in FontFile2; type 3 fonts have no file."""
    figure = two_panels()
    save_in_format(figure, tmp_path / "a.pdf")
    content = (tmp_path / "a.pdf").read_bytes()
    [box] = re.findall(rb"/MediaBox \[ *([\d. ]+)\]", content)
    assert float(box.split()[2]) == pytest.approx(3.25 * 72)
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    top, bottom = (ax.get_position() for ax in figure.axes)
    assert top.y0 > bottom.y1
    assert figure.get_supxlabel().count("\n") == 1
    assert all(ax.title.get_fontsize() <= 8 for ax in figure.axes)
