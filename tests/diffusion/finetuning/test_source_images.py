"""Models that edit images are trained, validated and sampled with source images, from the documented commands."""

import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import train
from datamodules.files.pixels import read_pixels
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.several_sets import SeveralSets, WeightedSet
from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.diffusion.finetuning.data_checks import require_conditions
from lightning_modules.diffusion.finetuning.objectives import LossOptions
from tests.datamodules.image_folders import photograph, save
from tests.diffusion.finetuning.models import captioned, conditioned, trainer, tuning


def lora(pipeline: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    return tuning(text_to_image_pipeline(str(pipeline), tuning="lora", adapters=Adapters(2)), **options)


def command(pipeline: Path, folder: Path, *more: str) -> list[str]:
    """The documented command, for a tiny pipeline and two steps."""
    line = ["fit", "--config", "configs/finetuning/flux_kontext_lora.yaml", "--run_directory", str(folder / "run")]
    line += ["--data.images.data_dir", str(folder / "images"), "--data.images.image_size", "16"]
    line += ["--data.loading.num_workers", "0", "--model.network.pipeline", str(pipeline), "--data.batch_size", "2"]
    line += ["--model.cache_dir", str(folder / "cache"), "--trainer.max_steps", "2", "--trainer.precision", "32-true"]
    return [*line, "--trainer.accelerator", "cpu", "--model.network.weights.dtype", "null", *more]


def test_a_run_trains_adapters_that_generate_and_diffusers_alone_load(
    flux_kontext: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conditioned(tmp_path / "images", first=4)
    sources = ["--data.images.condition_dir", str(tmp_path / "conditions")]
    more = ["--model.optimizer.lr", "0.05", "--data.validation_fraction", "0.25", "--model.average_decay", "0"]
    assert train.main(command(flux_kontext, tmp_path, *sources, *more)) == 0
    line = [
        "generate",
        "--resume",
        str(tmp_path / "run"),
        "--prompts",
        "make it red",
        "--steps",
        "2",
        "--guidance",
        "2",
    ]
    line += ["--seed", "7", "--output", str(tmp_path / "new"), "--accelerator", "cpu"]
    save(tmp_path / "wide.png", photograph(32, 16, 9))
    for image, message in (
        ([], "DiffusionFineTuning needs --image, its condition image"),
        (
            ["--image", str(tmp_path / "wide.png")],
            "--image has 32 x 16 pixels, and the generated images have 16 x 16: crop",
        ),
    ):
        assert train.main([*line, *image]) == 2
        assert message in capsys.readouterr().err
    save(tmp_path / "source.png", photograph(16, 16, 9))
    assert train.main([*line, "--image", str(tmp_path / "source.png")]) == 0
    [path] = (tmp_path / "new" / "images").glob("*.png")
    alone: Any = diffusers.FluxKontextPipeline.from_pretrained(flux_kontext)
    with Image.open(tmp_path / "source.png") as source:
        given = {"image": source.convert("RGB"), "prompt": "make it red", "height": 16, "width": 16, "max_area": 256}
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    given |= {"latents": alone._pack_latents(noise, 1, 4, 8, 8), "guidance_scale": 2.0, "num_inference_steps": 2}
    given |= {"output_type": "np", "_auto_resize": False}
    before = alone(**given).images[0]
    alone.load_lora_weights(tmp_path / "run" / "pipeline")
    expected = alone(**given).images[0]
    np.testing.assert_allclose(read_pixels(path, channels=3).transpose(1, 2, 0), 255 * expected, atol=1)
    assert np.abs(expected - before).max() > 0.02


def test_unsuitable_data_are_rejected_before_the_pipeline_is_loaded(
    flux: Path, flux_kontext: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conditioned(tmp_path / "images")
    for name, folder in (("dev", flux), ("kontext", flux_kontext)):
        shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
    sources = ["--data.images.condition_dir", str(tmp_path / "conditions")]
    prior = [
        "--data.prior",
        "ClassImages",
        "--data.prior.folder",
        str(tmp_path / "prior"),
        "--data.prior.prompt",
        "a dog",
    ]
    plain = ["--model.network", "lightning_modules.backbones.diffusion.Flux"]
    for pipeline, more, message in (
        ("kontext", [], "FluxKontext needs source images: set data.images.condition_dir to their folder"),
        ("kontext", [*sources, *prior, "--data.prior.count", "2"], "data.prior must be null: FluxKontext does not use"),
        ("kontext", [*plain, *sources], "condition_dir is for models that edit images, such as FluxKontext, and for"),
        ("dev", sources, "must be of class FluxKontextPipeline, got FluxPipeline; use Flux for this pipeline"),
        ("kontext", plain, "must be of class FluxPipeline, got FluxKontextPipeline; use FluxKontext for this pipeline"),
    ):
        assert train.main(command(tmp_path / pipeline, tmp_path, *more)) == 1
        assert message in capsys.readouterr().err
    save(tmp_path / "conditions" / "2.png", photograph(10, 30, 0))
    assert train.main(command(tmp_path / "kontext", tmp_path, *sources)) == 1
    assert "2.png has 10 x 30 pixels, and its image 2.png has 20 x 20: both must have" in capsys.readouterr().err


def test_all_sets_of_a_run_need_condition_images(tmp_path: Path) -> None:
    pairs, alone = conditioned(tmp_path / "pairs").images, captioned(tmp_path / "alone").images
    data: Any = CaptionedImages(SeveralSets([WeightedSet(pairs), WeightedSet(pairs, repeats=2)]))
    require_conditions(data, "none")
    data.images = SeveralSets([WeightedSet(pairs), WeightedSet(alone)])
    with pytest.raises(ValueError, match="none"):
        require_conditions(data, "none")


def test_an_exported_network_receives_the_latents_of_source_images(flux_kontext: Path) -> None:
    module = lora(flux_kontext).eval()
    exported = module.export_function()
    assert list(exported.inputs) == ["x", "t", "source", "embedding", "pooled"]
    torch.manual_seed(0)
    x, source, prompts = (
        torch.randn(2, 4, 8, 8),
        torch.randn(2, 4, 8, 8),
        module.network.encode_prompts(["a cat", "dog"]),
    )
    t = torch.tensor([100.0, 900.0])
    with torch.no_grad():
        found = exported.function(x, t, source, prompts.embedding, prompts.pooled)
        assert torch.equal(found, module.network(x, t, prompts, source))
        assert not torch.equal(found, module.network(x, t, prompts, x))


def test_modules_reject_what_has_no_source(flux_kontext: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"loss\.dpo_beta must be null for models that edit"):
        lora(flux_kontext, loss=LossOptions(dpo_beta=2.0))
    with pytest.raises(ValueError, match=r"FluxKontext needs source images: set data\.images\.condition_dir"):
        trainer(tmp_path).fit(lora(flux_kontext), captioned(tmp_path / "images"))
    with pytest.raises(ValueError, match="FluxKontext needs a source image: set the attribute `condition`"):
        lora(flux_kontext).sample(1)


def test_the_loss_of_held_out_images_has_fixed_noise_and_depends_on_their_sources(
    flux_kontext: Path, tmp_path: Path
) -> None:
    """It is the same with cached latents, and the pictures of an image grid include the sources."""
    losses = []
    for first, options in ((4, {}), (4, {}), (8, {}), (4, {"cache_dir": str(tmp_path / "cache")})):
        module, own = lora(flux_kontext, rate=0.0, **options), trainer(tmp_path)
        own.fit(module, data := conditioned(tmp_path / "images", first=first))
        losses.append(float(own.callback_metrics["val/loss"]))
    assert losses[0] == losses[1] == pytest.approx(losses[3], rel=1e-4)
    assert losses[0] != losses[2]
    [batch] = data.val_dataloader()
    columns: Any = module.image_columns(batch, None)
    assert list(columns) == ["image", "source", "sample"]
    held_out: Any = data.validation_set
    pixels = held_out.captioned.source.fetch_conditions(held_out.row, None) / 255
    expected = module.network.decode(module.network.encode(pixels)).clamp(0, 1)
    torch.testing.assert_close(columns["source"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_that_goes_on_ends_as_one_without_a_break(cached: bool, flux_kontext: Path, tmp_path: Path) -> None:
    from callbacks.guards.seeding import SeedEveryBatch

    def fit(name: str, epochs: int, ckpt: Path | None = None) -> Any:
        own = trainer(tmp_path / name, max_epochs=epochs, callbacks=[SeedEveryBatch()])
        module = lora(flux_kontext, cache_dir=str(tmp_path / "cache") if cached else None)
        data = conditioned(tmp_path / "images", first=4, validation_fraction=0)
        own.fit(module, data, ckpt_path=ckpt, weights_only=True)
        return own

    whole = fit("whole", 2)
    fit("part", 1).save_checkpoint(tmp_path / "last.ckpt")
    rest = fit("rest", 2, tmp_path / "last.ckpt")
    states = [own.lightning_module.state_dict() for own in (whole, rest)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any("lora_B" in name and value.any() for name, value in states[0].items())
