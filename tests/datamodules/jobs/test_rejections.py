from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.jobs.settings import key_of, write_settings
from tests.datamodules.jobs.test_cached_array import computed, part
from tests.datamodules.jobs.test_settings import SETTINGS, check
from tests.datamodules.jobs.test_stores import texts
from tests.rejections import Row, rejections


def parts_of_an_earlier_version(root: Path) -> object:
    # Folders of earlier versions have no manifest until all files exist.
    partial = root / "cache" / f"x-{key_of({'a': 1})}.partial"
    partial.mkdir(parents=True)
    np.save(partial / "part-000003.npy", part(3))
    return computed(root)


def other_settings(root: Path, settings: dict[str, Any]) -> object:
    write_settings(root / "settings.json", SETTINGS)
    return check(root / "settings.json", settings)


def damaged_settings(root: Path, text: str) -> object:
    (root / "settings.json").write_text(text, encoding="latin-1")
    return check(root / "settings.json", SETTINGS)


def file_made_of_something_else(root: Path) -> object:
    store = texts(root)
    store.write("b", "", "made of b")
    return store.missing(["a", "b"], ["a", "made of another b"])


# fmt: off
REJECTED: list[Row] = [
    ("parts of an earlier version", parts_of_an_earlier_version, ValueError,
     r"partial has results, but .*manifest.json.* is missing: restore it, or rem"),
    ("other settings 1", lambda root: other_settings(root, {**SETTINGS, "sigma": 0.5}), ValueError,
     "the table was made with sigma 0.25, and this run has 0.5: use another"),
    ("other settings 2", lambda root: other_settings(root, {**SETTINGS, "name": "two", "shape": (3, 9)}), ValueError,
     "the table was made with name None, .* has 'two'; with shape .* has .3, 9.: use"),
    ("damaged settings 1", lambda root: damaged_settings(root, ""), ValueError, r"settings\.json is damaged"),
    ("damaged settings 4", lambda root: damaged_settings(root, "[1, 2]"), ValueError, r"settings\.json is damaged"),
    ("file made of something else", file_made_of_something_else, ValueError,
     r"b\.txt was written for other input data: remove it"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
