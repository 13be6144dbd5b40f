import numpy as np

from callbacks.drawing.curves import draw_table
from lightning_modules.interfaces import Table


def test_a_table_has_a_panel_for_each_column_and_a_line_for_each_word() -> None:
    columns = {"player": ["a", "a", "b", "b"], "step": [1, 2, 1, 2], "loss": [4.0, 3, 2, 1], "regret": [1.0, 2, 3, 4]}
    figure = draw_table(Table(columns, labels={"a": "the first"}))
    assert [(panel.get_xlabel(), panel.get_ylabel()) for panel in figure.axes] == [("step", "loss"), ("step", "regret")]
    for panel, name in zip(figure.axes, ("loss", "regret"), strict=True):
        for line, rows in zip(panel.lines, (slice(2), slice(2, 4)), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2])
            np.testing.assert_array_equal(line.get_ydata(), columns[name][rows])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["the first", "b"]


def test_other_numbers_than_the_columns_can_be_drawn_and_on_logarithmic_axes() -> None:
    table = Table({"step": [1, 10, 100]}, {"share": [1.0, 0.0, 1e-9]}, logarithmic=("step", "share"), title="Shares")
    figure = draw_table(table)
    (panel,) = figure.axes
    assert (panel.get_xscale(), panel.get_yscale(), figure.get_suptitle()) == ("log", "log", "Shares")
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), [1, np.nan, np.nan])
    assert panel.get_legend() is None
