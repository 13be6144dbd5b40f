"""Fine-tuning options that were developed separately work together, or are rejected in one sentence."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import train
from callbacks.generation.prompt_grid import PromptGrid
from datamodules.prompts.class_images import ClassImages
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from lightning_modules.diffusion.finetuning import TextualInversion, controlled_network
from tests.datamodules.image_folders import photograph, save
from tests.diffusion.finetuning.models import captioned, trainer, tuning
from tests.diffusion.finetuning.test_controlnet import conditioned, controlled
from tests.diffusion.finetuning.test_textual_inversion import START, WORD, inversion, plain

FAMILY = "lightning_modules.backbones.diffusion.families.text_to_image_pipeline"


def grid(**options: Any) -> PromptGrid:
    return PromptGrid(seeds=[0], num_inference_steps=2, every_n_steps=1, **options)


def test_a_grid_of_prompts_needs_prompts_and_no_condition(text_to_image: Path, tmp_path: Path) -> None:
    own = trainer(tmp_path, callbacks=[grid(prompts=["a cat"])])
    with pytest.raises(TypeError, match="PromptGrid cannot show ControlNet, which needs condition images"):
        own.fit(controlled(text_to_image), conditioned(tmp_path / "images"))
    module = tuning(TextToImage(str(text_to_image), tuning="lora"))
    module.prompts = ()  # OneMoreStep has no prompts either
    with pytest.raises(ValueError, match="prompts must be given, because DiffusionFineTuning has no prompts"):
        trainer(tmp_path, callbacks=[grid()]).fit(module, captioned(tmp_path / "images"))


@pytest.mark.parametrize("build", [tuning, controlled], ids=["finetuning", "controlnet"])
def test_prompts_of_a_module_are_not_empty(build: Any, text_to_image: Path) -> None:
    network = text_to_image if build is controlled else TextToImage(str(text_to_image), tuning="lora")
    with pytest.raises(ValueError, match="num_prompts must be at least 1, got 0"):
        build(network, prompts=[])


def test_a_controlnet_keeps_no_average_unless_it_is_asked_for(text_to_image: Path) -> None:
    assert not any(name.startswith("average.weights") for name in controlled(text_to_image).state_dict())
    kept = controlled(text_to_image, average_decay=0.5)
    assert len(kept.average.values()) == len(list(kept.controlnet.parameters()))


def test_a_controlnet_does_not_copy_quantised_weights(text_to_image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controlled_network, "is_quantized", lambda network: True)
    with pytest.raises(ValueError, match="quantization: a ControlNet starts with copies of the weights"):
        controlled(text_to_image)


def test_a_word_is_learned_through_quantised_weights_that_ddp_leaves_out(text_to_image: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    module = inversion(TextToImage(str(text_to_image), weights=Weights(quantization="int8")))
    [vectors] = [value for value in module.parameters() if value.requires_grad]
    before = vectors.detach().clone()
    trainer(tmp_path).fit(module, plain(tmp_path / "images"))
    assert (vectors != before).any()
    names: Any = module._ddp_params_and_buffers_to_ignore
    assert names
    assert all(name.startswith("network.network.") for name in names)


def test_class_images_are_not_for_a_controlnet(text_to_image: Path, tmp_path: Path) -> None:
    data = conditioned(tmp_path / "images")
    data.prior = ClassImages(str(tmp_path / "class"), "a cat", 2, 16)
    with pytest.raises(ValueError, match=r"data\.prior must be null: ControlNet does not use prior"):
        trainer(tmp_path).fit(controlled(text_to_image), data)


def test_a_pipeline_whose_family_is_looked_up_is_checked_before_it_is_loaded(
    text_to_image: Path, pixart_sigma: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the pipeline were loaded first, another error would be raised, because there are no weights."""
    ignored = shutil.ignore_patterns("*.safetensors")
    for source, name in ((text_to_image, "sd"), (pixart_sigma, "pixart")):
        shutil.copytree(source, tmp_path / name, ignore=ignored)
    conditioned(tmp_path / "images")
    save(tmp_path / "mine" / "0.png", photograph(20, 20, 0))
    conditions = ["--data.images.condition_dir", str(tmp_path / "conditions")]
    prior = ["--data.prior", "datamodules.prompts.class_images.ClassImages", "--data.prior.folder", str(tmp_path / "x")]
    prior += ["--data.prior.prompt", "a cat", "--data.prior.image_size", "16"]
    word = ["--model.placeholder_token", WORD, "--model.initializer_token", START]
    for config, folder, pipeline, more, message in (
        ("controlnet", "images", "pixart", conditions, "to train a ControlNet, got PixArtSigma"),
        ("controlnet", "images", "sd", [], "set data.images.condition_dir"),
        (
            "controlnet",
            "images",
            "sd",
            [*conditions, *prior],
            "data.prior must be null: ControlNet does not use",
        ),
        (
            "controlnet",
            "images",
            "sd",
            [*conditions, "--model.network.weights.quantization", "int8"],
            "quantization: a Contr",
        ),
        ("lora", "mine", "sd", [], "captions"),
        ("textual_inversion", "images", "sd", word, "captions must contain placeholder_token"),
        ("textual_inversion", "mine", "sd", [*word, *prior], "data.prior must be null: TextualInversion does not use"),
    ):
        command = ["fit", "--config", f"configs/finetuning/{config}.yaml", "--run_directory", str(tmp_path / "run")]
        command += ["--model.network", FAMILY, "--model.network.pipeline", str(tmp_path / pipeline)]
        command += ["--data.images.data_dir", str(tmp_path / folder), "--data.images.image_size", "16", *more]
        assert train.main(command) == 1
        assert message in capsys.readouterr().err, (config, more)


def test_the_module_of_a_new_word_has_no_empty_prompts(text_to_image: Path) -> None:
    module: TextualInversion = inversion(TextToImage(str(text_to_image)), prompts=[])
    assert module.prompts == [f"a photo of {WORD}"]
