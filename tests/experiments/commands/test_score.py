"""`train.py score`: scores of a folder of images for prompts, with a tiny CLIP with random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.tiny_pipelines import save_clip
from train import main

TEXTS = ["a cat", "a cat", "dog", "dog"]
CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_clip(tmp_path_factory.mktemp("clip"))
    torch.save({"weight": torch.ones(1, 12), "bias": torch.tensor([2.0])}, folder / "head.pth")
    return folder


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """Write four images, one of a different size, in the folder layout of `generate`."""
    folder = tmp_path / "generated"
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number, size in enumerate([(16, 16), (16, 16), (16, 16), (24, 20)]):
        bytes_ = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(bytes_).save(folder / f"images/{number:06d}.png")
    Image.new("RGB", (9, 9)).save(folder / "contact_sheet.png")
    write_table(folder, [f"images/{number:06d}.png" for number in range(4)], TEXTS)
    return folder


def write_table(folder: Path, names: list[Any], prompts: list[Any]) -> None:
    pq.write_table(pa.table({"file": names, "prompt": prompts}), folder / "images.parquet")


def score(folder: Path, *words: Any) -> int:
    return main(["score", *map(str, (folder, *words, *CPU, "--cache_dir", folder.parent / "cache"))])


def test_the_clip_score_is_that_of_torchmetrics(
    clip: Path, generated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchmetrics.functional.multimodal import clip_score
    from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    processor = CLIPProcessor(CLIPImageProcessor.from_pretrained(clip), CLIPTokenizer.from_pretrained(clip))
    model = CLIPModel.from_pretrained(clip)
    # torchmetrics 1.9 expects tensors, as returned by transformers 4
    for name in ("get_image_features", "get_text_features"):
        own = getattr(model, name)
        setattr(model, name, lambda *given, own=own: getattr(found := own(*given), "pooler_output", found))
    assert score(generated, "--models", f"clip_score={clip}", "--batch_size", "3") == 0
    table = pd.read_csv(generated / "scores.csv")
    assert table["file"].tolist() == [f"images/{number:06d}.png" for number in range(4)]
    assert table["prompt"].tolist() == TEXTS
    for row in table[:3].itertuples():  # in CLIP's own size, so that nothing is resampled
        image = torch.from_numpy(np.array(Image.open(generated / str(row.file)))).permute(2, 0, 1)
        expected = clip_score(image, str(row.prompt), model_name_or_path=lambda: (model, processor))  # type: ignore[arg-type]
        # torchmetrics clips negative scores to zero
        assert max(float(row.clip_score), 0) == pytest.approx(float(expected), abs=1e-3)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert f"clip_score {table['clip_score'].mean():.6g} +- " in said
    assert "(4 images)" in said


def test_prompts_of_a_file_are_for_any_folder_of_images(clip: Path, generated: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\ndog\n")
    models = ("--models", f"clip_score={clip}", f"pick_score={clip}", f"aesthetic={clip}")
    words = ("--scores", "clip_score", "pick_score", "aesthetic", "--weights", f"aesthetic={clip / 'head.pth'}")
    assert score(generated / "images", *words, *models, "--prompts", tmp_path / "prompts.txt") == 0
    assert score(generated, *words, *models) == 0
    first, second = (pd.read_csv(folder / "scores.csv") for folder in (generated / "images", generated))
    columns = ["prompt", "clip_score", "pick_score", "aesthetic"]
    pd.testing.assert_frame_equal(first[columns], second[columns])
    assert first["clip_score"].nunique() == 4
    pd.testing.assert_series_equal(first["clip_score"], first["pick_score"], check_names=False)
    # the aesthetic score needs no prompts
    (generated / "images.parquet").unlink()
    assert score(generated / "images", "--scores", "aesthetic", *words[4:], f"--models=aesthetic={clip}") == 0


def test_image_reward_is_computed_from_a_local_file_and_a_tokenizer(generated: Path, tmp_path: Path) -> None:
    from lightning_modules.diffusion.golden_noise import ImageReward
    from tests.diffusion.golden_noise.small_image_reward import save_image_reward

    folder = save_image_reward(tmp_path / "reward")
    given = ("--weights", f"image_reward={folder / 'ImageReward.pt'}", "--models", f"image_reward={folder}")
    assert score(generated, "--scores", "image_reward", *given) == 0
    found = pd.read_csv(generated / "scores.csv")["image_reward"]
    reward = ImageReward(str(folder / "ImageReward.pt"), str(folder))
    image = torch.from_numpy(np.array(Image.open(generated / "images/000001.png"))).permute(2, 0, 1)[None] / 255
    assert found[1] == pytest.approx(reward(image, ["a cat"]).item(), abs=1e-5)
    assert found.nunique() == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scores", "mps"], "mps needs a file of weights: --weights mps=FILE, MPS_overall_checkpoint.pth"),
        (["--models", "pick_score=x"], "--models pick_score=...: the scores are clip_score"),
        (["--weights", "clip_score=x"], "--weights clip_score=...: clip_score has no further weights"),
        (["--prompts", "a", "b", "c"], "4 images cannot be divided equally among the 3 prompts of --prompts"),
        (["--prompts", "none.txt"], "no prompts at none.txt"),
        (["--models", "clip_score=/nowhere", "--local_files_only"], "no CLIP model /nowhere"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    generated: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert score(generated, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (generated / "scores.csv").exists()


@pytest.mark.parametrize(
    ("names", "prompts", "message"),
    [
        (["../secret.png"], ["a"], "must list files in its folder, got '../secret.png'"),
        (["/etc/passwd"], ["a"], "must list files in its folder, got '/etc/passwd'"),
        (["images/000009.png"], ["a"], "images/000009.png does not exist"),
        (["images/000000.png"], [None], "1 of 1 images have no prompt in images.parquet: give --prompts"),
        ([], [], "lists no image"),
    ],
)
def test_a_table_of_a_stranger_is_checked(
    generated: Path, capsys: pytest.CaptureFixture[str], names: list[Any], prompts: list[Any], message: str
) -> None:
    write_table(generated, names, prompts)
    assert score(generated) == 2
    assert message in capsys.readouterr().err


def test_damaged_files_are_named(clip: Path, generated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = generated / "images/000002.png"
    path.write_bytes(path.read_bytes()[:60])
    assert score(generated, "--models", f"clip_score={clip}") == 2
    assert "000002.png cannot be read as an image" in capsys.readouterr().err
    (generated / "images.parquet").write_bytes(b"PAR1")
    assert score(generated) == 2
    assert "images.parquet is not a table of images with the columns file and prompt" in capsys.readouterr().err
    assert score(generated / "missing") == 2
    assert "missing" in capsys.readouterr().err
