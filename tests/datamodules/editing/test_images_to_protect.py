import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules.editing.folder_sets import MaskedPhotographs
from datamodules.editing.images_to_protect import ImagesToProtect
from tests.datamodules.editing.photographs import photographs
from tests.trainers import standing


def test_prompts_are_read_for_tests_alone_and_pixels_keep_their_levels(tmp_path: Path) -> None:
    folder = photographs(tmp_path)
    data = ImagesToProtect(MaskedPhotographs(str(folder), image_size=16))
    data.trainer = standing(
        lightning_module=SimpleNamespace(dtype=torch.bfloat16), global_rank=0, world_size=1, num_devices=1
    )
    data.setup("predict")
    batch = data.on_after_batch_transfer(next(iter(data.predict_dataloader())), 0)
    assert batch["image"].dtype == torch.float32
    assert torch.equal((batch["image"] * 255).round() / 255, batch["image"])
    assert "data_range" not in batch
    assert batch["prompt"] == [[""]]
    data.setup("test")
    assert next(iter(data.test_dataloader()))["prompt"] == [["a cat", "a"]]
    (folder / "prompts.json").write_text(json.dumps({"three": ["a"]}))
    with pytest.raises(ValueError, match="prompts for three"):
        ImagesToProtect(MaskedPhotographs(str(folder), image_size=16)).setup("test")
