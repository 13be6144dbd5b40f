from pathlib import Path

import numpy as np
import pytest

from datamodules.files import limits
from datamodules.files.limits import check_unpacked, whole_numbers


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.uint64])
def test_whole_numbers_come_out_in_64_bits(dtype: type) -> None:
    found = whole_numbers(np.array([[0, 3], [9, 1]], dtype), 0, 9, Path("a"), "label")
    assert found.dtype == np.int64
    assert found.tolist() == [[0, 3], [9, 1]]
    assert whole_numbers([], 0, 9, Path("a"), "label").tolist() == []


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
