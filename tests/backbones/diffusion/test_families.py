"""A pipeline is loaded by the model class of its family, or rejected with an error that names what is missing."""

import json
import re
from pathlib import Path

import pytest

from lightning_modules.backbones import diffusion
from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.pixart import PixArtSigma
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, families
from tests.tiny_pipelines import save_pixart_sigma

ROOT = Path(__file__).parents[3]


def test_each_family_is_listed_by_the_class_of_its_network() -> None:
    exported = {getattr(diffusion, name) for name in diffusion.__all__ if isinstance(getattr(diffusion, name), type)}
    assert {*families().values()} == {each for each in exported if issubclass(each, TextToImage)}
    assert families()["PixArtTransformer2DModel"] is families()["Transformer2DModel"] is PixArtSigma


def test_each_family_has_a_configuration_and_a_row_of_the_guide() -> None:
    """`CONTRIBUTING.md` says how to add a family."""
    rows = (ROOT / "docs" / "fine_tuning.md").read_text().splitlines()
    for model in {*families().values()}:
        [*_, row] = [row for row in rows if row.startswith("|") and f"| `{model.__name__}` |" in row]
        for name in re.findall(r"\(\.\./(configs/\S+\.yaml)\)", row):
            assert (
                "diffusion.TextToImage" in row
                or model is TextToImage
                or f"diffusion.{model.__name__}" in (ROOT / name).read_text()
            ), name
        assert "configs/" in row, model


@pytest.mark.parametrize(
    ("fixture", "model"),
    [
        ("xl", "TextToImage"),
        ("sana", "Sana"),
        ("z_image", "ZImage"),
        ("lumina2", "Lumina2"),
        ("flux2", "Flux2"),
        ("hunyuan_dit", "HunyuanDiT"),
    ],
)
def test_a_pipeline_gets_the_model_of_its_family(fixture: str, model: str, request: pytest.FixtureRequest) -> None:
    loaded = text_to_image_pipeline(str(request.getfixturevalue(fixture)), tuning="lora", adapters=Adapters(rank=2))
    assert type(loaded).__name__ == model
    assert any("lora_" in name for name in loaded.state_dict())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_old_name_of_a_network_is_known(tmp_path: Path) -> None:
    folder = save_pixart_sigma(tmp_path, "Transformer2DModel")
    assert isinstance(text_to_image_pipeline(str(folder)), PixArtSigma)


def test_an_unknown_pipeline_is_rejected_by_a_sentence_that_names_what_is_missing(sana: Path, tmp_path: Path) -> None:
    """The rejection does not load any parts of the pipeline."""
    index = json.loads((sana / "model_index.json").read_text())
    for name in index:
        (tmp_path / name).mkdir()
    index["transformer"] = ["diffusers", "AuraFlowTransformer2DModel"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    supported = r"supported are TextToImage \(UNet2DConditionModel\), .*PixArtSigma \(PixArtTransf.*, Flux \(FluxTransf"
    with pytest.raises(ValueError, match=f"its transformer is a AuraFlowTransformer2DModel; {supported}"):
        text_to_image_pipeline(str(tmp_path))
    with pytest.raises(ValueError, match=f"lacks unet; its model_index.json has: .*; {supported}"):
        TextToImage(str(tmp_path))
    with pytest.raises(ValueError, match=f"must be of class PixArt.*, got AuraFlowTransformer2DModel; {supported}"):
        PixArtSigma(str(tmp_path))


def test_a_pipeline_of_another_family_names_its_model(sana: Path, pixart_sigma: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got SanaTransformer2DModel; use Sana for this pipeline"):
        PixArtSigma(str(sana))
    index = json.loads((pixart_sigma / "model_index.json").read_text())
    for name in index:
        (tmp_path / name).mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"_class_name": "PixArtAlphaPipeline"}))
    with pytest.raises(ValueError, match=r"_class_name of .* must be of class PixArtSigmaPipeline, got PixArtAlphaPip"):
        PixArtSigma(str(tmp_path))


def test_a_pipeline_without_a_network_is_rejected(sana: Path, tmp_path: Path) -> None:
    index = json.loads((sana / "model_index.json").read_text())
    del index["transformer"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="it has neither unet nor transformer; supported are"):
        text_to_image_pipeline(str(tmp_path))
