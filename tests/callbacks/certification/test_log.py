"""Rows on disk: their content, how an interrupted certification resumes, and which rows are rejected."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats
from torch.utils.data import Dataset, Subset

from callbacks.certification.curves import read_log
from callbacks.certification.log import COMMUNITY, SIDECAR, CertificationLog, row_of, write_log
from datamodules.jobs.resumable_map import ResumableMap
from lightning_modules.robustness.certificates.adaptive_sampling import Curve
from lightning_modules.robustness.certificates.modes import Certificate, FixedSampling
from lightning_modules.robustness.certificates.votes import Certified
from tests.callbacks.certification.planes import SIGMA, Images, Planes, certification, certified, run

Finished = tuple[Path, dict[str, float]]


def test_the_published_log_and_the_sidecar_hold_each_image(finished: Finished) -> None:
    directory, _ = finished
    lines = (directory / "certification.tsv").read_text().splitlines()
    assert lines[0] == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    exact = pd.read_csv(directory / "certification.csv")
    assert tuple(exact.columns) == SIDECAR
    assert list(exact["idx"]) == list(range(12))
    assert set(exact["predict"].eq(-1)) == {False, True}
    for line, row in zip(lines[1:], exact.itertuples(), strict=True):
        idx, label, prediction, radius, correct, duration = line.split("\t")
        assert (int(idx), int(label), int(prediction)) == (row.idx, row.label, row.predict)
        assert radius == f"{row.radius:.3}"
        assert int(correct) == int(prediction == label)
        assert str(pd.Timedelta(duration).to_pytimedelta()) == duration
        p = stats.beta.ppf(0.001, row.hits, 600 - row.hits + 1) if row.hits else 0.0
        assert row.p_lower == pytest.approx(p, rel=1e-12)
        claimed = (row.selected, pytest.approx(SIGMA * stats.norm.ppf(p), rel=1e-10)) if p >= 0.5 else (-1, 0.0)
        assert (row.predict, row.radius) == claimed
        assert (row.n, row.draws, row.stage, row.outcome) == (600, 620, 1, "complete")


def test_a_row_rounds_the_radius_for_others_alone() -> None:
    row = row_of(certified())
    assert (row["radius"], row["exact_radius"]) == ("0.5", "0.49996")
    assert (row["hits"], row["p_lower"], row["time"]) == ("9 8", "0.1 0.2", str(timedelta(seconds=1.5)))
    assert row_of(certified(radius=0.0, prediction=-1))["correct"] == "0"
    assert row_of(Certified(0, -1, Certificate(-1, 0.0, "complete", 0), 0.0))["correct"] == "0"


# interruption


def test_a_finished_certification_is_not_computed_again(finished: Finished) -> None:
    directory, metrics = finished
    before = (directory / "certification.tsv").read_bytes()
    module = Planes()
    assert run(directory, certification(batch_size=77), module) == metrics
    assert module.evaluated == 12  # evaluated by the trainer's own test loop
    assert (directory / "certification.tsv").read_bytes() == before


def interrupted(finished: Path, directory: Path, keep: int, torn: str = "") -> None:
    """Create the state that a killed process leaves: some complete rows, and one incomplete row."""
    (directory / "certification_rows").mkdir(parents=True)
    shutil.copy(finished / "certification_settings.json", directory)
    lines = (finished / "certification_rows" / "rank0.tsv").read_text().splitlines(keepends=True)
    (directory / "certification_rows" / "rank0.tsv").write_text("".join(lines[: 1 + keep]) + torn)


@pytest.mark.parametrize(("keep", "torn"), [(0, "7"), (5, ""), (5, "7\t1\t1\t0.3"), (11, "7\t" + 500 * "1")])
def test_resuming_ends_with_the_same_file(finished: Finished, tmp_path: Path, keep: int, torn: str) -> None:
    interrupted(finished[0], tmp_path, keep, torn)
    module = Planes()
    assert run(tmp_path, certification(batch_size=100), module) == finished[1]
    assert module.evaluated == (12 - keep) * 620 + 1 + 12  # one more image to determine the shape of the logits
    assert (tmp_path / "certification.csv").read_bytes() == (finished[0] / "certification.csv").read_bytes()
    assert len((tmp_path / "certification_rows" / "rank0.tsv").read_text().splitlines()) == 13


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sigma": 0.5}, "sigma 0.25, and this run has 0.5"),
        ({"mode": FixedSampling(n0=20, n=700)}, "n 600, and this run has 700"),
        ({"mode": FixedSampling(n0=20, n=600, alpha=0.01)}, "alpha 0.001, and this run has 0.01"),
        ({"mode": Curve(n0=20)}, "mode 'fixed', and this run has 'curve'"),
        ({"seed": 3}, "seed 0, and this run has 3"),
        ({"skip": 2}, "with skip 1, and this run has 2; with other images; with other labels: use"),
        ({"max": 8}, "max None, and this run has 8"),
    ],
)
def test_other_settings_are_refused_by_name_and_the_result_stays(
    finished: Finished, changed: dict[str, Any], message: str
) -> None:
    before = {path.name: path.read_bytes() for path in finished[0].iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=message):
        run(finished[0], certification(**changed))
    assert {path.name: path.read_bytes() for path in finished[0].iterdir() if path.is_file()} == before


def changed(what: str) -> Images:
    """Return the same dataset with one changed label, or with all images except the first in a different order."""
    images = Images()
    images.label[7] = (images.label[7] + (what == "labels")) % 3
    images.image[1:] = images.image[1:].flip(0) if what == "images" else images.image[1:]
    return images


def unnamed(images: Images) -> Dataset:
    """Wrap the images in a dataset type whose labels must be read one by one."""
    return Subset(images, range(len(images)))


@pytest.mark.parametrize("what", ["labels", "images"])
@pytest.mark.parametrize("wrapped", [unnamed, lambda images: images], ids=["read", "in memory"])
def test_other_labels_and_other_images_of_a_set_of_that_name_are_refused(
    tmp_path: Path, what: str, wrapped: Callable[[Images], Dataset]
) -> None:
    run(tmp_path, certification(max=8), data=wrapped(Images()))
    with pytest.raises(ValueError, match=f"made with other {what}: use"):
        run(tmp_path, certification(max=8), data=wrapped(changed(what)))


def test_other_weights_and_rows_of_unknown_settings_are_refused(finished: Finished, tmp_path: Path) -> None:
    interrupted(finished[0], tmp_path, keep=3)
    module = Planes()
    module.weight[0, 0] += 1e-3
    with pytest.raises(ValueError, match="weights"):
        run(tmp_path, certification(), module)
    with pytest.raises(ValueError, match=r"dataset 'Images of 12 images', and this run has 'Images of 13 images'"):
        run(tmp_path, certification(), data=Images(13))
    (tmp_path / "certification_settings.json").unlink()
    with pytest.raises(ValueError, match=r"certification_settings\.json, which records their settings, is missing"):
        run(tmp_path, certification())


def test_settings_of_a_log_without_rows_are_replaced(finished: Finished, tmp_path: Path) -> None:
    interrupted(finished[0], tmp_path, keep=0, torn="3\t1")
    run(tmp_path, certification(sigma=0.3, max=2))
    assert json.loads((tmp_path / "certification_settings.json").read_text())["sigma"] == 0.3


def test_nothing_of_other_settings_stays_where_their_rows_were_removed(finished: Finished, tmp_path: Path) -> None:
    """Files of old rows are removed with the first new row, as the new run may be stopped or read before it ends."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "certification_rows")
    log = CertificationLog(tmp_path, {"sigma": 1.0}, with_radius=True)
    with ResumableMap(log.store, log.settings, log.settings_path):
        log.remove_tables(range(12))
        log.store.write(4, row_of(certified()))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"certification_settings.json", "certification_rows/rank0.tsv"}
    write_log(log.tsv, COMMUNITY, [row_of(certified())], "\t")
    with pytest.raises(FileNotFoundError, match="its certification is incomplete"):
        read_log(tmp_path)
