"""The page of suspected labels shows every image next to its labels, worst first, and loads no files or scripts."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import train
from callbacks.labels.report_page import suspicious_rows, write_page
from tests.datamodules.image_folders import shades

CLASSES = ["cat", "dog & <b>emu</b>"]


def report(scores: list[float], **more: object) -> pd.DataFrame:
    table = pd.DataFrame({"row": range(len(scores)), "score": scores, "given": 0, "proposed": 1, "in_sample": 0})
    table = table.assign(probability_given=0.1, probability_proposed=0.9, suspected=1, given_name=CLASSES[0])
    return table.assign(proposed_name=CLASSES[1], **more)


def pages(text: str) -> list[str]:
    return re.findall(r"<figure.*?</figure>", text)


def test_the_worst_labels_come_first_and_the_cap_is_stated(tmp_path: Path) -> None:
    table = suspicious_rows(report([0.5, 0.1, 0.3]), 2)
    assert table["row"].tolist() == [1, 2]
    write_page(tmp_path / "page.html", table, np.zeros((2, 1, 8, 8), np.uint8), 3)
    text = (tmp_path / "page.html").read_text()
    assert "The 2 most suspicious of 3 labels" in text
    first, second = pages(text)
    for figure, score in ((first, "0.1"), (second, "0.3")):
        assert f"score {score}" in figure
        assert "cat (p 0.10)" in figure
        assert "(p 0.90)" in figure


def test_names_are_escaped_and_nothing_is_loaded(tmp_path: Path) -> None:
    named = report([0.5], name='"><script>alert(1)</script>.png')
    write_page(tmp_path / "page.html", suspicious_rows(named, 9), np.zeros((1, 3, 200, 100), np.uint8), 1)
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "dog &amp; &lt;b&gt;emu&lt;/b&gt;" in text
    assert "default-src 'none'" in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert len(text) < 10_000


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on two class folders of single-colour images, write a label report, and return the root folder."""
    root = tmp_path_factory.mktemp("labels")
    shades(root, "train", ["cat", "dog"], per_class=8)
    line = ["fit", "--config", "configs/own_data/classes.yaml", "--config", "configs/callbacks/label_report.yaml"]
    sizes = "{in_features: 192, hidden_features: [8], out_features: 2}"
    network = f"{{class_path: lightning_modules.networks.mlp.MLP, init_args: {sizes}}}"
    line += ["--data.images.data_dir", str(root), "--data.images.image_size", "8", "--model.network", network]
    line += [
        "--data.batch_size",
        "5",
        "--data.loading.num_workers",
        "0",
        "--data.split.test_fraction",
        "0.25",
        "--trainer.max_epochs",
        "2",
    ]
    line += ["--trainer.accelerator", "cpu", "--run_directory", str(root / "run"), "--test_after_fit", "true"]
    assert train.main(line) == 0
    return root


def test_a_runs_report_becomes_a_page_of_its_images(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (labels / "run" / "label_report.csv").read_bytes()
    assert train.main(["label_report", str(labels / "run"), "--html", "--most", "5"]) == 0
    assert "label_report.html, 5 of" in capsys.readouterr().out
    text = (labels / "run" / "label_report.html").read_text()
    names = pd.read_csv(labels / "run" / "label_report.csv")["name"].tolist()[:5]
    assert [re.search(r"<br>([^<]*)</small>", each)[1] for each in pages(text)] == names  # type: ignore[index]
    assert "does not suspect a wrong label it has memorised" in text
    assert (labels / "run" / "label_report.csv").read_bytes() == before


def test_cleaned_labels_train_another_run(labels: Path) -> None:
    """The layer of a report, as in the README: dropped images are excluded, and others get new labels."""
    path = labels / "run" / "cleaned_labels.csv"
    table, written = pd.read_csv(path), path.read_bytes()
    table.loc[0, "action"], table.loc[1, ["action", "label"]] = "drop", ["relabel", 1 - table.loc[1, "given"]]
    names = table.set_index("given")["given_name"].to_dict()
    table.assign(label_name=table["label"].map(names)).to_csv(path, index=False)
    moved = shutil.copytree(labels / "run", labels / "another name \u00e9")  # the layer names the table beside it
    line = ["fit", "--config", str(moved / "config.yaml"), "--config", str(moved / "cleaned_labels.yaml")]
    assert train.main([*line, "--trainer.callbacks", "null", "--run_directory", str(labels / "again")]) == 0
    path.write_bytes(written)
    settings = yaml.safe_load((labels / "again" / "config.yaml").read_text(encoding="utf-8"))["data"]["init_args"]
    assert settings["label_noise"]["init_args"]["path"] == str(moved / "cleaned_labels.csv")
    used = pd.read_csv(labels / "again" / "labels.csv").set_index("index")
    relabelled = table.loc[1]
    assert used.loc[relabelled["index"], "label"] == relabelled["label"] != relabelled["given"]
    assert used.loc[table.loc[0, "index"], "split"] == "dropped"
