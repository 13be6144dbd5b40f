from pathlib import Path
from typing import Any

import pytest

from lightning_modules.backbones.diffusion.pipelines import diffusers_pipeline
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("diffusers_pipeline local_files_only 1", lambda _: diffusers_pipeline("nobody/nothing", local_files_only=True),
     FileNotFoundError,
     "no such folder in .* Hugging Face cache, the only place that local_files_only .* `hf download"),
    ("diffusers_pipeline local_files_only 2", lambda _: diffusers_pipeline("/nowhere/at/all", local_files_only=True),
     FileNotFoundError, "no pipeline at /nowhere/at/all: expected a folder with model_index.json"),
    ("diffusers_pipeline local_files_only 3",
     lambda _: diffusers_pipeline("missing.safetensors", local_files_only=True), FileNotFoundError,
     "expected one file with all weights"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
