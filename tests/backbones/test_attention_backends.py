"""Attention backends of diffusers, chosen by name."""

from pathlib import Path

import pytest
import torch

from lightning_modules.backbones.diffusion.flux import Flux
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from tests.backbones.diffusion.family_checks import side_of
from tests.backbones.test_weight_copies import lora, loss
from tests.nightly import nightly_beyond

CHOOSING = ("flux", "flux2", "chroma", "qwen_image", "z_image")
"""Families for which diffusers has a choice of backends."""


@pytest.mark.parametrize("fixture", nightly_beyond(["flux", "z_image"], CHOOSING))
def test_the_loss_does_not_depend_on_the_backend(fixture: str, request: pytest.FixtureRequest) -> None:
    found = []
    for name in (None, "native", "_native_math"):
        model = lora(request.getfixturevalue(fixture), attention_backend=name)
        found.append(loss(model, side_of(fixture)))
        found[-1].backward()
        model.network.reset_attention_backend()  # the choice is also the default of other networks
    torch.testing.assert_close(found[1:], found[:1] * 2, rtol=1e-5, atol=1e-5)


def test_unknown_missing_and_fixed_backends_are_rejected(text_to_image: Path) -> None:
    with pytest.raises(
        ValueError, match=r"weights\.attention_backend must be one of flash, .*, native, .*, got 'fast'"
    ):
        Flux("/nowhere", Weights(attention_backend="fast"))
    with pytest.raises(ImportError, match=r"weights\.attention_backend sage: .*install `sageattention"):
        Flux("/nowhere", Weights(attention_backend="sage"))
    with pytest.raises(ValueError, match=r"must be null: diffusers has no choice for UNet2DConditionModel"):
        TextToImage(str(text_to_image), Weights(attention_backend="native"))
