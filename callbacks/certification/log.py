"""The log of a certification: a row for each image, written as it is finished, and read again after an interruption.

In the run directory:

    certification_settings.json    what every row has in common; rows of other settings are never added
    certification_rows/rank*.tsv   rows in the order in which each process finished them
    certification.tsv              all rows, in the columns and the rounding of the published code
    certification.csv              all rows in full precision, with counts; equal for equal votes, so it holds no times
"""

import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from datamodules.files.whole_files import write_text
from lightning_modules.robustness.certificates.statistics import ABSTAIN
from lightning_modules.robustness.certificates.votes import Certified

COMMUNITY = ("idx", "label", "predict", "radius", "correct", "time")
"""Columns that plotting scripts of other projects read; `radius` has three significant digits there."""
EXACT = ("exact_radius", "selected", "outcome", "hits", "n", "p_lower", "draws", "stage")
"""What the published log leaves out. Where there are several votes, `hits` and `p_lower` hold a number for each."""
SIDECAR = (
    "idx",
    "label",
    "predict",
    "radius",
    "correct",
    "outcome",
    "selected",
    "hits",
    "n",
    "p_lower",
    "draws",
    "stage",
)

Row = dict[str, str]


def row_of(image: Certified) -> Row:
    """A finished image as text, under the columns `COMMUNITY` and `EXACT`."""
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
    """Writes the named columns of rows, whole or not at all."""
    lines = [separator.join(columns), *(separator.join(row[column] for column in columns) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")


class CertificationLog:
    """Rows of one certification, of all processes. The directory must be one that all of them share.

    Args:
        directory: the run directory.
        settings: all that a row depends on, as JSON values.
        with_radius: False for the log of predictions, whose published form has no radius.
    """

    def __init__(self, directory: Path, settings: dict[str, Any], with_radius: bool) -> None:
        self.directory = directory
        self.settings = json.loads(json.dumps(settings))
        self.community = COMMUNITY if with_radius else tuple(name for name in COMMUNITY if name != "radius")
        self._file: TextIO | None = None

    @property
    def _settings_path(self) -> Path:
        return self.directory / "certification_settings.json"

    @property
    def _rows_directory(self) -> Path:
        return self.directory / "certification_rows"

    @property
    def tsv(self) -> Path:
        """All rows, as published code writes them."""
        return self.directory / "certification.tsv"

    @property
    def sidecar(self) -> Path:
        """All rows in full precision. Exists when the certification is complete."""
        return self.directory / "certification.csv"

    @property
    def table(self) -> Path:
        """Certified accuracy at several radii."""
        return self.directory / "certified_accuracy.csv"

    @property
    def summary(self) -> Path:
        """The metrics, and what they mean."""
        return self.directory / "certification_summary.json"

    @property
    def figure(self) -> Path:
        """Certified accuracy against radius."""
        return self.directory / "figures" / "certified_accuracy.png"

    def prepare(self, wanted: Iterable[int]) -> None:
        """Makes the log ready for `check` on all processes. One process calls it, before any other reads.

        Tables and figure of all rows are removed where rows are to come: they may be an earlier certification's.

        Args:
            wanted: positions of the images to certify.
        """
        self._rows_directory.mkdir(parents=True, exist_ok=True)
        rows = self.rows()
        if not rows:
            write_text(self._settings_path, json.dumps(self.settings, indent=2) + "\n")
        # A result of other settings is finished: `check` refuses to go on with it, and it stays.
        if self._stored_settings() == self.settings and not rows.keys() >= set(wanted):
            for path in (self.sidecar, self.tsv, self.table, self.summary, self.figure):
                path.unlink(missing_ok=True)

    def check(self) -> None:
        """Refuses rows that were made with other settings.

        Raises:
            FileNotFoundError: if this process does not see what another one wrote.
            ValueError: names the settings that differ, or the file of settings if it is missing.
        """
        found = self._stored_settings()
        if found is None:
            if self.rows():
                raise ValueError(
                    f"{self._rows_directory} has rows, and {self._settings_path}, which says with what settings they "
                    f"were made, is missing: restore it, or remove {self._rows_directory} to start again"
                )
            raise FileNotFoundError(
                f"{self._settings_path} was written by the first process and is not visible to this one: the run "
                f"directory must be on storage that all processes share"
            )
        differing = [
            f"{key} {found.get(key, 'not set')!r}, and this run has {self.settings.get(key, 'not set')!r}"
            for key in sorted({*found, *self.settings})
            if found.get(key) != self.settings.get(key)
        ]
        if differing:
            raise ValueError(
                f"the certification in {self.directory} was made with {'; with '.join(differing)}: use another run "
                f"directory, or remove {self._rows_directory} to start again"
            )

    def _stored_settings(self) -> dict[str, Any] | None:
        return json.loads(self._settings_path.read_text()) if self._settings_path.is_file() else None

    def rows(self) -> dict[int, Row]:
        """All finished rows by image, whoever wrote them. An unterminated last line is no row.

        Raises:
            ValueError: if a line is damaged, or two rows of an image contradict each other.
        """
        rows: dict[int, Row] = {}
        for path in sorted(self._rows_directory.glob("rank*.tsv")):
            with path.open(newline="") as file:
                lines = file.read().split("\n")[:-1]
            for number, line in enumerate(lines[1:], start=2):
                fields = line.split("\t")
                if len(fields) != len(COMMUNITY + EXACT):
                    raise ValueError(f"line {number} of {path} is damaged: remove it, and its image is certified again")
                row = dict(zip(COMMUNITY + EXACT, fields, strict=True))
                other = rows.setdefault(int(row["idx"]), row)
                if any(row[column] != other[column] for column in row if column != "time"):
                    raise ValueError(f"{self._rows_directory} has two different rows of image {row['idx']}")
        return rows

    def append(self, image: Certified, rank: int) -> None:
        """Adds a row to this process's file and hands it to the operating system at once."""
        if self._file is None:
            self._file = self._open(self._rows_directory / f"rank{rank}.tsv")
        self._file.write("\t".join(row_of(image).values()) + "\n")
        self._file.flush()

    def _open(self, path: Path) -> TextIO:
        """Opens a file at the end of its last whole line."""
        written = path.read_bytes() if path.is_file() else b""
        whole = written[: written.rfind(b"\n") + 1]
        file = path.open("r+" if path.is_file() else "w", newline="")
        file.truncate(len(whole))
        file.seek(len(whole))
        if not whole:
            file.write("\t".join(COMMUNITY + EXACT) + "\n")
        return file

    def close(self) -> None:
        """Closes this process's file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def merge(self) -> None:
        """Writes the tables of all rows, ordered by image; the sidecar last. One process calls it."""
        rows = [row for _, row in sorted(self.rows().items())]
        write_table(self.tsv, self.community, rows, "\t")
        exact = [{**row, "radius": row["exact_radius"]} for row in rows]
        write_table(self.sidecar, SIDECAR, exact, ",")
