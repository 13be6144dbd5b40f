from types import SimpleNamespace
from typing import Any

from torch import nn

from datamodules.sequences.bridge_paths import BridgePaths
from datamodules.sequences.fractional_paths import FractionalPaths
from datamodules.sequences.sequences import Sequences
from lightning_modules.probabilistic.fractional_sde import FractionalBridge, FractionalLatentSDE, FractionalNoise
from lightning_modules.probabilistic.fractional_sde.integration import check_run, check_step
from lightning_modules.probabilistic.fractional_sde.networks import FrameDecoder, FrameEncoder
from tests.rejections import Row, rejection_test
from tests.trainers import quiet


def run_of(precision: str, interval: float | None = None) -> object:
    data = None if interval is None else SimpleNamespace(interval=interval, num_times=9)
    return check_run(SimpleNamespace(precision=precision, datamodule=data), FractionalNoise(0.5), 1)


def bridge_over_long_steps() -> object:
    return quiet().fit(FractionalBridge(FractionalNoise(0.7)), Sequences(BridgePaths(0.7, num_times=11)))


def latent_paths(**paths: Any) -> object:
    module = FractionalLatentSDE(FractionalNoise(gamma_max=10.0), nn.Linear(2, 64), nn.Linear(70, 2), num_given=6)
    return quiet(max_epochs=1).fit(module, Sequences(FractionalPaths(0.7, **paths)))


def videos(**sizes: int) -> object:
    return FractionalLatentSDE(FractionalNoise(0.7), FrameEncoder(), FrameDecoder(), **sizes)


# fmt: off
REJECTED: list[Row] = [
    ("check_step", lambda _: check_step(20.0, 0.1, 3), ValueError,
     r"gamma_max 20 with 3 substeps of an interval of 0.1 gives 0.667: set substeps"),
    ("check_step exactly a half", lambda _: check_step(20.0, 0.1, 4), ValueError, "substeps to at least 5"),
    ("check_run interval", lambda _: run_of("64-true", 0.1), ValueError, "gamma_max"),
    ("check_run float16", lambda _: run_of("16-true"), ValueError, "trainer.precision 16-true"),
    ("check_run bfloat16", lambda _: run_of("bf16-true"), ValueError, "trainer.precision bf16-true"),
    ("FractionalBridge steps", lambda _: bridge_over_long_steps(), ValueError,
     r"gamma_max 20 with 1 substeps of an interval of 0\.2 gives 4"),
    ("FractionalLatentSDE decoder", lambda _: videos(num_latents=4), ValueError,
     r"decoder\.in_features is 70, but num_contents and num_latents together are 68"),
    ("FractionalLatentSDE encoder", lambda _: videos(num_features=32), ValueError,
     r"encoder\.num_features is 64, but num_features is 32"),
    ("FractionalLatentSDE sequences", lambda _: latent_paths(num_times=6), ValueError,
     "num_given must be below 6, the number of observations of a sequence"),
    ("FractionalLatentSDE steps", lambda _: latent_paths(interval=0.2), ValueError,
     r"gamma_max 10 with 3 substeps of an interval of 0\.2 gives 0\.667"),
    ("FrameEncoder image_size", lambda _: FrameEncoder(image_size=40), ValueError,
     "image_size must be a multiple of 16 for 4 blocks, got 40"),
    ("FrameEncoder channels", lambda _: FrameEncoder(channels=[12, 8]), ValueError,
     r"channels must be multiples of 8, got \[12, 8\]"),
    ("FrameDecoder image_size", lambda _: FrameDecoder(image_size=40), ValueError,
     "image_size must be a multiple of 16 for 4 blocks, got 40"),
    ("FrameDecoder channels", lambda _: FrameDecoder(channels=[12, 8]), ValueError,
     r"channels must be multiples of 8, got \[12, 8\]"),
]
# fmt: on

test_what_is_rejected_is_named = rejection_test(*REJECTED)
