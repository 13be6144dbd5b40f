from pathlib import Path
from typing import Any

import pytest
from diffusers import EulerDiscreteScheduler

from lightning_modules.backbones.diffusion.pipelines import diffusers_pipeline
from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from tests.backbones.diffusion.test_pixel_model import Copies
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
    ("PixelModel prediction_type", lambda _: PixelModel(Copies(), EulerDiscreteScheduler(prediction_type="flow")),
     ValueError, "prediction_type must be one of epsilon, v_prediction, sample, got 'flow'"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
