import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.editing.folder_sets import MaskedPhotographs
from datamodules.files.image_files import UnreadableImage
from datamodules.loading.global_batches import Request
from tests.datamodules.editing.photographs import photographs as written_photographs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written_photographs(tmp_path)


def test_a_folder_is_read(folder: Path) -> None:
    photographs = MaskedPhotographs(str(folder), image_size=16).test(0, with_prompts=True)
    batch = photographs[Request(torch.tensor([0, 1]), 0, 2)]
    assert batch["image"].shape == (2, 3, 16, 16)
    assert batch["regions"].shape == (2, 2, 16, 16)
    assert not batch["regions"][0, 1].any()  # the first image has one region
    assert torch.equal(batch["editor_keeps"][:, 0], batch["regions"].any(dim=1))
    assert batch["name"] == ["one", "two"]
    assert batch["prompt"] == [["a cat", "a"], ["a cat"]]
    assert "source_prompt" not in batch


def test_an_images_name_may_have_dots_and_brackets(folder: Path) -> None:
    for name in ("one.5", "[1]"):
        Image.new("RGB", (20, 20)).save(folder / "images" / f"{name}.png")
        Image.new("L", (20, 20), 255).save(folder / "masks" / f"{name}.png")
    for masks in ("one", "two"):
        for mask in (folder / "masks" / masks).glob("unseen*"):
            mask.unlink()
    (folder / "masks" / "one" / "seen.png").rename(folder / "masks" / "one.png")
    photographs = MaskedPhotographs(str(folder), image_size=16).test(0, with_prompts=False)
    batch = photographs[Request(torch.arange(4), 0, 4)]
    assert batch["name"] == ["[1]", "one.5", "one", "two"]
    assert batch["regions"][:2, 0].all()
    assert not batch["regions"][2].any(dim=0).all()  # not the mask of one.5
    assert batch["editor_keeps"].shape == (4, 1, 16, 16)


def test_prompts_may_come_with_what_the_image_shows(folder: Path) -> None:
    one, two = {"source": "a", "edits": ["a cat", "a"]}, {"source": "", "edits": ["cat"]}
    (folder / "prompts.json").write_text(json.dumps({"one": one, "two": two}))
    photographs = MaskedPhotographs(str(folder), image_size=16).test(0, with_prompts=True)
    batch = photographs[Request(torch.tensor([1, 0]), 0, 2)]
    assert batch["prompt"] == [["cat"], ["a cat", "a"]]
    assert batch["source_prompt"] == ["", "a"]


def test_prompts_that_do_not_fit_are_named(folder: Path) -> None:
    def refused(prompts: str, match: str) -> None:
        (folder / "prompts.json").write_text(prompts)
        with pytest.raises(ValueError, match=match):
            MaskedPhotographs(str(folder), image_size=16).test(0, with_prompts=True)

    refused("{", "prompts.json is not JSON")
    refused("[]", "prompts.json is not of the form")
    refused(json.dumps({"one": ["a"], "two": ["a"], "three": ["a"]}), "prompts for three, which is not an image")
    refused(json.dumps({"one": ["a"]}), "no prompts for the image two")
    for wrong in ("a", [1], {"edits": []}, {"edits": ["a"], "b": 1}):
        refused(json.dumps({"one": ["a"], "two": wrong}), "two is not of the form")
    refused(
        json.dumps({"one": {"source": "a", "edits": ["a"]}, "two": ["a"]}), "some images have a source, but two has"
    )
    MaskedPhotographs(str(folder), image_size=16).test(0, with_prompts=False)  # does not read the prompts


def test_damaged_files_are_all_named_before_any_image_is_protected(folder: Path) -> None:
    (folder / "masks" / "two" / "unseen1.png").write_bytes(b"no image")
    whole = (folder / "images" / "one.png").read_bytes()
    (folder / "images" / "one.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UnreadableImage, match=r"one.png cannot be read .*unseen1.png cannot .*: replace or remove them$"
    ):
        MaskedPhotographs(str(folder), image_size=16).test(0, with_prompts=False)


def test_photographs_are_turned_as_their_cameras_say(folder: Path) -> None:
    upright = Image.open(folder / "images" / "one.png")
    exif = upright.getexif()
    exif[0x0112] = 6  # the camera was upright, so rows and columns are swapped
    (folder / "images" / "one.png").unlink()
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "images" / "one.tiff", exif=exif)
    photographs = MaskedPhotographs(str(folder), image_size=16).test(0, with_prompts=True)
    found = photographs[Request(torch.tensor([0]), 0, 1)]["image"][0].permute(1, 2, 0).numpy()
    assert (found == np.array(upright.resize((16, 16)))).all()


def test_a_folder_that_is_not_whole_is_refused(folder: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            MaskedPhotographs(str(folder), image_size=16).test(0, with_prompts=False)

    Image.new("RGB", (20, 20)).save(folder / "images" / "one.jpg")
    refused(ValueError, "several images named one")
    (folder / "images" / "one.jpg").unlink()
    (folder / "masks" / "two" / "unseen1.png").unlink()
    refused(ValueError, "same number of unseen.*1 of one, 0 of two")
    (folder / "masks" / "one" / "seen.png").unlink()
    refused(FileNotFoundError, "no mask of one in .*masks; expected images/<name>.png")
    with pytest.raises(FileNotFoundError, match="no images in"):
        MaskedPhotographs(str(tmp_path), image_size=16).test(0, with_prompts=False)
