from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule

from callbacks.certification.curves import read_log
from tests.callbacks.certification.planes import Images, certification, run
from tests.callbacks.certification.test_curves import OFFICIAL
from tests.rejections import Row, rejections


class Altered(Images):
    """Images with a different dtype or range."""

    def __init__(self, alter: Any) -> None:
        super().__init__()
        self.alter = alter

    def __getitem__(self, index: int) -> Any:
        return self.alter(super().__getitem__(index))


class Nameless(LightningModule):
    def test_step(self, batch: Any, batch_idx: int) -> None: ...


def log_with_line(root: Path, line: int, torn: str) -> object:
    lines = OFFICIAL.splitlines()
    lines[line - 1] = torn
    (root / "official").write_text("\n".join(lines) + "\n")
    return read_log(root / "official")


# fmt: off
REJECTED: list[Row] = [
    ("run limit_test_batches", lambda root: run(root, certification(), limit_test_batches=0), ValueError,
     "limit_test_batches"),
    ("run scale", lambda root: run(root, certification(), data=Images(scale=2.0)), ValueError,
     r"needs images in \[0, 1\]"),
    ("run image",
     lambda root: run(root, certification(), data=Altered(lambda one: {**one, "image": (one["image"] * 255).byte()})),
     ValueError, "torch.uint8"),
    ("run", lambda root: run(root, certification(), data=Altered(lambda one: (one["image"], one["label"]))), TypeError,
     "with `image` and `label`"),
    ("run module", lambda root: run(root, certification(), module=Nameless()), TypeError,
     "Certification needs a Classifier, and Nameless lacks"),
    ("damaged line 1", lambda root: log_with_line(root, 3, "20\t8\t-1\t0."), ValueError,
     "line 3 of .*official is damaged"),
    ("damaged line 2", lambda root: log_with_line(root, 3, "20\t8\t-1\t0.40\t1\t1\t0.25\t2\t15.1"),
     ValueError, "line 3 of .*official is damaged"),
    ("damaged line 3", lambda root: log_with_line(root, 3, ""), ValueError,
     "line 3 of .*official is damaged"),
    ("damaged line 4", lambda root: log_with_line(root, 3, "20\tx\t-1\t0.0\t1\t15.2"), ValueError,
     "line 3 of .*official is damaged"),
    ("damaged line 5", lambda root: log_with_line(root, 6, "80\t4\t4\t"), ValueError,
     "line 6 of .*official is damaged"),
    ("damaged line 6", lambda root: log_with_line(root, 6, "80\t4\t4\t\t3\t15.0"), ValueError,
     "line 6 of .*official is damaged"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
