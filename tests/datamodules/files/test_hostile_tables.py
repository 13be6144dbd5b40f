"""Malicious tables and lists: each is rejected in one sentence with the file's name and the position of the error."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from callbacks.certification.compare import overlay
from callbacks.certification.log import COMMUNITY, EXACT, CertificationLog
from callbacks.labels.merge import merge_reports
from datamodules.classification.clothing1m import Clothing1M
from datamodules.classification.image_sets import read_list
from datamodules.classification.imagenet import read_class_map
from datamodules.corruptions.image_noise.camera import camera
from datamodules.corruptions.label_noise import FromCSV
from datamodules.files import limits
from datamodules.files.number_tables import read_numbers, read_svmlight, read_unnamed_numbers
from datamodules.interpolation.folder_sets import PairsInFolder
from datamodules.prompts.noise_pair_files import kept_pairs
from datamodules.prompts.prompt_sets import PromptFile
from datamodules.restoration.raw_pairs import light_ratio, listed_pairs
from datamodules.tables.ratings import MovieLens
from datamodules.tables.uci import UCI

Reader = Callable[[Path], object]


def svmlight(folder: Path) -> object:
    return read_svmlight(folder / "set", "Set", 3)


def numbers(folder: Path) -> object:
    return read_numbers(folder / "table.csv", "Set")


def unnamed(folder: Path) -> object:
    return read_unnamed_numbers(folder / "data.txt", "Set")


def ratings(folder: Path) -> object:
    return MovieLens(".", data_dir=str(folder)).training()


def prompts(folder: Path) -> object:
    [path] = folder.iterdir()
    return PromptFile(str(path)).prompts()


def labels(folder: Path) -> object:
    return FromCSV(str(folder / "labels.csv")).labels_and_truth(np.zeros(2, int), 2)


def listed(folder: Path) -> object:
    return read_list(folder / "list.txt", 1000)


def scores(folder: Path) -> object:
    np.savez(folder / "0.npz", np.zeros(1))
    return kept_pairs(folder, folder / "scores.jsonl", 0.0)


def pairs(folder: Path) -> object:
    (folder / "a.png").write_bytes(b"")
    return PairsInFolder(str(folder)).pairs(0)


def reports(folder: Path) -> object:
    return merge_reports([folder / "label_report.csv"])


def curves(folder: Path) -> object:
    return overlay([folder / "log.tsv"], folder / "out")


def exposures(folder: Path) -> object:
    return listed_pairs(folder / "Sony_val_list.txt")


def class_map(folder: Path) -> object:
    return read_class_map(folder / "map.txt")


def own_camera(folder: Path) -> object:
    return camera(str(folder / "camera.yaml"))


def clothing(folder: Path) -> object:
    (folder / "noisy_train_key_list.txt").write_text("images/a.jpg\n")
    return Clothing1M(str(folder)).training()


DEEP = "[" * 100_000
LOG = "idx\tlabel\tpredict\tradius\n0\t1\t1\t0.5\n"
REPORT = "row,given,suspected,score,in_sample,proposed,probability_given,probability_proposed\n"
PROPOSED = ",0,0.5,0.5\n"
SCORES = '{"index": 0, "caption": "a", "original_score_list": [0], "optimized_score_list": [%s]}\n'
HOSTILE: list[tuple[Reader, str, str, str]] = [
    (svmlight, "set", f"1 1:2\n0 1{'0' * 30}:1\n", "set is damaged or not an svmlight file"),
    (svmlight, "set", f"1 1:2\n0 {2**40}:1\n", "has a column|not an svmlight file"),
    (svmlight, "set", f"1 1:{'9' * 400}\n0 1:1\n", "not finite|not an svmlight file"),
    (svmlight, "set", "1 1:2\nyes 2:1\n", "Set: .*not an svmlight file"),
    (svmlight, "set", "1 0:2\n", "Set: .*not an svmlight file.*index 0"),
    (svmlight, "set", "1 1:2\n1 4:1\n", "Set: .*num_features is 3, but .* has a column 4"),
    (svmlight, "set", "1 1:2\n1 2:nan\n", "Set: .*column 2 of .* not finite"),
    (svmlight, "set", "nan 1:2\n", "Set: .*column label of .* lacks a value in row 1"),
    (svmlight, "set", "", "Set: .*has no rows"),
    (numbers, "table.csv", "a,b\n1,2\n3,red\n", "Set: .*column b of .* contains text: 'red'"),
    (numbers, "table.csv", "a,b\n1,2\n,4\n", "Set: .*column a of .* lacks a value in row 2"),
    (numbers, "table.csv", "a,b\n1,inf\n", "Set: .*column b of .* lacks a value in row 1"),
    (numbers, "table.csv", "a,b\n", "Set: .*has no rows"),
    (numbers, "table.csv", f"a,b\n1,{'9' * 400}\n", "column b of .*table.csv"),
    (numbers, "table.csv", "a,b\n1,2\n1,2,3,4\n", "table.csv is not a readable table"),
    (numbers, "table.csv", "", "table.csv is not a readable table"),
    (numbers, "table.csv", "a\n\ud800", "table.csv is not a readable table"),
    # pandas 2 reads 1e400 as text
    (numbers, "table.csv", "a,b\n1,1e400\n", "column b of .*table.csv (lacks a value in row 1|contains text)"),
    (unnamed, "data.txt", f"1 {'9' * 400}\n", "column 1 of .*data.txt"),
    (ratings, "u.data", f"{2**64}\t1\t5\t0\n", "u.data has the user|users of type"),
    (ratings, "u.data", "1.5\t1\t5\t0\n", "u.data has the user 1.5 at position 0"),
    (ratings, "u.data", "-1\t1\t5\t0\n", "u.data has the user -1 at position 0"),
    (ratings, "u.data", "1\n2\n", "u.data is not a readable table"),
    (ratings, "ratings.csv", "user\n1\n", "ratings.csv is not a readable table"),
    (prompts, "a.csv", f"caption\n{'x' * 200_000}\n", "a.csv cannot be read as a table of texts: field larger"),
    (prompts, "a.jsonl", DEEP, "a.jsonl, line 1 is not JSON"),
    (prompts, "a.jsonl", '{"caption": "x", "index": 1e400}', "a.jsonl, line 1: index and seed must be whole"),
    (prompts, "a.jsonl", '{"caption": "x", "index": 2.5}', "a.jsonl, line 1: index and seed must be whole"),
    (prompts, "a.jsonl", '{"caption": "x", "seed": true}', "a.jsonl, line 1: index and seed must be whole"),
    (prompts, "a.jsonl", '{"caption": "x", "seed": 1%s}' % ("0" * 30), "line 1: index and seed must be whole"),
    (prompts, "a.csv", "index\n1\n", "a.csv, line 2: expected caption"),
    (prompts, "a.txt", "\ud800", "a.txt is not in UTF-8"),
    *((labels, "labels.csv", f"index,label\n0,0\n1,{n}\n", f"label of .*labels.csv .*{n}") for n in (2**63, 10**30, 9)),
    *(
        (labels, "labels.csv", f"index,label,clean_label\n0,0,0\n1,0,{n}\n", f"clean_label of .*labels.csv .*{n}")
        for n in (2**63, 10**30, -5)
    ),
    (labels, "labels.csv", f"index,label\n0,0\n1{'0' * 400},1\n", "index in .*labels.csv must be in 0 ... 1"),
    *(
        (listed, "list.txt", f"a 1\nb {n}\n", f"list.txt, line 2: label must be in 0 ... 999, got {n}")
        for n in (2**63, 10**30, 1000)
    ),
    (listed, "list.txt", "a 1\nb -1\n", "list.txt, line 2: expected <file> <label>"),
    (listed, "list.txt", "\ud800", "list.txt is not in UTF-8"),
    *((exposures, "Sony_val_list.txt", text, "Sony_val_list.txt") for text in ("", "\ud800", "./short/a_0.1s.ARW\n")),
    (class_map, "map.txt", "\ud800", "map.txt is not in UTF-8"),
    (own_camera, "camera.yaml", "a: [", "camera.yaml is not a camera file"),
    (own_camera, "camera.yaml", DEEP, "camera.yaml is not a camera file"),
    (clothing, "noisy_label_kv.txt", f"images/a.jpg {10**30}", "noisy_label_kv.txt has"),
    (clothing, "noisy_label_kv.txt", "images/a.jpg 14", "noisy_label_kv.txt has the label 14 at position 0"),
    (scores, "scores.jsonl", SCORES % "NaN", "scores.jsonl, line 1 lacks a score"),
    (scores, "scores.jsonl", SCORES % "1e999", "scores.jsonl, line 1 lacks a score"),
    (scores, "scores.jsonl", SCORES % ("1" + "0" * 400), "scores.jsonl, line 1 lacks a score"),
    (pairs, "pairs.csv", f"a,b\n{'x' * 200_000},b\n", "pairs.csv cannot be read as a table of texts"),
    (reports, "label_report.csv", "row,in_sample\n0,0\n", "label_report.csv is not a label report: it lacks the"),
    (reports, "label_report.csv", f"{REPORT}{2**63},0,0,0.5,0{PROPOSED}", "label_report.csv has"),
    (reports, "label_report.csv", f"{REPORT}0,0,0,cat,0{PROPOSED}", "column score of .*label_report.csv contains text"),
    (reports, "label_report.csv", f"{REPORT}0,inf,0,0.5,0{PROPOSED}", "csv has the given inf at position 0"),
    (reports, "label_report.csv", "", "label_report.csv is not a readable table"),
    *(
        (curves, "log.tsv", f"{LOG}1\t1\t1\t{radius}\n", "line 3 of .*log.tsv is damaged")
        for radius in ("inf", "1e308", "-1", "nan", "9" * 400)
    ),
    (curves, "log.tsv", f"{LOG}{10**30}\t1\t1\t0.5\n", "line 3 of .*log.tsv is damaged"),
    (curves, "log.tsv", f"{LOG}1\t1.5\t1\t0.5\n", "line 3 of .*log.tsv is damaged"),
    (curves, "log.tsv", "\ud800", "log.tsv is not a certification log"),
]  # fmt: skip


@pytest.mark.parametrize(("read", "name", "content", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_table_is_refused_in_one_sentence(
    read: Reader, name: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_users_and_items_have_any_numbers(tmp_path: Path) -> None:
    """The memory needed depends on the number of different ids, not on the largest id."""
    rows = [f"{user}\t{2**41 + item}\t5\t0" for user in (3, 2**40) for item in range(20)]
    (tmp_path / "u.data").write_text("\n".join(rows))
    assert MovieLens(".", data_dir=str(tmp_path)).row_shapes["ratings"] == (20,)


def test_columns_of_a_uci_table_are_whole_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "uci" / "mine"
    folder.mkdir(parents=True)
    (folder / "index_features.txt").write_text("0\n1.5\n")
    with pytest.raises(ValueError, match=r"index_features\.txt has the column 1\.5 at position 1"):
        assert UCI("mine", str(tmp_path)).row_shapes


def test_an_archive_is_unpacked_no_further_than_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BUDGET", 1 << 20)
    (tmp_path / "set.gz").write_bytes(gzip.compress(b"1 1:2\n" * (1 << 20)))
    with pytest.raises(
        ValueError, match=r"set\.gz is damaged or not an svmlight file.* it unpacks to .* bytes, more than"
    ):
        read_svmlight(tmp_path / "set.gz", "Set", 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (DEEP, "is not JSON"),
        ("[1]", "must contain the settings of a certification, got a list"),
        ('{"alpha": "x"}', "alpha must be a positive number, got x"),
        ('{"alpha": 2}', r"alpha must be in \(0, 1\), got 2"),
        ('{"grid": 0}', "grid must be a positive number, got 0"),
        ('{"mode": 1}', "mode must be text, got 1"),
    ],
)
def test_settings_of_a_log_are_checked(settings: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "certification.csv").write_text(LOG.replace("\t", ","))
    (tmp_path / "certification_settings.json").write_text(settings)
    with pytest.raises(ValueError, match=rf"certification_settings\.json.* {message}"):
        overlay([tmp_path], tmp_path / "out")


def test_a_grid_has_a_bounded_number_of_radii(tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_text(LOG)
    with pytest.raises(ValueError, match=r"grid 1e-09 gives more than 1000000 radii up to 0\.5"):
        overlay([tmp_path / "log.tsv"], tmp_path / "out", grid=1e-9)


@pytest.mark.parametrize("index", ["x", "1e5", str(10**30), "-1"])
def test_a_row_of_a_certification_whose_image_has_no_number_is_damaged(index: str, tmp_path: Path) -> None:
    log = CertificationLog(tmp_path, json.loads("{}"), with_radius=True)
    log.store.folder.mkdir()
    columns = COMMUNITY + EXACT
    rows = "\t".join(columns) + "\n" + "\t".join([index, *["1"] * (len(columns) - 1)]) + "\n"
    (log.store.folder / "rank0.tsv").write_text(rows)
    with pytest.raises(ValueError, match=r"line 2 of .*rank0\.tsv is damaged"):
        log.rows()


def test_an_exposure_of_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="exposure of 0 seconds"):
        light_ratio("a_0s", "b_10s")
