from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.files import limits
from datamodules.files.limits import check_unpacked, to_int64


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.uint64])
def test_whole_numbers_come_out_in_64_bits(dtype: type) -> None:
    found = to_int64(np.array([[0, 3], [9, 1]], dtype), 0, 9, Path("a"), "label")
    assert found.dtype == np.int64
    assert found.tolist() == [[0, 3], [9, 1]]
    assert to_int64([], 0, 9, Path("a"), "label").tolist() == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, np.nan], "a has the label nan at position 1; it must be a whole number in 0 ... 9"),
        ([np.inf, 1.0], "the label inf at position 0"),
        ([1.0, 0.5], "the label 0.5 at position 1"),
        ([3, 200], "the label 200 at position 1"),
        ([3, -1], "the label -1 at position 1"),
        (np.array([2**63], np.uint64), "the label 9223372036854775808 at position 0"),
        ([10**30], "labels of type object"),
        (["cat"], "labels of type <U3"),
        ([True, False], "labels of type bool"),
        ([1j], "labels of type complex128"),
    ],
)
def test_what_is_no_whole_number_in_range_is_named(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_int64(values, 0, 9, Path("a"), "label")


def test_a_file_may_unpack_to_a_hundred_times_its_size_or_to_a_gigabyte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    check_unpacked(tmp_path / "a", 1 << 30)
    message = "it unpacks to 1073741825 bytes, more than the limit of 1073741824 bytes for a file of 100 bytes"
    with pytest.raises(ValueError, match=message):
        check_unpacked(tmp_path / "a", (1 << 30) + 1)
    monkeypatch.setattr(limits, "BUDGET", 1000)
    check_unpacked(tmp_path / "a", 10_000)
    with pytest.raises(ValueError, match="it unpacks to 10001 bytes"):
        check_unpacked(tmp_path / "a", 10_001)
