"""A JSON file contains one object, or is rejected in one sentence with its name."""

from pathlib import Path

import pytest

from datamodules.files import text_files
from datamodules.files.text_files import read_json_object


def test_an_object_is_read(tmp_path: Path) -> None:
    (path := tmp_path / "config.json").write_text('{"a": 1, "é": [2]}', encoding="utf-8")
    assert read_json_object(path, ["a"]) == {"a": 1, "é": [2]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "must contain a JSON object, got a list"),
        (b"null", "must contain a JSON object, got a NoneType"),
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"b": 1}', "lacks a"),
        (b'{"a": "\\ud800"}', r"'\\ud800' is half of a character"),
        (b'{"a": "' + b"x" * 1000 + b'"}', "at most 1000"),
    ],
)
def test_anything_else_is_refused(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "LARGEST", 1000 if len(content) < 1100 else 1 << 20)
    (path := tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json .*{message}") as caught:
        read_json_object(path, ["a"])
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        read_json_object(tmp_path / "none")
