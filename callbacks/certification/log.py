"""The log of a certification.

Each finished image is written as one row. A resumed certification reads these rows.

In the run directory:

    certification_settings.json    settings of all rows; rows with other settings are never added
    certification_rows/rank*.tsv   rows of each rank, in the order in which they were finished
    certification.tsv              all rows, with the columns and the rounding of the published code
    certification.csv              all rows in full precision, with counts, without times: equal votes give equal files
"""

import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from datamodules.files.whole_files import write_text
from datamodules.jobs.stores import Row, RowStore
from lightning_modules.robustness.certificates.statistics import ABSTAIN
from lightning_modules.robustness.certificates.votes import Certified

COMMUNITY = ("idx", "label", "predict", "radius", "correct", "time")
"""Columns that plotting scripts of other projects read. Here, `radius` is rounded to three significant digits."""
EXACT = ("exact_radius", "selected", "outcome", "hits", "n", "p_lower", "draws", "stage")
"""Columns that logs of the published code lack. With several votes, `hits` and `p_lower` have one number per vote."""
SIDECAR = (*COMMUNITY[:5], "outcome", "selected", "hits", "n", "p_lower", "draws", "stage")
"""Columns of `certification.csv`, in which `radius` has all digits."""


def row_of(image: Certified) -> Row:
    """Format the result of an image as text: the values of the columns `COMMUNITY` and `EXACT`."""
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


def write_log(path: Path, columns: Sequence[str], rows: Iterable[Row], separator: str) -> None:
    """Write the columns `columns` of rows to a file, atomically."""
    lines = [separator.join(columns), *(separator.join(row[column] for column in columns) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")


class CertificationLog:
    """The rows of one certification, from all ranks.

    Args:
        directory: directory for all files of the log, to which all ranks must have access.
        settings: everything on which a row depends, as JSON values.
        with_radius: whether rows have a radius. It is false for logs of predictions, which have no radius in the
            published format.
    """

    def __init__(self, directory: Path, settings: dict[str, Any], with_radius: bool) -> None:
        self.directory = directory
        self.settings = json.loads(json.dumps(settings))
        self.community = COMMUNITY if with_radius else tuple(name for name in COMMUNITY if name != "radius")
        self.settings_path = directory / "certification_settings.json"
        self.store = RowStore(directory / "certification_rows", COMMUNITY + EXACT, varying=["time"])
        self.tsv = directory / "certification.tsv"
        self.sidecar = directory / "certification.csv"
        """File of all rows in full precision; it exists once the certification is complete."""
        self.table = directory / "certified_accuracy.csv"
        self.summary = directory / "certification_summary.json"
        self.figure = directory / "figures" / "certified_accuracy.png"

    def remove_tables(self, wanted: Iterable[int]) -> None:
        """If the log lacks wanted rows, remove the tables and the figure, which may come from an earlier certification.

        Args:
            wanted: positions of the images that are to be certified.
        """
        if not self.rows().keys() >= set(wanted):
            for path in (self.sidecar, self.tsv, self.table, self.summary, self.figure):
                path.unlink(missing_ok=True)

    def rows(self) -> dict[int, Row]:
        """Read the finished rows of all ranks; return them by image position."""
        return self.store.rows()

    def merge(self) -> None:
        """Write the tables of all rows, ordered by image position.

        The file `certification.csv` is written last. Only one rank may call this method.
        """
        rows = [row for _, row in sorted(self.rows().items())]
        write_log(self.tsv, self.community, rows, "\t")
        exact = [{**row, "radius": row["exact_radius"]} for row in rows]
        write_log(self.sidecar, SIDECAR, exact, ",")
