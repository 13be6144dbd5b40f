"""Merge the label reports of all folds of a training set; no label is scored by a network that was trained on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

REPORT = "label_report.csv"
PROBABILITIES = "label_probabilities.npy"
LAYER = """# To train on the labels of {cleaned}, give this file as a second --config to `train.py fit`.
# $FOLDER is the folder of this file.
data:
  init_args:
    label_noise:
      class_path: datamodules.corruptions.label_noise.FromCSV
      init_args: {{path: "$FOLDER/{cleaned}", partial: true, classes: number}}
"""
"""Text of `cleaned_labels.yaml`."""
MOST = 2**31 - 1
COLUMNS = {"row": (0, MOST), "given": (0, MOST), "proposed": (0, MOST), "suspected": (0, 1)}
"""Columns of integers, with the minimum and maximum of their values."""
NUMBERS = ["score", "in_sample", "probability_given", "probability_proposed"]


def merge_reports(reports: Sequence[Path], every_fold: bool = False) -> "pd.DataFrame":
    """Merge the label reports of several folds into one table, with the most suspicious label first.

    Args:
        reports: paths of the reports.
        every_fold: whether it is known that no fold is missing, so that a missing row is a dropped image.
    """
    import pandas as pd

    tables = [read_report(path) for path in reports]
    for path, table in zip(reports, tables, strict=True):
        if "in_sample" not in table or table["in_sample"].any():
            raise ValueError(
                f"{path} covers labels on which its network was trained: "
                f"train with data.split.folds 5 and data.split.fold 0, 1, ..."
            )
    together = pd.concat(tables, ignore_index=True)
    if (twice := together["row"].duplicated()).any():
        raise ValueError(
            f"row {together['row'][twice].iloc[0]} is in two of the reports: give each fold once, from runs with the "
            f"same seed"
        )
    if not every_fold and len(together) != together["row"].max() + 1:
        raise ValueError(
            f"the {len(reports)} reports cover {len(together)} of at least {together['row'].max() + 1} images: the "
            f"runs of some folds are missing or not tested"
        )
    return together.sort_values("score", kind="stable", ignore_index=True)


def describe_missing(reported: int, source: Any) -> str:
    """State how many images of the whole dataset a report does not cover. The text is empty if it covers all.

    Args:
        reported: number of images in the report.
        source: the whole dataset. If it has no `label`, its size is unknown.
    """
    whole = len(getattr(source, "label", ()))
    if whole <= reported:
        return ""
    return (
        f"The label report covers {reported:,} of {whole:,} images. The labels of the other {whole - reported:,} "
        f"(held out for validation or testing, in other folds, or dropped) are unchecked. To check all labels, train "
        f"and test every fold with data.split.folds, and merge the reports with `train.py label_report`"
    )


def merge_probabilities(reports: Sequence[Path]) -> "NDArray[np.float32] | None":
    """Merge the class probabilities beside the reports of all folds, `[N, K]`, in the order of the column `row`.

    The result is None if a fold has no file of probabilities.
    """
    import numpy as np

    from datamodules.files.array_files import read_npy

    if not all(path.with_name(PROBABILITIES).is_file() for path in reports):
        return None
    tables = [read_report(path).sort_values("index") for path in reports]
    parts = [read_npy(path.with_name(PROBABILITIES)) for path in reports]
    for path, table, part in zip(reports, tables, parts, strict=True):
        if part.ndim != 2 or len(part) != len(table) or part.shape[1] != parts[0].shape[1]:
            raise ValueError(f"{path.with_name(PROBABILITIES)} does not fit to {REPORT}: test this fold again")
    return np.concatenate(parts)[np.argsort(np.concatenate([table["row"] for table in tables]), kind="stable")]


def write_probabilities(folder: Path, probability: "NDArray[np.float32]") -> None:
    """Write `label_probabilities.npy`."""
    import numpy as np

    from datamodules.files.whole_files import whole_file

    with whole_file(folder / PROBABILITIES) as partial, partial.open("wb") as file:
        np.save(file, probability)


def write_report(folder: Path, table: "pd.DataFrame") -> bool:
    """Write `label_report.csv`, `cleaned_labels.csv` and `cleaned_labels.yaml`, a layer to train on these labels.

    If a user has corrected `cleaned_labels.csv` by hand, it is not replaced.

    Returns:
        Whether `cleaned_labels.csv` was written. If false, it was corrected, and is unchanged.
    """
    from callbacks.labels.cleaning import CLEANED, cleaned_labels
    from datamodules.files.whole_files import csv_text, write_csv, write_text

    cleaned = csv_text(cleaned_labels(table))
    kept = is_corrected(folder, cleaned)
    write_csv(folder / REPORT, table)
    write_text((folder / CLEANED).with_suffix(".yaml"), LAYER.format(cleaned=CLEANED))
    if not kept:
        write_text(folder / CLEANED, cleaned)
    return not kept


def is_corrected(folder: Path, cleaned: str) -> bool:
    """Return whether `cleaned_labels.csv` differs from a new text, and from what `label_report.csv` beside it gives."""
    from callbacks.labels.cleaning import CLEANED, cleaned_labels
    from datamodules.files.number_tables import read_table
    from datamodules.files.whole_files import csv_text

    path = folder / CLEANED
    if not path.is_file() or (found := path.read_bytes()) == cleaned.encode():
        return False
    types: dict[str, Any] = {"clean_label": "Int64", "name": str}
    try:
        report = read_table(folder / REPORT, "label report", dtype=types, float_precision="round_trip", na_values={
            "clean_label": [""]}, keep_default_na=False)  # fmt: skip
        return found != csv_text(cleaned_labels(report)).encode()
    except (ValueError, KeyError, TypeError):  # the report is missing, or was itself changed
        return True


def read_report(path: Path) -> "pd.DataFrame":
    """Read a report. Reject it if a column that is used here is missing or contains invalid values."""
    from datamodules.batches import UNVERIFIED
    from datamodules.files.limits import to_int64
    from datamodules.files.number_tables import checked_numbers, read_table

    table = read_table(path, "label report")
    if missing := [column for column in (*NUMBERS, *COLUMNS) if column not in table]:
        raise ValueError(f"{path} is not a label report: it lacks the column {missing[0]}")
    for column, (least, most) in COLUMNS.items():
        table[column] = to_int64(table[column], least, most, path, column)
    if "clean_label" in table:
        known = table["clean_label"].notna()
        to_int64(table["clean_label"][known], UNVERIFIED, MOST, path, "clean_label")
        table["clean_label"] = table["clean_label"].astype("Int64")  # empty cells would turn the others into floats
    checked_numbers(table[NUMBERS], "label report", path)
    return table
