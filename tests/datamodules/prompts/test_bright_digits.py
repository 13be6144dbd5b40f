import pytest
import torch

from datamodules.prompts.bright_digits import SHADES, BrightDigits


def test_captions_name_the_background_and_say_nothing_of_the_digit() -> None:
    captioned = BrightDigits().training()
    source, captions = captioned.source, captioned.captions
    image = source.fetch(torch.arange(1797), None)
    assert image.shape == (1797, 1, 16, 16)
    corner = image[:, 0, 0, 0] / 255
    for name, shade in SHADES.items():
        rows = torch.tensor([caption == name for caption in captions])
        assert rows.double().mean().item() == pytest.approx(0.2, abs=0.03)
        assert corner[rows].median().item() == pytest.approx(shade, abs=0.01)
        per_class = source.label[rows].bincount(minlength=10) / source.label.bincount(minlength=10)
        assert per_class.max() < 0.3
    assert BrightDigits().training().captions == captions
