from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.batches import UNVERIFIED
from datamodules.corruptions.label_noise import FromCSV, HumanCIFARN


def write_cifar10n(path: Path, **labels: np.ndarray) -> str:
    torch.save(labels, path)
    return str(path)


def test_human_labels_come_from_the_file(tmp_path: Path) -> None:
    clean, worst = np.array([0, 1, 2, 2]), np.array([0, 2, 2, 1])
    path = write_cifar10n(tmp_path / "human.pt", clean_label=clean, worse_label=worst, aggre_label=clean)
    noise = HumanCIFARN(path, "worse_label")
    torch.testing.assert_close(noise.apply(clean, 3), torch.from_numpy(worst))
    assert noise.transition_matrix(3).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.5, 0.5]]
    torch.testing.assert_close(
        HumanCIFARN(path, "aggre_label").apply(torch.from_numpy(clean), 3), torch.from_numpy(clean)
    )


def test_human_labels_written_under_numpy_1_load(tmp_path: Path) -> None:
    """The published files name `numpy.core`, which NumPy 2 has renamed; the old file format is a bare pickle."""
    clean = np.array([1, 0, 1])
    path = tmp_path / "human.pt"
    torch.save({"clean_label": clean, "noisy_label": 1 - clean}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert HumanCIFARN(str(path), "noisy_label").apply(clean, 2).tolist() == [0, 1, 0]


def test_human_labels_of_a_set_in_another_order_are_refused(tmp_path: Path) -> None:
    clean = np.array([0, 1, 2, 2])
    path = write_cifar10n(tmp_path / "human.pt", clean_label=clean, worse_label=clean)
    noise = HumanCIFARN(path, "worse_label")
    with pytest.raises(
        ValueError, match=r"differ from those of the data at 2 of 4 samples, first at 0.*different order"
    ):
        noise.apply(np.array([1, 0, 2, 2]), 3)
    with pytest.raises(ValueError, match=r"labels 4 samples, but the data have 3.*before any split"):
        noise.apply(clean[:3], 3)


def test_faulty_human_labels_are_refused(tmp_path: Path) -> None:
    clean = np.array([0, 1, 2, 2])
    with pytest.raises(FileNotFoundError, match=r"nowhere.pt was not found: expected CIFAR-10_human.pt .*https://"):
        HumanCIFARN("nowhere.pt", "worse_label").apply(clean, 3)
    path = write_cifar10n(tmp_path / "human.pt", clean_label=clean, worse_label=clean + 8)
    with pytest.raises(ValueError, match="has no key noisy_label; its keys are clean_label, worse_label"):
        HumanCIFARN(path, "noisy_label").apply(clean, 10)
    with pytest.raises(ValueError, match=r"worse_label of .* must be in 0 ... 9, got 10"):
        HumanCIFARN(path, "worse_label").apply(clean, 10)


class RunsWhenLoaded:
    def __reduce__(self) -> tuple:
        return print, ("this ran",)


def test_no_code_of_a_label_file_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"clean_label": RunsWhenLoaded()}, tmp_path / "human.pt")
    with pytest.raises(ValueError, match="damaged or not a file of label arrays"):
        HumanCIFARN(str(tmp_path / "human.pt"), "worse_label").apply(np.array([0]), 10)
    assert capsys.readouterr().out == ""


def test_a_table_gives_labels_by_index(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('name,index,clean_label,label\n"a, b",2,2,0\nc,0,0,0\nd,1,1,2\n')
    noise = FromCSV(str(path))
    assert noise.apply(np.array([0, 1, 2]), 3).tolist() == [0, 2, 0]
    assert noise.transition_matrix(3).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="differ from those of the data at 1 of 3 samples, first at 2"):
        noise.apply(np.array([0, 1, 1]), 3)


