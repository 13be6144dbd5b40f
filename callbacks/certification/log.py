"""The log of a certification: a row for each image, written as it is finished, and read again after an interruption.

In the run directory:

    certification_settings.json    settings of all rows; rows of other settings are never added
    certification_rows/rank*.tsv   rows in the order in which each process finished them
    certification.tsv              all rows, in the columns and the rounding of the published code
    certification.csv              all rows in full precision, with counts; equal for equal votes, so it holds no times
"""

import json
import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from datamodules.files.whole_files import write_text
from lightning_modules.resumable.settings_file import refuse_other_settings, stored_settings, write_settings
from lightning_modules.robustness.certificates.statistics import ABSTAIN
from lightning_modules.robustness.certificates.votes import Certified

COMMUNITY = ("idx", "label", "predict", "radius", "correct", "time")
"""Columns that plotting scripts of other projects read; `radius` has three significant digits there."""
EXACT = ("exact_radius", "selected", "outcome", "hits", "n", "p_lower", "draws", "stage")
"""Columns that the published log leaves out. Of several votes, `hits` and `p_lower` hold a number for each."""
SIDECAR = (*COMMUNITY[:5], "outcome", "selected", "hits", "n", "p_lower", "draws", "stage")
"""Columns of `certification.csv`, where `radius` has all digits."""

Row = dict[str, str]


def row_of(image: Certified) -> Row:
    """Write a finished image as text, under the columns `COMMUNITY` and `EXACT`."""
    certificate = image.certificate
    values = (
        image.index,
        image.label,
        certificate.prediction,
        f"{certificate.radius:.3}",
        int(certificate.prediction == image.label and certificate.prediction != ABSTAIN),
        timedelta(seconds=image.seconds),
        repr(certificate.radius),
        certificate.selected,
        certificate.outcome,
        " ".join(str(hits) for hits in certificate.hits),
        certificate.n,
        " ".join(repr(p) for p in certificate.p_lower),
        certificate.draws,
        certificate.stage,
    )
    return {column: str(value) for column, value in zip(COMMUNITY + EXACT, values, strict=True)}


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Row], separator: str) -> None:
    """Write the named columns of rows, whole or not at all."""
    lines = [separator.join(columns), *(separator.join(row[column] for column in columns) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")


class CertificationLog:
    """Rows of one certification, of all processes. The directory must be one that all of them share.

    Args:
        directory: directory of all files.
        settings: all that a row depends on, as JSON values.
        with_radius: False for the log of predictions, whose published form has no radius.
    """

    def __init__(self, directory: Path, settings: dict[str, Any], with_radius: bool) -> None:
        self.directory = directory
        self.settings = json.loads(json.dumps(settings))
        self.community = COMMUNITY if with_radius else tuple(name for name in COMMUNITY if name != "radius")
        self.settings_path = directory / "certification_settings.json"
        self.rows_directory = directory / "certification_rows"
        self.tsv = directory / "certification.tsv"
        self.sidecar = directory / "certification.csv"
        """All rows in full precision. Exists when the certification is complete."""
        self.table = directory / "certified_accuracy.csv"
        self.summary = directory / "certification_summary.json"
        self.figure = directory / "figures" / "certified_accuracy.png"
        self._file: TextIO | None = None

    def prepare(self, wanted: Iterable[int]) -> None:
        """Make the log ready for `check` on all processes. One process calls it, before any other reads.

        Tables and figure of all rows are removed where rows are to come: they may be an earlier certification's.

        Args:
            wanted: positions of the images to certify.
        """
        self.rows_directory.mkdir(parents=True, exist_ok=True)
        rows = self.rows()
        if not rows:
            write_settings(self.settings_path, self.settings)
        # A result of other settings is finished: `check` refuses to go on with it, and it stays.
        if stored_settings(self.settings_path) == self.settings and not rows.keys() >= set(wanted):
            for path in (self.sidecar, self.tsv, self.table, self.summary, self.figure):
                path.unlink(missing_ok=True)

    def check(self) -> None:
        """Refuse rows that were made with other settings.

        Raises:
            FileNotFoundError: if this process does not see what another one wrote.
            ValueError: names the settings that differ, or the file of settings if it is missing.
        """
        if not self.settings_path.is_file() and self.rows():
            raise ValueError(
                f"{self.rows_directory} has rows, and {self.settings_path}, which says with what settings they "
                f"were made, is missing: restore it, or remove {self.rows_directory} to start again"
            )
        remedy = f"use another run directory, or remove {self.rows_directory} to start again"
        refuse_other_settings(self.settings_path, self.settings, f"the certification in {self.directory}", remedy)

    def rows(self) -> dict[int, Row]:
        """Read all finished rows by image, whoever wrote them. An unterminated last line is no row.

        Raises:
            ValueError: if a line is damaged, or two rows of an image contradict each other.
        """
        rows: dict[int, Row] = {}
        for path in sorted(self.rows_directory.glob("rank*.tsv")):
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    lines = file.read().split("\n")[:-1]
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path} is damaged ({error}): remove it, and its images are certified again"
                ) from error
            for number, line in enumerate(lines[1:], start=2):
                fields = line.split("\t")
                if len(fields) != len(COMMUNITY + EXACT) or not re.fullmatch("[0-9]{1,18}", fields[0]):
                    raise ValueError(f"line {number} of {path} is damaged: remove it, and its image is certified again")
                row = dict(zip(COMMUNITY + EXACT, fields, strict=True))
                other = rows.setdefault(int(row["idx"]), row)
                if any(row[column] != other[column] for column in row if column != "time"):
                    raise ValueError(f"{self.rows_directory} has two different rows of image {row['idx']}")
        return rows

    def append(self, image: Certified, rank: int) -> None:
        """Add a row to this process's file and hand it to the operating system at once."""
        if self._file is None:
            self._file = self._open(self.rows_directory / f"rank{rank}.tsv")
        self._file.write("\t".join(row_of(image).values()) + "\n")
        self._file.flush()

    def _open(self, path: Path) -> TextIO:
        """Open a file at the end of its last whole line."""
        written = path.read_bytes() if path.is_file() else b""
        whole = written[: written.rfind(b"\n") + 1]
        file = path.open("r+" if path.is_file() else "w", newline="")
        file.truncate(len(whole))
        file.seek(len(whole))
        if not whole:
            file.write("\t".join(COMMUNITY + EXACT) + "\n")
        return file

    def close(self) -> None:
        """Close this process's file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def merge(self) -> None:
        """Write the tables of all rows, ordered by image; the sidecar last. One process calls it."""
        rows = [row for _, row in sorted(self.rows().items())]
        write_table(self.tsv, self.community, rows, "\t")
        exact = [{**row, "radius": row["exact_radius"]} for row in rows]
        write_table(self.sidecar, SIDECAR, exact, ",")
