"""The content of a run's model card."""

import json
from pathlib import Path

import pytest

from experiments.hub.model_card import CardOptions, method_of, model_card, task
from experiments.hub.pushed_folder import EMBEDDINGS, Pushed


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("TextToImage", "text-to-image"),
        ("FluxKontext", "image-to-image"),
        ("text_to_image_pipeline", "text-to-image"),
        ("pixel_space.PixelSpace", "unconditional-image-generation"),
        ("pixel_space.pixel_pipeline", "unconditional-image-generation"),
    ],
)
def test_every_family_of_pipelines_has_the_task_of_its_pipelines(network: str, expected: str) -> None:
    method = "lightning_modules.diffusion.finetuning.DiffusionFineTuning"
    path = f"lightning_modules.backbones.diffusion.{network}"
    settings = {
        "model": {"class_path": method, "init_args": {"network": {"class_path": path, "init_args": {}}}},
        "data": {"class_path": "datamodules.prompts.captioned_images.CaptionedImages"},
    }
    assert task(settings, method_of(method)) == expected


FINETUNING = "lightning_modules.diffusion.finetuning"
CARDS: dict[str, tuple[tuple[str, ...], list[str], str]] = {
    "a merged network": (
        ("transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"),
        [
            'FluxModel.from_pretrained("me/mine", subfolder="pipeline/transformer")',
            'DiffusionPipeline.from_pretrained("them/theirs", transformer=transformer)',
        ],
        "finetune",
    ),
    "a ControlNet": (
        ("controlnet/config.json", "controlnet/diffusion_pytorch_model.safetensors"),
        [
            'FluxModel.from_pretrained("me/mine", subfolder="pipeline/controlnet")',
            'AutoPipelineForText2Image.from_pretrained("them/theirs", controlnet=controlnet)',
        ],
        "adapter",
    ),
    **{
        f"a new word of {len(files)} encoders": (
            files,
            [
                'DiffusionPipeline.from_pretrained("them/theirs")',
                *(
                    f'load_textual_inversion("me/mine", subfolder="pipeline", weight_name="{file}", '
                    f"text_encoder=pipeline.text_encoder{end}, tokenizer=pipeline.tokenizer{end})"
                    for file, end in zip(files, ("", "_2"), strict=False)
                ),
                "`<x>`",
            ],
            "adapter",
        )
        for files in (EMBEDDINGS[:1], EMBEDDINGS)
    },
}
"""Files of the pipeline, what the card says, and the relation to the base model."""


@pytest.mark.parametrize(("files", "said", "relation"), CARDS.values(), ids=CARDS)
def test_the_card_says_how_diffusers_loads_it(
    files: tuple[str, ...], said: list[str], relation: str, tmp_path: Path
) -> None:
    config = tmp_path / "pipeline" / files[0]
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"_class_name": "FluxModel"}))
    method = f"{FINETUNING}.DiffusionFineTuning"
    settings = {"model": {"class_path": method, "init_args": {"placeholder_token": "<x>"}}}
    pushed, options = (
        Pushed(settings, {}, "last", method, 3, None, files),
        CardOptions("me/mine", base_model="them/theirs"),
    )
    card = model_card(pushed, tmp_path, options)
    for text in (*said, "library_name: diffusers", f"base_model_relation: {relation}"):
        assert text in card
    if files[0].endswith("config.json"):
        config.write_text(json.dumps({"_class_name": "x; import os"}))
        with pytest.raises(ValueError, match=rf"pipeline/{files[0]} names no class of diffusers, got 'x; import os'"):
            model_card(pushed, tmp_path, options)
