"""A folder of generated images: kills, ranks, batches, damaged files, and the metadata of each image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.fabric import Fabric
from PIL import Image

from callbacks.generation.generated_folder import generate_folder
from callbacks.generation.image_generators import ModuleGenerator, Settings
from callbacks.generation.image_requests import image_requests
from datamodules.prompts.prompt_sets import Prompt
from tests.callbacks.generation.tiny_generator import TinyGenerator
from tests.datamodules.jobs.killing import Points, run_until, tree
from tests.two_processes import in_two_processes


class Prompted(TinyGenerator):
    """A generator whose images are brighter for longer texts."""

    prompts = ("",)
    takes_prompts = True
    num_inference_steps = 3
    guidance_scale = 1.0

    def sample(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        brightness = torch.tensor([float(len(self.prompts[place % len(self.prompts)])) for place in range(n)])
        return (super().sample(n, generator) + brightness.view(-1, 1, 1, 1) / 10).clamp(0, 1)


TEXTS = [Prompt(0, 0, "a"), Prompt(7, 100, "größer")]


def fill(folder: Path, batch_size: int = 1, n: int = 3, **settings: Any) -> None:
    """Generate n images for each of two prompts."""
    generator = ModuleGenerator(Prompted(), Settings(**settings))
    requests = image_requests(TEXTS, None, n, None)
    generator.check(requests)
    generate_folder(folder, generator, requests, batch_size)


def killed(folder: Path, points: Points) -> None:
    fill(folder, batch_size=2, n=2)


@pytest.mark.usefixtures("small_pictures")
def test_a_killed_call_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    count = run_until(None, lambda points: killed(whole, points))
    expected = tree(whole)
    for fatal in range(0, count, 6):
        folder = tmp_path / f"{fatal}"
        run_until(fatal, lambda points, folder=folder: killed(folder, points))  # type: ignore[misc]
        assert {name for name in tree(folder) if not Path(name).name.startswith(".")} <= {*expected}
        run_until(None, lambda points, folder=folder: killed(folder, points))  # type: ignore[misc]
        assert tree(folder) == expected


def on_two(folder: Path) -> None:
    Fabric(accelerator="cpu", devices=2, strategy="ddp").launch()
    fill(folder, batch_size=2)


def test_two_ranks_share_the_blocks(tmp_path: Path) -> None:
    fill(tmp_path / "one", batch_size=2)
    in_two_processes(on_two, tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_each_image_says_what_it_is(tmp_path: Path) -> None:
    fill(tmp_path, steps=9)
    table = pd.read_parquet(tmp_path / "images.parquet")
    assert table["seed"].tolist() == [0, 1, 2, 100, 101, 102]
    assert table["prompt_index"].tolist() == [0, 0, 0, 7, 7, 7]
    assert table["place_in_batch"].isna().all()
    for row in table.itertuples():
        with Image.open(tmp_path / str(row.file)) as image:
            texts = image.text  # type: ignore[attr-defined]
            assert (texts["prompt"], texts["seed"]) == (row.prompt, str(row.seed))
            assert json.loads(texts["settings"])["steps"] == 9
            expected = Prompted().eval()
            expected.prompts = (str(row.prompt),)
            given = expected.sample(1, torch.Generator().manual_seed(int(row.seed)))
            np.testing.assert_array_equal(np.asarray(image), (255 * given[0, 0]).to(torch.uint8).numpy())


def test_the_images_of_a_batch_share_its_seed(tmp_path: Path) -> None:
    fill(tmp_path, batch_size=4)
    table = pd.read_parquet(tmp_path / "images.parquet")
    assert table["seed"].tolist() == [0, 0, 0, 0, 101, 101]
    assert table["place_in_batch"].tolist() == [0, 1, 2, 3, 0, 1]
    assert not ModuleGenerator(Prompted(), Settings()).seed_per_image
    assert len({(tmp_path / name).read_bytes() for name in table["file"]}) == 6
    with Image.open(tmp_path / "images/000005.png") as image:
        assert image.text["place_in_batch"] == "1"  # type: ignore[attr-defined]


def test_damaged_and_lost_images_are_generated_again(tmp_path: Path) -> None:
    fill(tmp_path, batch_size=2)
    expected = tree(tmp_path)
    path = tmp_path / "images/000001.png"
    path.write_bytes(path.read_bytes()[:-20])
    (tmp_path / "images/000002.png").unlink()
    with pytest.warns(UserWarning, match=r"000001.png is not a whole PNG file: it is written again"):
        fill(tmp_path, batch_size=2)
    assert tree(tmp_path) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 2}, "images 6, and this run has 4"),
        ({"batch_size": 2}, "batch_size 1, and this run has 2"),
        ({"steps": 4}, "steps 3, and this run has 4"),
    ],
)
def test_a_folder_of_other_settings_is_rejected(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    fill(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=f"{message}.*choose another --output"):
        fill(tmp_path, **change)
    assert tree(tmp_path) == before


def test_a_folder_of_other_images_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images/holiday.png")
    with pytest.raises(ValueError, match=r"has results, but .*settings.json.* is missing"):
        fill(tmp_path)
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["holiday.png"]