def test_a_table_without_clean_labels_needs_only_the_length(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("index,label\r\n0,1\r\n1,0\r\n")
    noise = FromCSV(str(path))
    assert noise.apply(torch.tensor([0, 0]), 2).tolist() == [1, 0]
    with pytest.raises(ValueError, match="has labels for 2 of 3 samples: index 2 is missing; with `partial: true`"):
        noise.apply(np.array([0, 0, 0]), 2)
    with pytest.raises(ValueError, match="no column clean_label"):
        noise.transition_matrix(2)


def test_a_table_labels_files_by_name_with_classes_by_name(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("name,label\ndog/1.png,cat\ncat/0.png,1\n")
    label, names, classes = np.array([0, 0, 1]), ["cat/0.png", "cat/1.png", "dog/1.png"], ["cat", "dog"]
    partial = FromCSV(str(path), partial=True)
    assert partial.apply(label, 2, names=names, class_names=classes).tolist() == [1, 0, 0]
    assert partial.labels_and_truth(label, 2, names, classes)[1] is None
    with pytest.raises(ValueError, match=r"has labels for 2 of 3 samples: name cat/1.png is missing"):
        FromCSV(str(path)).apply(label, 2, names=names, class_names=classes)
    with pytest.raises(ValueError, match=r"has a label for dog/1.png, but this dataset has files such as cat/0.png"):
        partial.apply(label[:2], 2, names=names[:2], class_names=classes)
    with pytest.raises(ValueError, match="is 'cat', which is not the number or the name"):
        partial.apply(label, 2, names=names)


def test_a_number_that_was_corrected_without_its_name_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "cleaned_labels.csv"
    path.write_text("index,label,label_name\n0,0,cat\n1,1,cat\n")
    with pytest.raises(ValueError, match=r"line 3 of .* has the label dog and the label_name cat: correct both"):
        FromCSV(str(path), classes="number").apply(np.array([0, 0]), 2, class_names=["cat", "dog"])
    path.write_text("index,label,label_name\n0,0,cat\n1,1,dog\n")
    assert FromCSV(str(path)).apply(np.array([0, 0]), 2, class_names=["cat", "dog"]).tolist() == [0, 1]


TWELVE = sorted(str(number) for number in range(1, 13))
"""Class names in the order of class numbers. Folders 1 ... 12 are sorted as text: 1, 10, 11, 12, 2, ..."""


@pytest.mark.parametrize(
    ("words", "class_names", "options", "expected"),
    [
        (["1", "2"], TWELVE, {}, "label of .* is ambiguous, because 1 is the number of one class and the name"),
        (["1", "2"], TWELVE, {"classes": "name"}, [0, 4]),
        (["1", "2"], TWELVE, {"classes": "number"}, [1, 2]),
        (["1", "2", "0"], TWELVE, {}, [1, 2, 0]),  # no class is named 0
        (["0", "1"], ["0", "1", "2"], {}, [0, 1]),  # both interpretations agree
        (["005", "001"], [f"{number:03}" for number in range(1, 101)], {}, [4, 0]),
        (["01"], ["cat", "dog"], {}, "label of .* is '01', which is not the number or the name of a class: cat, dog$"),
        (["1"], ["cat", "dog"], {"classes": "name"}, "label of .* is '1', which is not the name of a class"),
        (["cat"], ["cat", "dog"], {"classes": "number"}, "label of .* is 'cat', which is not the number of a class"),
        (["cat", "1"], ["cat", "dog"], {}, [0, 1]),
        (["cat", "1"], ["1", "cat"], {}, [1, 0]),
        (["cat", "1", "0"], ["1", "cat"], {}, "label of .* is ambiguous, because 1 is"),
    ],
)
def test_names_of_classes_that_are_numbers_are_not_guessed(
    tmp_path: Path, words: list[str], class_names: list[str], options: dict[str, Any], expected: list[int] | str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("index,label\n" + "".join(f"{index},{word}\n" for index, word in enumerate(words)))
    noise, label = FromCSV(str(path), **options), np.zeros(len(words), dtype=np.int64)
    if isinstance(expected, list):
        assert noise.apply(label, len(class_names), class_names=class_names).tolist() == expected
    else:
        with pytest.raises(ValueError, match=expected):
            noise.apply(label, len(class_names), class_names=class_names)


def test_columns_of_a_label_report_that_end_in_name_hold_names(tmp_path: Path) -> None:
    path = tmp_path / "label_report.csv"
    path.write_text("index,row,given,proposed,given_name,proposed_name\n0,0,0,4,1,2\n")
    label = np.array([0])
    noise = FromCSV(str(path), column="proposed_name", key="row", classes="number")
    assert noise.apply(label, 12, class_names=TWELVE).tolist() == [4]
    with pytest.raises(ValueError, match=r"proposed_name of .* is '2', which is not the name of a class"):
        noise.apply(label, 12)


def test_names_of_a_table_by_position_must_be_those_of_the_set(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("index,name,label\n1,b.png,1\n0,a.png,0\n")
    label, noise = np.array([0, 0]), FromCSV(str(path))
    assert noise.apply(label, 2).tolist() == [0, 1]
    assert noise.apply(label, 2, names=["a.png", "b.png"]).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"has b.png at index 1, but this dataset has a.png there; set `key: name`"):
        noise.apply(label, 2, names=["b.png", "a.png"])
    by_name = FromCSV(str(path), key="name")
    assert by_name.apply(label, 2, names=["b.png", "a.png"]).tolist() == [1, 0]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_table_in_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("name,label\na.png,B\xe4r\n", encoding=encoding)
    with pytest.raises(
        ValueError, match=r"labels.csv cannot be read \('utf-8' codec .*\): expected a CSV file in UTF-8"
    ):
        FromCSV(str(path)).apply(np.array([0]), 2, names=["a.png"])
    path.write_text("name,label\na.png,B\xe4r\n", encoding="utf-8-sig")
    assert FromCSV(str(path)).apply(np.array([0]), 2, names=["a.png"], class_names=["A", "B\xe4r"]).tolist() == [1]


def test_a_table_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "labels.csv").write_text("index,label\n0,1\n")
    assert FromCSV("~/labels.csv").apply(np.array([0]), 2).tolist() == [1]


def test_a_label_report_gives_its_proposals_by_row_in_the_whole_set(tmp_path: Path) -> None:
    path = tmp_path / "label_report.csv"
    path.write_text("index,row,given,proposed,clean_label\n1,3,0,1,1\n0,0,0,0,0\n")
    noise = FromCSV(str(path), column="proposed", key="row", partial=True)
    assert noise.apply(np.array([0, 1, 0, 1]), 2).tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="differ from those of the data at 1 of 4 samples, first at 3"):
        noise.apply(np.array([0, 1, 0, 0]), 2)


def test_images_of_no_class_may_be_listed_as_such(tmp_path: Path) -> None:
    path = tmp_path / "label_report.csv"
    path.write_text("index,label,clean_label\n0,1,-1\n1,1,1\n2,0,0\n")
    label, known = np.array([0, 1, 0]), torch.tensor([-1, 1, 0])
    noise = FromCSV(str(path))
    given, truth = noise.labels_and_truth(label, 2, clean_label=known)
    assert given.tolist() == [1, 1, 0]
    assert truth.tolist() == [-1, 1, 0]
    assert noise.transition_matrix(2).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    for other_set in (None, torch.tensor([0, 1, -1])):
        with pytest.raises(ValueError, match=r"differ from those of the data at 1 of 3 samples, first at 0"):
            noise.labels_and_truth(label, 2, clean_label=other_set)
    with pytest.raises(ValueError, match=r"differ from those of the data at 1 of 3 samples, first at 1"):
        noise.labels_and_truth(np.array([0, 0, 0]), 2, clean_label=torch.tensor([-1, 0, 0]))
    path.write_text("index,label,clean_label\n0,-1,0\n1,1,1\n2,0,0\n")
    with pytest.raises(ValueError, match=r"label of .* must be in 0 ... 1, got -1"):
        noise.labels_and_truth(label, 2, clean_label=known)


def test_labels_that_a_user_has_verified_by_file_are_the_true_ones(tmp_path: Path) -> None:
    """The class of the folder is not taken as the true label, which is unknown if its entry is empty or missing."""
    path = tmp_path / "mine.csv"
    path.write_text("name,label,clean_label\ncat/1.png,cat,dog\ncat/0.png,cat,\ndog/0.png,cat,-1\n")
    folder, names, classes = (
        np.array([0, 0, 1, 1]),
        ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"],
        ["cat", "dog"],
    )
    noise = FromCSV(str(path), partial=True)
    given, truth = noise.labels_and_truth(folder, 2, names, classes)
    assert given.tolist() == [0, 0, 0, 1]
    assert truth.tolist() == [UNVERIFIED, 1, -1, UNVERIFIED]
    path.write_text("index,name,label,clean_label\n1,cat/1.png,0,1\n")
    truth = noise.labels_and_truth(folder, 2, names, classes)[1]
    assert truth.tolist() == [UNVERIFIED, 1, UNVERIFIED, UNVERIFIED]
    assert noise.transition_matrix(2)[1].tolist() == [1.0, 0.0]
    path.write_text("name,label,clean_label\ncat/1.png,cat,\n")
    assert noise.labels_and_truth(folder, 2, names, classes)[1] is None


def test_true_labels_by_position_are_those_of_the_data_as_far_as_they_are_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("index,label,clean_label\n0,1,0\n1,1,\n")
    truth = FromCSV(str(path)).labels_and_truth(np.array([0, 0]), 2)[1]
    assert truth.tolist() == [0, UNVERIFIED]
    with pytest.raises(ValueError, match="at 1 of 2 samples, first at 0: the file is for a different dataset"):
        FromCSV(str(path)).apply(np.array([1, 0]), 2, names=["a.png", "b.png"])


def test_a_cleaned_table_drops_samples_by_their_action(tmp_path: Path) -> None:
    path = tmp_path / "cleaned_labels.csv"
    path.write_text("index,name,label,action\n2,c,1,drop\n0,a,1,relabel\n1,b,0,keep\n")
    noise = FromCSV(str(path), partial=True)
    assert noise.apply(np.array([0, 0, 0, 1]), 2).tolist() == [1, 0, 1, 1]
    assert noise.dropped_mask(4).tolist() == [False, False, True, False]
    by_name = FromCSV(str(path), key="name", partial=True)
    assert by_name.dropped_mask(4, ["d", "c", "b", "a"]).tolist() == [False, True, False, False]
    path.write_text("index,label\n0,1\n")
    assert not noise.dropped_mask(4).any()
    path.write_text("index,label,action\n0,1,remove\n")
    with pytest.raises(
        ValueError, match=r"action of .*cleaned_labels.csv must be one of keep, relabel, drop, got 'remove'"
    ):
        noise.dropped_mask(4)
