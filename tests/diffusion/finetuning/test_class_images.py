import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.loading import Loading
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.class_images import ClassImages
from datamodules.prompts.folder_sets import CaptionedFolder
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.diffusion.finetuning.class_images import generate_class_images
from tests.datamodules.image_folders import photograph, save
from tests.diffusion.finetuning.models import trainer, tuning

SAMPLING = {"num_inference_steps": 2, "guidance_scale": 2.0}


def classes(folder: Path, count: int, prompt: str = "a cat") -> ClassImages:
    return ClassImages(str(folder), prompt, count, image_size=16)


def pixels_of(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).int()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_missing_images_are_generated_once_whatever_exists(text_to_image: Path, tmp_path: Path) -> None:
    network = TextToImage(str(text_to_image)).eval()
    generate_class_images(network, classes(tmp_path / "whole", 6), 0, **SAMPLING)
    whole = content(tmp_path / "whole")
    assert list(whole) == [f"{number:06d}.png" for number in range(6)]
    assert len(set(whole.values())) == 6
    assert Image.open(tmp_path / "whole" / "000003.png").size == (16, 16)
    generate_class_images(network, classes(tmp_path / "parts", 2), 0, **SAMPLING)
    generate_class_images(network, classes(tmp_path / "parts", 6), 0, **SAMPLING)
    for name in whole:
        pixels = [pixels_of(tmp_path / folder / name) for folder in ("parts", "whole")]
        assert (pixels[0] - pixels[1]).abs().max() <= 1, name
    (tmp_path / "whole" / "000003.png").unlink()
    generate_class_images(network, classes(tmp_path / "whole", 6), 0, **SAMPLING)
    assert len(content(tmp_path / "whole")) == 6
    assert json.loads((tmp_path / "whole" / "settings.json").read_text())["prompt"] == "a cat"


def test_images_of_another_prompt_and_a_fine_tuned_model_are_rejected(text_to_image: Path, tmp_path: Path) -> None:
    network = TextToImage(str(text_to_image)).eval()
    generate_class_images(network, classes(tmp_path, 1), 0, **SAMPLING)
    with pytest.raises(ValueError, match=r"prompt.*set a different data\.prior\.folder"):
        generate_class_images(network, classes(tmp_path, 2, "a dog"), 0, **SAMPLING)
    with pytest.raises(ValueError, match=r"1 of 2 class images in .* are missing, but the resumed model"):
        generate_class_images(network, classes(tmp_path, 2), 7, **SAMPLING)
    generate_class_images(network, classes(tmp_path, 1), 7, **SAMPLING)


@pytest.mark.parametrize("cached", [False, True])
def test_thirty_images_and_one_prompt_are_trained_with_class_images(
    cached: bool, text_to_image: Path, tmp_path: Path
) -> None:
    for number in range(4):
        save(tmp_path / "own" / f"{number}.png", photograph(20, 24, number))
    images = CaptionedFolder(str(tmp_path / "own"), image_size=16, prompt="a photo of sks")
    prior = classes(tmp_path / "class", 3, "a photo")
    data = CaptionedImages(images, batch_size=2, loading=Loading(num_workers=0), prior=prior)
    module = tuning(
        TextToImage(str(text_to_image), tuning="lora"), cache_dir=str(tmp_path / "cache") if cached else None
    )
    seen: list[Any] = []
    module.on_train_batch_start = lambda batch, place: seen.append(batch)  # type: ignore[method-assign, assignment]
    own = trainer(tmp_path / "run")
    own.fit(module, data)
    assert len(content(tmp_path / "class")) == 3
    assert own.callback_metrics["train/prior"] > 0
    for batch in seen:
        assert set(batch["prior"]["caption"]) == {"a photo"}
        assert set(batch["caption"]) == {"a photo of sks"}
        assert ("image" in batch["prior"]) is not cached
        assert "epoch" not in batch["prior"]


def test_every_image_has_a_class_image_that_changes_with_the_epoch(tmp_path: Path) -> None:
    for number in range(8):
        save(tmp_path / "class" / f"{number:06d}.png", photograph(16, 16, number))
        save(tmp_path / "own" / f"{number}.png", photograph(16, 16, number))
    images = CaptionedFolder(str(tmp_path / "own"), image_size=16, prompt="a")
    data = CaptionedImages(
        images, batch_size=4, loading=Loading(num_workers=0, seed=1), prior=classes(tmp_path / "class", 8)
    )
    data.setup("fit")
    partners: list[dict[int, int]] = []
    for epoch in (0, 0, 1):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        partners.append({})
        for batch in loader:
            partners[-1] |= dict(zip(batch["index"].tolist(), batch["prior"]["index"].tolist(), strict=True))
    assert partners[0] == partners[1] != partners[2]
    assert set(partners[0]) == set(range(8))
    assert len({*partners[0].values(), *partners[2].values()}) > 4
