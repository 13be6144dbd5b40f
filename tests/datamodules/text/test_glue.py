"""GLUE tasks from their original files: texts and labels; errors name the damaged line."""

from pathlib import Path

import pytest
import torch

from datamodules.text.glue import TASKS, Glue
from tests.tiny_texts import save_rte

FILES = {  # as at the beginning of the official files
    "cola": (
        "CoLA",
        'gj04\t0\t*\tThe cat "sat.\ngj04\t1\t\tNull pets sat.\n',
        ['The cat "sat.', "Null pets sat."],
        None,
    ),
    "sst2": ("SST-2", "sentence\tlabel\nNA \t0\nwell \t1\n", ["NA ", "well "], None),
    "mrpc": (
        "MRPC",
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tA.\tB.\n1\t9\t10\tC.\tD.\n",
        ["A.", "C."],
        ["B.", "D."],
    ),
    "qqp": (
        "QQP",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tA?\tB?\t0\n5\tX?\n1\t3\t4\tC?\tD?\t1\n",
        ["A?", "C?"],
        ["B?", "D?"],
    ),
    "qnli": (
        "QNLI",
        "index\tquestion\tsentence\tlabel\n0\tA?\tB.\tentailment\n1\tC?\tD.\tnot_entailment\n",
        ["A?", "C?"],
        ["B.", "D."],
    ),
    "mnli": (
        "MNLI",
        "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n0\tx\tA.\tB.\tneutral\tentailment\n"
        "1\tx\tC.\tD.\tneutral\tneutral\n",
        ["A.", "C."],
        ["B.", "D."],
    ),
}


def test_stsb_has_real_numbers_and_names_the_line_of_another(tmp_path: Path) -> None:
    head = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    (tmp_path / "STS-B").mkdir()
    row = "0\tnews\tf\t2012\t1\tnone\tnone\tA.\tB.\t"
    (tmp_path / "STS-B" / "train.tsv").write_text(f"{head}{row}3.800\n{row}0\n")
    (tmp_path / "STS-B" / "dev.tsv").write_text(f"{head}{row}5.0\n{row}5.1\n")
    stsb = Glue("stsb", str(tmp_path))
    texts = stsb.training()
    torch.testing.assert_close(texts.label, torch.tensor([3.8, 0.0]))
    assert (texts.second, stsb.num_classes, stsb.class_names) == (["B.", "B."], 1, None)
    with pytest.raises(ValueError, match=r"dev.tsv, line 3: label '5.1' is not a number in \[0, 5\]"):
        stsb.test()


@pytest.mark.parametrize("task", FILES)
def test_each_task_is_read_in_its_own_layout(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, text, first, second = FILES[task]
    place = tmp_path / "glue" / folder
    place.mkdir(parents=True)
    (place / "train.tsv").write_text(text)
    (place / TASKS[task].dev).write_text(text)
    monkeypatch.setenv("NOISEWORKS_DATA", str(tmp_path))
    for data_dir in (str(tmp_path / "glue"), None):
        texts = Glue(task, data_dir).training()
        assert (texts.first, texts.second, texts.label.tolist()) == (first, second, [0, 1])
    assert Glue(task).test().first == first
    assert Glue(task).num_classes == len(TASKS[task].classes)


def test_one_text_names_the_task_and_its_parts(tmp_path: Path) -> None:
    texts = Glue("rte", str(save_rte(tmp_path)), prefixed=True).training()
    assert texts.first[0] == "rte sentence1: a cat sat on the mat sentence2: a cat sat"
    assert texts.second is None
    (tmp_path / "MRPC").mkdir()
    (tmp_path / "MRPC" / "train.tsv").write_text(FILES["mrpc"][1])
    assert Glue("mrpc", str(tmp_path), prefixed=True).training().first[0] == "mrpc sentence1: A. sentence2: B."


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "\tlabel",
            "\tlabels",
            r"train.tsv has no column 'label'; its columns are index, sentence1, sentence2, labels",
        ),
        ("\tentailment", "\tneutral", r"train.tsv, line 2: label 'neutral' is not one of entailment, not_entailment"),
        ("the mat\ta cat sat\t", "the mat\ta\tcat\tsat\t", r"train.tsv, line 2: expected 4 values, got 6"),
    ],
)
def test_damage_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = save_rte(tmp_path) / "RTE" / "train.tsv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        Glue("rte", str(tmp_path)).training()


def test_what_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"GLUE: .*RTE/train_tenth.tsv is missing; expected RTE/train_tenth.tsv"
    ):
        Glue("rte", str(save_rte(tmp_path)), training_file="train_tenth.tsv").training()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Glue("rte", str(tmp_path / "nowhere")).test()
