"""Read a CSV table of labels that the user provides."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.batches import UNVERIFIED
from datamodules.corruptions.label_noise.interface import checked_labels


class LabelTable:
    """CSV table of labels, whose cells are read as text. For the arguments, see `FromCSV`.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if the file is not a CSV table, or lacks a column or has it twice.
    """

    def __init__(
        self,
        path: str,
        column: str,
        key: Literal["index", "row", "name"] | None,
        partial: bool,
        classes: Literal["number", "name"] | None,
    ) -> None:
        import pandas as pd

        if not Path(path).is_file():
            raise FileNotFoundError(
                f"{path} was not found: expected a CSV file with the columns name,label or index,label, and "
                f"optionally clean_label"
            )
        try:
            rows = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except Exception as error:  # pandas raises many exception types, also for wrong encodings and lack of memory
            raise ValueError(
                f"{path} cannot be read ({str(error).strip()}): expected a CSV file in UTF-8 whose first row "
                "has the names of the columns, such as index,label"
            ) from error
        header = rows.iloc[0].str.strip().tolist()
        if len(header) == 1 and (other := next((sign for sign in (";", "\t") if sign in header[0]), None)):
            raise ValueError(
                f"{path} separates its columns by {'a tab' if other != ';' else 'semicolons'}, but a table "
                f"of labels must use commas, as in name,label"
            )
        table = rows.iloc[1:].set_axis(header, axis=1).fillna("").reset_index(drop=True)
        self.key = key or ("name" if "index" not in table and "name" in table else "index")
        shown = self.key if key or self.key in header else "name (or index)"
        for needed in (self.key, column):
            if needed not in header:
                raise ValueError(
                    f"{path} must have the columns {shown},{column}[,clean_label], but lacks "
                    f"{shown if needed == self.key else needed}: got {','.join(header)}"
                )
        if twice := [name for name in header if header.count(name) > 1]:
            raise ValueError(f"{path} has the column {twice[0]} twice")
        self.path = path
        self.column = column
        self.partial = partial
        self.classes = classes
        self.cells = table

    def rows(self, samples: int, names: Sequence[str] | None) -> np.ndarray:
        """Return, for each row of the table, the position of the row's sample in the dataset."""
        import pandas as pd

        key, table = self.key, self.cells
        if key == "name":
            if names is None:
                raise ValueError(f"{self.path} labels files by name, but the samples of this dataset have no names")
            place = {name: row for row, name in enumerate(names)}
            found = table[key].map(place)
            if found.isna().any():
                unknown = table[key][found.isna()].iloc[0]
                raise ValueError(
                    f"{self.path} has a label for {unknown}, but this dataset has files such as {names[0]}"
                )
        else:
            found = pd.to_numeric(table[key], errors="coerce")
            if not found.isin(range(samples)).all():
                outside = table[key][~found.isin(range(samples))].iloc[0]
                raise ValueError(f"{key} in {self.path} must be in 0 ... {samples - 1}, got {outside!r}")
        row = found.to_numpy(dtype=np.int64)
        if names is not None and "name" in table:
            here = np.array(names, dtype=object)[row]
            if len(other := np.flatnonzero(table["name"] != here)):
                raise ValueError(
                    f"{self.path} has {table['name'][other[0]]} at {key} {row[other[0]]}, but this dataset has "
                    f"{here[other[0]]} there; set `key: name` to identify samples by file name"
                )
        listed = np.bincount(row, minlength=samples)
        if listed.max() > 1:
            raise ValueError(f"{key} {table[key][row == listed.argmax()].iloc[0]} occurs twice in {self.path}")
        if not self.partial and not listed.all():
            first = int(listed.argmin())
            raise ValueError(
                f"{self.path} has labels for {len(row)} of {samples} samples: "
                f"{key} {names[first] if key == 'name' else first} is missing; "  # type: ignore[index]
                "with `partial: true`, such samples keep their label"
            )
        return row

    def labels(
        self, num_classes: int, class_names: Sequence[str] | None, column: str | None = None, where: Any = slice(None)
    ) -> np.ndarray:
        """Convert class numbers or names to labels `[n]`.

        Args:
            num_classes: number of classes, K.
            class_names: names of the classes, if they are known.
            column: column with the labels. None means the column of the given labels.
            where: Boolean array that selects rows. By default, all rows are selected.
        """
        import pandas as pd

        column = column or self.column
        code, words = pd.factorize(self.cells[where][column].str.strip())
        readings = {
            "number": {word: int(word) for word in words if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", word)},
            "name": {name: number for number, name in enumerate(class_names or ())},
        }
        if (only := "name" if column.endswith("_name") else self.classes) is not None:
            readings = {only: readings[only]}
        # Prefer an interpretation that fits all words to one that fits only some of them.
        fitting = [reading for reading in readings.values() if set(words) <= reading.keys()] or [*readings.values()]
        label: list[int] = []
        known = ": " + ", ".join([*class_names[:10], *["..."] * (len(class_names) > 10)]) if class_names else ""
        for word in words:
            meant = {reading[word] for reading in fitting if word in reading}
            if not meant:
                raise ValueError(
                    f"{column} of {self.path} is {word!r}, which is not the {' or the '.join(readings)} of a class"
                    f"{known}"
                )
            if len(meant) > 1:
                raise ValueError(
                    f"{column} of {self.path} is ambiguous, because {word} is the number of one class and the name of "
                    "another: set `classes: number` or `classes: name`"
                )
            label += meant
        return checked_labels(np.array(label, dtype=np.int64)[code], num_classes, f"{column} of {self.path}")

    def truth(self, num_classes: int, class_names: Sequence[str] | None) -> np.ndarray:
        """Return true labels `[n]`: -1 stands for an out-of-distribution image, `UNVERIFIED` for an empty cell."""
        word = self.cells["clean_label"].str.strip()
        truth = np.where(word == "", UNVERIFIED, -1)
        stated = ~word.isin(["", "-1"])
        truth[stated] = self.labels(num_classes, class_names, "clean_label", stated)
        return truth
