from pathlib import Path
from typing import Any

import pytest

from lightning_modules.backbones.diffusion.flow_transformer import StableDiffusion3
from lightning_modules.backbones.diffusion.flux import Flux
from lightning_modules.backbones.diffusion.text_to_image import TextToImage


@pytest.mark.parametrize(
    ("kind", "model"), [("text_to_image", TextToImage), ("stable_diffusion_3", StableDiffusion3), ("flux", Flux)]
)
def test_it_is_known_before_loading(kind: str, model: Any, request: pytest.FixtureRequest) -> None:
    folder = str(request.getfixturevalue(kind))
    assert model.size_multiple_before_loading(folder, tuning="lora") == model(folder).size_multiple


def test_a_folder_without_configurations_says_nothing(tmp_path: Path) -> None:
    assert TextToImage.size_multiple_before_loading(str(tmp_path)) is None
    (tmp_path / "vae").mkdir()
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    for text in ("{}", '{"block_out_channels": 3}', "no JSON"):
        (tmp_path / "vae" / "config.json").write_text(text)
        assert TextToImage.size_multiple_before_loading(str(tmp_path)) is None
