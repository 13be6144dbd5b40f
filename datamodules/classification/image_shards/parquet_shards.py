"""Parquet shards with a column of encoded images and a column of labels or captions, as on the Hugging Face Hub."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.classification.image_shards.remote_files import RemoteFile
from datamodules.files.limits import check_is_file, check_unpacked, sentence

ROWS_AT_ONCE = 64


class ParquetShard:
    """A parquet file of labelled images, read at most one row group at a time.

    Args:
        path: the file; a file on a server is a `RemoteFile`.
        image_key: column of encoded images: bytes, or a struct with `bytes`, as written by `datasets`.
        label_key: column of integer labels or of captions; None for images without captions.
        captioned: whether the column `label_key` contains captions instead of labels.
    """

    def __init__(self, path: Path | RemoteFile, image_key: str, label_key: str | None, captioned: bool = False) -> None:
        import pyarrow.parquet

        check_is_file(path)
        self.path = path
        self.image_key = image_key
        self.label_key = label_key
        self.captioned = captioned
        try:
            # Arrow's threads would not survive the fork that starts the DataLoader workers.
            opened = path.open() if isinstance(path, RemoteFile) else path
            self.file = pyarrow.parquet.ParquetFile(opened, pre_buffer=False)
            described = self.file.metadata
            if described.num_rows > (stored := path.stat().st_size):
                raise ValueError(f"it declares {described.num_rows} images, but has only {stored} bytes")
            groups = [described.row_group(number) for number in range(described.num_row_groups)]
            check_unpacked(path, max((group.total_byte_size for group in groups), default=0))
            self.column, self.class_names = self._columns(self.file.schema_arrow)
        except Exception as error:  # Arrow raises many exception types
            raise self._reject(error) from error
        self.first_row = np.cumsum([0, *(group.num_rows for group in groups)])
        """First row of each row group, followed by the total number of rows."""

    def _reject(self, error: BaseException) -> ValueError:
        kind = "captioned" if self.captioned else "labelled"
        return ValueError(f"{self.path} cannot be read as a parquet shard of {kind} images: {sentence(error)}")

    def _columns(self, schema: Any) -> tuple[str, list[str] | None]:
        """Check the image and label columns; return the column path of the encoded images, and stored class names."""
        import pyarrow

        image_key, label_key, is_text = self.image_key, self.label_key, self.captioned
        types = {field.name: field.type for field in schema}
        for key, column in (("image_key", image_key), ("caption_column" if is_text else "label_key", label_key)):
            if column is not None and column not in types:
                raise ValueError(f"{key} {column} is not a column; the columns are {', '.join(types)}")
        image, binary = types[image_key], (pyarrow.types.is_binary, pyarrow.types.is_large_binary)
        if pyarrow.types.is_struct(image) and image.get_field_index("bytes") >= 0:
            image, path = image.field("bytes").type, f"{image_key}.bytes"
        else:
            path = image_key
        if not any(kind(image) for kind in binary):
            raise ValueError(f"the column {image_key} must hold encoded images, as bytes, got {types[image_key]}")
        if label_key is None:
            return path, None
        if is_text and not any(k(types[label_key]) for k in (pyarrow.types.is_string, pyarrow.types.is_large_string)):
            raise ValueError(f"the column {label_key} must hold captions, as text, got {types[label_key]}")
        if not is_text and not pyarrow.types.is_integer(types[label_key]):
            raise ValueError(f"the column {label_key} must hold whole numbers, got {types[label_key]}")
        return path, _class_names((schema.metadata or {}).get(b"huggingface"), label_key)

    def __len__(self) -> int:
        return int(self.first_row[-1])

    def labels(self) -> NDArray[np.int64]:
        """Read the labels, `[n]`. If the images have captions instead of labels, return zeros."""
        if self.captioned:
            return np.zeros(len(self), dtype=np.int64)
        try:
            return self._values("label").cast("int64").to_numpy()
        except Exception as error:
            raise self._reject(error) from error

    def captions(self) -> list[str]:
        """Read the captions, `[n]`."""
        try:
            return self._values("caption").to_pylist()
        except Exception as error:
            raise self._reject(error) from error

    def _values(self, what: str) -> Any:
        column = self.file.read(columns=[self.label_key], use_threads=False)[self.label_key]
        if column.null_count:
            missing = int(column.is_null().to_numpy().argmax())
            raise ValueError(f"row {missing} has no {what}")
        return column

    def group(self, number: int) -> Any:
        """Read the encoded images of a row group, as an Arrow column."""
        try:
            table = self.file.read_row_group(number, columns=[self.column], use_threads=False)
            check_unpacked(self.path, table.nbytes)
            return self._encode(table)
        except Exception as error:
            raise self._reject(ValueError(f"row group {number}: {sentence(error)}")) from error

    def images(self) -> Iterator[bytes]:
        """Read all encoded images in small groups.

        Raises:
            ValueError: if a row has no image. The message names the shard and the row.
        """
        import pyarrow

        row = 0
        try:
            for batch in self.file.iter_batches(ROWS_AT_ONCE, columns=[self.column], use_threads=False):
                for encoded in self._encode(pyarrow.Table.from_batches([batch])).to_pylist():
                    if encoded is None:
                        raise ValueError(f"row {row} has no image")
                    yield encoded
                    row += 1
        except Exception as error:
            raise self._reject(error) from error

    def _encode(self, table: Any) -> Any:
        column = table.column(0).combine_chunks()
        return column.field("bytes") if self.column.endswith(".bytes") and column.type.num_fields else column


def _class_names(said: bytes | None, label_key: str) -> list[str] | None:
    """Read the class names from the metadata that `datasets` writes."""
    try:
        names = json.loads(said or b"{}")["info"]["features"][label_key]["names"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
