from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDPMPipeline

from datamodules.classification.digits import Digits
from datamodules.loading import Loading
from datamodules.prompts.bright_digits import BrightDigits
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import CaptionedClasses
from datamodules.prompts.folder_sets import CaptionedFolder
from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.diffusion.finetuning import DiffusionFineTuning
from lightning_modules.interfaces import Generator, PictureSource, require
from tests.diffusion.finetuning.models import captioned, digits, loss_of_a_step, pixel_space, trainer, tuning


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_steps_loss_and_gradient_are_those_of_the_equation(prediction: str) -> None:
    module = tuning(pixel_space(prediction_type=prediction)).double()
    image = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = loss_of_a_step(module, {"image": image})
    network: Any = module.network.network
    gradient = network.conv_in.weight.grad.clone()
    network.zero_grad()

    torch.manual_seed(5)
    noise, t = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.randint(1000, (3,))
    beta = torch.linspace(0.0001, 0.02, 1000, dtype=torch.float32)
    abar = torch.cumprod(1 - beta, 0)[t].double().view(-1, 1, 1, 1)
    clean = 2 * image - 1
    output = network(abar.sqrt() * clean + (1 - abar).sqrt() * noise, t).sample
    ratio = (abar / (1 - abar)).flatten()
    if prediction == "epsilon":
        target, weight = noise, torch.minimum(ratio, torch.tensor(5.0)) / ratio
    else:
        target, weight = (abar.sqrt() * noise - (1 - abar).sqrt() * clean), ratio.clamp(max=5.0) / (ratio + 1)
    expected = (weight * (output - target).square().mean(dim=(1, 2, 3))).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, network.conv_in.weight.grad)


def test_a_model_of_images_is_trained_measured_drawn_from_and_saved(tmp_path: Path) -> None:
    module, data = tuning(pixel_space()), digits()
    own = trainer(tmp_path)
    own.fit(module, data)
    first = own.validate(module, data, verbose=False)[0]["val/loss"]
    assert own.test(module, data, verbose=False)[0]["test/loss"] == first
    assert module.average.updates == 2
    drawn = require(module, Generator, "this").sample(3, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 1, 8, 8)
    assert 0 <= drawn.min() <= drawn.max() <= 1
    batch = {"image": torch.rand(2, 1, 8, 8), "caption": ["a", "b"], "index": torch.arange(2), "global_batch_size": 2}
    assert list(require(module, PictureSource, "this").image_columns(batch, None)) == ["image", "sample"]
    saved = DDPMPipeline.from_pretrained(tmp_path / "run" / "pipeline").unet
    for weight, average in zip(saved.parameters(), module.average.weights, strict=True):
        torch.testing.assert_close(weight.data, average.data)
    assert not torch.equal(saved.conv_in.weight, module.network.network.conv_in.weight)


def losses(text_to_image: Path, folder: Path, cache: bool) -> list[float]:
    torch.manual_seed(0)
    network = TextToImage(str(text_to_image), tuning="lora", adapters=Adapters(rank=2))
    module = tuning(network, caption_dropout=0.5, cache_dir=str(folder / "cache") if cache else None)
    module.on_train_batch_start = lambda batch, place: torch.manual_seed(place) and None  # type: ignore[method-assign]
    data = captioned(folder / "images")
    found: list[float] = []
    module.on_train_batch_end = lambda outputs, *_: found.append(float(outputs["loss"]))  # type: ignore[method-assign, assignment]
    own = trainer(folder / str(cache))
    own.fit(module, data)
    found.append(own.validate(module, data, verbose=False)[0]["val/loss"])
    assert {name.split(".")[0] for name in module.state_dict()} == {"network", "average"}
    assert all("lora_" in name for name in module.state_dict() if name.startswith("network."))
    columns = module.image_columns({**next(iter(data.val_dataloader())), **_image(data, cache)}, None)
    assert data.validation_set is not None
    assert columns["sample"].captions == data.validation_set.captions  # type: ignore[union-attr]
    assert columns["image"].shape == (1, 3, 16, 16)  # type: ignore[union-attr]
    return found


def _image(data: CaptionedImages, cache: bool) -> dict[str, torch.Tensor]:
    return {} if cache else {"image": torch.rand(1, 3, 16, 16)}


def test_adapters_are_trained_alike_on_cached_latents_and_on_images(text_to_image: Path, tmp_path: Path) -> None:
    one, other = (losses(text_to_image, tmp_path, cache) for cache in (False, True))
    assert len(one) == 2
    assert one == pytest.approx(other, rel=1e-4)


