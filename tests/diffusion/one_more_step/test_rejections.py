from pathlib import Path

from torch import nn

from lightning_modules.backbones import frozen
from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from lightning_modules.diffusion.one_more_step import TimeFreeUNet
from tests.diffusion.one_more_step.test_module import SCHEDULER, batch, built
from tests.rejections import Row, rejection_test


def images_without_captions(_: Path) -> object:
    data = batch()
    del data["caption"]
    return built(model=PixelModel(frozen(nn.Identity()), SCHEDULER)).training_step(data, 0)


# fmt: off
REJECTED: list[Row] = [
    ("built start 2", lambda _: built(start="zero_terminal_snr"), ValueError,
     "start zero_terminal_snr needs a model that predicts v_prediction or sample"),
    ("built official_variance", lambda _: built(deviation=0.5, official_variance=True), ValueError,
     "deviation must be None if official_variance is true"),
    ("built text_encoder", lambda _: built(text_encoder=None), ValueError,
     "text_encoder must be given, because PixelModel has no"),
    ("images without captions", images_without_captions, ValueError,
     r"OneMoreStep needs captions, but the data have none: add metadata"),
    ("TimeFreeUNet", lambda _: TimeFreeUNet(nn.Linear(2, 2)), ValueError,
     "network must be a diffusers U-Net with time embedding, got Linear"),
]
# fmt: on

test_what_is_rejected_is_named = rejection_test(*REJECTED)
