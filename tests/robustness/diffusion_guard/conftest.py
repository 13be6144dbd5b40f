"""A tiny Stable Diffusion inpainting pipeline, and a folder of photographs."""

from pathlib import Path

import pytest

from tests.datamodules.editing.photographs import photographs
from tests.tiny_pipelines import save_inpainting


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inpainting(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photographs(tmp_path)
