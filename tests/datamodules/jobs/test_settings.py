from pathlib import Path
from typing import Any

from datamodules.jobs.settings import reject_other_settings, stored_settings, write_settings

SETTINGS = {"sigma": 0.25, "shape": (3, 8), "name": None}


def check(path: Path, settings: dict[str, Any]) -> None:
    found = stored_settings(path)
    reject_other_settings(found, settings, "the table", "use another directory")


def test_the_same_settings_pass(tmp_path: Path) -> None:
    path = tmp_path / "run" / "settings.json"
    assert stored_settings(path) is None
    write_settings(path, SETTINGS)
    check(path, SETTINGS)
    assert stored_settings(path) == {"sigma": 0.25, "shape": [3, 8], "name": None}
