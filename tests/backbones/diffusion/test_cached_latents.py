from pathlib import Path

import pytest
import torch

from datamodules.augmentation.crop_and_flip import Augmentation
from lightning_modules.backbones.diffusion.cached_latents import cache_latents
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from tests.diffusion.finetuning.models import captioned


@pytest.mark.parametrize("kind", ["text_to_image", "xl"])
def test_latents_and_captions_are_those_of_the_networks_and_made_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = TextToImage(str(request.getfixturevalue(kind)))
    plain, data, again = (captioned(tmp_path / "images") for _ in range(3))
    for one in (plain, data, again):
        one.setup("fit")
    cache_latents(network, data, str(tmp_path / "cache"), torch.device("cpu"))
    for expected, given in ((plain.train_set, data.train_set), (plain.validation_set, data.validation_set)):
        assert expected is not None
        assert given is not None
        request_of_all = next(iter(plain.evaluation_loader(expected).sampler))._replace(
            indices=torch.arange(len(expected))
        )
        whole, cached = expected[request_of_all], given[request_of_all]
        assert cached["caption"] == whole["caption"]
        assert "image" not in cached
        image = whole["image"].float() / 255
        torch.testing.assert_close(cached["moments"], network.moments(image), atol=1e-5, rtol=1e-5)
        prompts = network.encode_prompts(whole["caption"])
        torch.testing.assert_close(cached["embedding"], prompts.embedding, atol=1e-5, rtol=1e-5)
        if prompts.pooled is not None:
            torch.testing.assert_close(cached["pooled"], prompts.pooled, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(network, "moments", None)
    monkeypatch.setattr(network, "encode_prompts", None)
    cache_latents(network, again, str(tmp_path / "cache"), torch.device("cpu"))


def test_mirrored_images_are_refused(text_to_image: Path, tmp_path: Path) -> None:
    data = captioned(tmp_path / "images", augmentation=Augmentation(flip=True))
    data.setup("fit")
    with pytest.raises(ValueError, match=r"cache_dir keeps images as they are: data\.augmentation must be left out"):
        cache_latents(TextToImage(str(text_to_image)), data, str(tmp_path), torch.device("cpu"))


def test_latents_of_another_autoencoder_are_not_taken(text_to_image: Path, tmp_path: Path) -> None:
    network, cache = TextToImage(str(text_to_image)), tmp_path / "cache"
    for times in (1, 2):
        data = captioned(tmp_path / "images")
        data.setup("fit")
        cache_latents(network, data, str(cache), torch.device("cpu"))
        assert len(list(cache.glob("latents-*/array.npy"))) == times
        assert len(list(cache.glob("embedding-*/array.npy"))) == 1
        with torch.no_grad():
            next(network.vae.parameters()).add_(0.1)
