import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from callbacks.data_preview import plot, report
from callbacks.data_preview.plot import plot_batches
from callbacks.data_preview.recorded import RecordedSplit
from callbacks.data_preview.report import write_report


def test_the_page_has_the_picture_and_escaped_tables_and_loads_nothing(tmp_path: Path) -> None:
    batch = {"image": torch.rand(3, 1, 4, 4), "label": torch.tensor([0, 1, 1]), "clean_label": torch.tensor([0, 1, 0])}
    batch |= {"name": ["<script>a", "b", "c"]}
    data = SimpleNamespace(class_names=["<cat>", "dog"])
    split = RecordedSplit("training", [batch, batch], None, 60, 2)
    facts = write_report([split], data, "a & b.yaml", "noise: <0.1>", tmp_path, 2)
    assert facts == [
        ["training", "size", "set of 60 samples, 6 read in batches of 3, first of 2 sets"],
        ["training", "wrong labels", "measured 0.3333 of 6 samples"],
        ["training", "classes", "2, with 2 to 4 in the 6 samples read"],
    ]
    page = (tmp_path / "samples.html").read_text()
    for shown in ("a &amp; b.yaml", "&lt;cat&gt;", "&lt;script&gt;a", "noise: &lt;0.1&gt;", "0.3333 of 6 samples"):
        assert shown in page
    assert "<script" not in page
    assert not re.search('https?:|src="(?!data:)', page)
    embedded = re.search('base64,([^"]+)"', page)
    assert embedded is not None
    picture = Image.open(io.BytesIO(base64.b64decode(embedded[1])))
    assert picture.tobytes() == Image.open(tmp_path / "samples.png").tobytes()


def test_tokens_are_shown_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["", "a", "cat", "dog"]
    decode = SimpleNamespace(batch_decode=lambda rows, **_: [" ".join(words[each] for each in row) for row in rows])
    batch = {"text.input_ids": torch.tensor([[1, 2], [1, 3], [1, 1]]), "label": torch.tensor([0, 1, 1])}
    split, drawn = RecordedSplit("training", [batch]), []
    monkeypatch.setattr(
        report, "plot_batches", lambda batches, *more: drawn.append(batches) or plot_batches(batches, *more)
    )
    write_report([split], SimpleNamespace(tokenizer=decode), "", "", tmp_path, 2)
    [[shown]] = drawn
    assert shown["text"] == ["a cat", "a dog"]
    assert shown["label"].tolist() == [0, 1]
    [panel] = plot(shown, ["no", "yes"]).axes
    assert panel.texts[0].get_text() == "no\na cat\n\nyes\na dog"


@pytest.mark.parametrize("classes", [3, 100, 101])
def test_counts_are_bars_or_if_there_are_many_a_line_in_order(classes: int) -> None:
    counts = [[f"class {k}", str(k), str(k % 2)] for k in range(classes)]
    [panel] = report._draw_counts(counts).axes
    if classes > 100:
        assert [line.get_ydata()[:2].tolist() for line in panel.lines] == [[100, 99], [1, 1]]
        return
    assert [bar.get_height() for bar in panel.patches] == [*range(classes), *(k % 2 for k in range(classes))]
    left, right = panel.patches[1], panel.patches[classes + 1]  # side by side, in the middle of their class
    assert left.get_x() + left.get_width() == pytest.approx(right.get_x()) == pytest.approx(1)
    assert [text.get_text() for text in panel.get_xticklabels()][:2] == ["class 0", "class 1"]
