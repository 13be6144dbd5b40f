from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.loading.global_batches import Request
from datamodules.prompts.buckets import Buckets, CoveringCrop
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import ShuffledTags
from datamodules.prompts.folder_sets import CaptionedFolder
from datamodules.prompts.several_sets import SeveralSets, WeightedSet
from lightning_modules.backbones.diffusion.cached_latents import cache_latents
from lightning_modules.backbones.diffusion.hunyuan_dit import HunyuanDiT
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from tests.datamodules.image_folders import photograph, save
from tests.diffusion.finetuning.models import captioned
from tests.grouped import grouped


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


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_text_encoders_run_once_for_each_batch_of_prompts_and_their_precision_is_kept(
    dtype: Any, hunyuan_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hunyuan-DiT has four fields of a prompt."""
    network, data, calls = HunyuanDiT(str(hunyuan_dit), Weights(dtype=dtype)), captioned(tmp_path / "images", 64), []
    data.setup("fit")
    expected = network.encode_prompts(["a cat", "bird", "dog"])
    embedded = network.embed
    monkeypatch.setattr(network, "embed", lambda *given: calls.append(given[0]) or embedded(*given))
    cache_latents(network, data, str(tmp_path / "cache"), torch.device("cpu"))
    assert calls == [["a cat", "bird", "dog"]]  # the distinct captions
    assert data.train_set is not None
    cached = data.train_set[next(iter(data.evaluation_loader(data.train_set).sampler))]
    place = [calls[0].index(caption) for caption in cached["caption"]]
    for field in network.prompt_fields:
        assert torch.equal(cached[field], getattr(expected, field)[place]), field
        assert cached[field].dtype == getattr(expected, field).dtype
    assert cached["embedding"].dtype == (torch.bfloat16 if dtype else torch.float32)


def test_random_crops_are_rejected(text_to_image: Path, tmp_path: Path) -> None:
    data = captioned(tmp_path / "images", augmentation=Augmentation(crop_padding=2))
    data.setup("fit")
    with pytest.raises(ValueError, match=r"are centre-cropped: data\.augmentation\.crop_padding must be 0.* got 2"):
        cache_latents(TextToImage(str(text_to_image)), data, str(tmp_path), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"embedded once: data\.tags must be null, or cache_dir null"):
        cache_latents(
            TextToImage(str(text_to_image)),
            captioned(tmp_path / "images", tags=ShuffledTags()),
            "",
            torch.device("cpu"),
        )
    assert data.train_set is not None
    data.augmentation, data.train_set.captioned = Augmentation(), replace(data.train_set.captioned, lanes=2)
    with pytest.raises(ValueError, match="set cache_dir to null for StreamedShards"):
        cache_latents(TextToImage(str(text_to_image)), data, "", torch.device("cpu"))


def test_latents_of_another_autoencoder_are_not_taken(text_to_image: Path, tmp_path: Path) -> None:
    network, cache = TextToImage(str(text_to_image)), tmp_path / "cache"
    for times in (1, 2):
        data = captioned(tmp_path / "images")
        data.setup("fit")
        cache_latents(network, data, str(cache), torch.device("cpu"))
        assert len(list(cache.glob("latents-*/array.npy"))) == times
        assert len(list(cache.glob("prompts-*/array.npy"))) == 1
        with torch.no_grad():
            next(network.vae.parameters()).add_(0.1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_latents_of_buckets_mirror_images_and_masks_are_those_of_the_images(
    masked: bool, several: bool, xl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = TextToImage(str(xl))
    for number, size in enumerate([(32, 16), (16, 16), (16, 32), (40, 21), (18, 17)]):
        save(tmp_path / "images" / f"{number}.png", photograph(*size, number))
        save(tmp_path / "masks" / f"{number}.png", photograph(*size, number + 9))
    masks = {"mask_dir": str(tmp_path / "masks")} if masked else {}
    images: Any = CaptionedFolder(str(tmp_path / "images"), image_size=16, prompt="a", buckets=Buckets(4), **masks)
    count = 5
    if several:  # share a size with the other set
        square, count = CaptionedFolder(str(tmp_path / "images"), image_size=16, prompt="b"), 15
        images = SeveralSets([WeightedSet(square, repeats=2, prefix="c "), WeightedSet(images, weight=0.5)])
    options: Any = {"batch_size": 2, "num_workers": 0, "augmentation": Augmentation(flip=True), "seed": 1}
    plain, data = (CaptionedImages(images, **grouped(CaptionedImages, options)) for _ in range(2))
    for one in (plain, data):
        one.setup("fit")
    cache_latents(network, data, str(tmp_path / "cache"), torch.device("cpu"))
    monkeypatch.setattr(CoveringCrop, "num_uniform", 2)
    monkeypatch.setattr("datamodules.prompts.captioned_set.sample_uniform", lambda *_, **__: None)  # central crops
    turned = []
    for epoch in range(3):
        loaders = [one.train_dataloader() for one in (plain, data)]
        for loader in loaders:
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for whole, found in zip(*loaders, strict=True):
            assert whole["index"].tolist() == found["index"].tolist()
            torch.testing.assert_close(found["moments"], network.moments(whole["image"]), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(found["size_conditions"], whole["size_conditions"])
            torch.testing.assert_close(found["embedding"], network.encode_prompts(whole["caption"]).embedding)
            assert (found.get("image_weight") is None) is not several
            if several:
                assert found["image_weight"].tolist() == whole["image_weight"].tolist()
            assert ("loss_mask" in found) is masked
            if masked:
                size = found["moments"].shape[-2:]
                torch.testing.assert_close(found["loss_mask"], interpolate(whole["loss_mask"], size, mode="area"))
            assert data.train_set is not None
            request = Request(found["index"], epoch, 2)
            mirrored = data.train_set.flip_mask(request)
            assert mirrored is not None
            turned += mirrored.tolist()
    assert 0 < sum(turned) < len(turned) == 3 * count