def test_captions_are_left_out_where_the_number_lies_below_the_rate(
    text_to_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = TextToImage(str(text_to_image), tuning="lora")
    module, seen = tuning(network, caption_dropout=0.25), []
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    module.dropout.prepare(network)
    uniform = "lightning_modules.diffusion.finetuning.caption_dropout.sample_rows"
    monkeypatch.setattr(uniform, lambda *args, **kwargs: torch.tensor([0.2, 0.3]))
    monkeypatch.setattr(
        module.objective, "errors", lambda model, latent, prompts, *rest: seen.append(prompts) or latent.mean((1, 2, 3))
    )
    image = torch.rand(2, 3, 16, 16)
    batch: Any = {"image": image, "caption": ["a cat", "a dog"], "index": torch.arange(2), "global_batch_size": 2}
    module.training_step(batch, 0)
    expected = network.encode_prompts(["", "a dog"])
    torch.testing.assert_close(seen[0].embedding, expected.embedding)


def test_captions_that_are_cut_are_counted_and_named_once(
    text_to_image: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tokenizer has a token for each letter, and reads 16 tokens, among them a start and an end."""
    data = captioned(tmp_path / "images")
    (tmp_path / "images" / "1.txt").write_text("abcdefghijklmno")
    (tmp_path / "images" / "3.txt").write_text("abcdefghijklmn")
    diffusers.logging.enable_propagation()
    with pytest.warns(
        UserWarning, match=r"^1 of 4 captions have more than the 16 tokens.*tokenizer.*: 1\.png \(17 tok"
    ):
        trainer(tmp_path).fit(tuning(TextToImage(str(text_to_image), tuning="lora")), data)
    diffusers.logging.disable_propagation()
    assert "truncated" not in caplog.text


def test_adapters_go_on_from_a_checkpoint_that_holds_them_alone(text_to_image: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, data = tuning(TextToImage(str(text_to_image), tuning="lora"), rate=0.5), captioned(tmp_path / "images")
    own = trainer(tmp_path)
    own.fit(module, data)
    own.save_checkpoint(tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").stat().st_size < 200_000
    torch.manual_seed(1)
    again = tuning(TextToImage(str(text_to_image), tuning="lora"))
    trainer(tmp_path / "again", limit_train_batches=0).fit(
        again, captioned(tmp_path / "images"), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert again.average.updates == 1
    expected, found = (dict(one.named_parameters()) for one in (module, again))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert any("lora_B" in name and value.any() for name, value in expected.items())


def test_what_does_not_fit_is_refused(text_to_image: Path, tmp_path: Path) -> None:
    refused: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (
            torch.nn.Identity(),
            {},
            TypeError,
            "network must be a TextToImage, .* or pixel_pipeline, got Iden",
        ),
        (pixel_space(), {"caption_dropout": 0.1}, ValueError, "need a text-to-image model, got PixelSpace"),
        (TextToImage(str(text_to_image)), {}, ValueError, "network has no trainable parameters: its tuning must be"),
    ]
    for network, options, error, message in refused:
        with pytest.raises(error, match=message):
            DiffusionFineTuning(network, **options)
    with pytest.raises(ValueError, match=r"images of shape \[1, 16, 16\], but the U-Net expects \[1, 8, 8\]"):
        trainer(tmp_path).fit(tuning(pixel_space()), CaptionedImages(CaptionedClasses(Digits(image_size=16))))


@pytest.mark.parametrize("cached", [False, True])
def test_a_folder_without_captions_is_refused_before_an_image_is_read_or_has_one_caption_for_all(
    cached: bool, text_to_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = TextToImage(str(text_to_image), tuning="lora")
    data = captioned(tmp_path / "images")
    for text in (tmp_path / "images").glob("*.txt"):
        text.unlink()
    prompt = "a photo of sks"
    module = tuning(lora, prompts=[prompt], cache_dir=str(tmp_path / "cache") if cached else None)
    with monkeypatch.context() as patch:
        patch.setattr("datamodules.classification.image_sets.ImageFiles.fetch", None)
        with pytest.raises(
            ValueError, match=r"needs captions.* or set one caption for all images with data\.images\.prompt"
        ):
            trainer(tmp_path).fit(module, data)
    assert isinstance(data.images, CaptionedFolder)
    images = CaptionedFolder(str(data.images.data_dir), image_size=16, prompt=prompt)
    seen: list[str] = []
    encode = TextToImage.encode_prompts
    monkeypatch.setattr(TextToImage, "encode_prompts", lambda self, texts: (seen.extend(texts), encode(self, texts))[1])
    trainer(tmp_path).fit(module, CaptionedImages(images, batch_size=2, loading=Loading(num_workers=0)))
    assert set(seen) == {prompt}


def test_samples_have_the_size_of_the_training_images(text_to_image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tuning(TextToImage(str(text_to_image), tuning="lora"))  # a pipeline of 16 x 16 pixels
    assert module.sample(1, torch.Generator().manual_seed(0)).shape == (1, 3, 16, 16)
    data = CaptionedImages(BrightDigits(image_size=24))
    monkeypatch.setattr(type(module), "trainer", SimpleNamespace(datamodule=data, strategy=None), raising=False)
    module.setup("validate")
    assert module.sample(1, torch.Generator().manual_seed(0)).shape == (1, 3, 24, 24)
