from pathlib import Path
from typing import Any

import pytest

from datamodules.jobs.settings import reject_other_settings, stored_settings, write_settings

SETTINGS = {"sigma": 0.25, "shape": (3, 8), "name": None}


def check(path: Path, settings: dict[str, Any]) -> None:
    found = stored_settings(path)
    assert found is not None
    reject_other_settings(found, settings, "the table", "use another directory")


def test_the_same_settings_pass(tmp_path: Path) -> None:
    path = tmp_path / "run" / "settings.json"
    assert stored_settings(path) is None
    write_settings(path, SETTINGS)
    check(path, SETTINGS)
    assert stored_settings(path) == {"sigma": 0.25, "shape": [3, 8], "name": None}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({**SETTINGS, "sigma": 0.5}, "sigma 0.25, and this run has 0.5: use another"),
        ({**SETTINGS, "name": "two", "shape": (3, 9)}, "name None, .* has 'two'; with shape .* has .3, 9.: use"),
        ({**SETTINGS, "new": 1}, "new 'not set', and this run has 1"),
        ({"sigma": 0.25, "shape": (3, 8)}, "name None, and this run has 'not set'"),
    ],
)
def test_all_that_differs_is_named(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    write_settings(tmp_path / "settings.json", SETTINGS)
    with pytest.raises(ValueError, match=f"the table was made with {said}"):
        check(tmp_path / "settings.json", settings)


@pytest.mark.parametrize("text", ["", "{", "3", "[1, 2]", "\xff"])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"settings\.json is damaged"):
        check(tmp_path / "settings.json", SETTINGS)
