"""Aerial images enlarged four times by a network that was trained for minutes on small images of AID."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from PIL import Image

from callbacks.image_quality.sharpness import Sharpness
from datamodules.loading import Loading
from datamodules.restoration.folder_sets import ScaledFolders
from datamodules.restoration.image_pairs import ImagePairs
from datamodules.restoration.images import PatchSampling
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.baselines import SupervisedRestoration
from lightning_modules.networks.eanet import EANet
from lightning_modules.optim.schedules import CosineOverSteps
from lightning_modules.restoration.ediffsr import EDiffSR
from tests.trainers import quiet

STEPS = 1500
PLACES = {  # centres of squares of 256 pixels
    "aid/airport_285_GT.png": (256, 256),
    "dota/P1888.png": (278, 356),
    "landsat/RGB.byte.tif": (359, 395),
}

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("NOISEWORKS_DATA" not in os.environ, reason="needs NOISEWORKS_DATA with remote_sensing"),
]


def measured(trainer: Trainer, module: LightningModule, data: ImagePairs) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in trainer.test(module, data, verbose=False):
        found |= {key.split("/dataloader")[0]: value for key, value in each.items()}
    return found


def test_diffusion_restores_the_sharpness_that_regression_loses(tmp_path: Path) -> None:
    folder = Path(os.environ["NOISEWORKS_DATA"], "remote_sensing")
    for name, (row, column) in PLACES.items():
        target = tmp_path / name.split("/")[0] / "image.png"
        target.parent.mkdir()
        box = (column - 128, row - 128, column + 128, row + 128)
        Image.open(folder / name).convert("RGB").crop(box).save(target)
    found = {}
    for kind in ("diffusion", "regression"):
        seed_everything(0)
        network = EANet(width=16, encoder=[2], decoder=[1])
        options: Any = {
            "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0),
            "lr_scheduler": lambda optimizer: CosineOverSteps(optimizer, STEPS),
        }
        regression = SupervisedRestoration(network, loss="l1", factor=4, **options)
        tests = {name.split("/")[0]: ScaledFolders(str(tmp_path / name.split("/")[0])) for name in PLACES}
        data = ImagePairs(
            ScaledFolders(str(folder / "aid_150")),
            tests,
            batch_size=16,
            patches=PatchSampling(size=32, per_image=20),
            loading=Loading(seed=0),
        )
        module = EDiffSR(network, **options) if kind == "diffusion" else regression
        trainer = quiet(max_steps=STEPS, max_epochs=-1, default_root_dir=tmp_path / kind, callbacks=[Sharpness()])
        trainer.fit(module, data)
        found[kind] = measured(trainer, module, data)
        print(kind, found[kind])
        if kind == "diffusion":
            module.inference = TiledInference(tile=128, overlap=32)
            found["tiles"] = measured(trainer, module, data)
            print("tiles", found["tiles"])
    diffusion, given = found["diffusion"], found["regression"]
    assert diffusion["test/spectrum_error"] < 0.7 * given["test/spectrum_error"]
    assert diffusion["test/gradient_error"] < 0.7 * given["test/gradient_error"]
    for name in tests:
        assert given[f"test/{name}/psnr"] > given[f"test/{name}/noisy_psnr"]  # better than bicubic
        assert diffusion[f"test/{name}/psnr"] > given[f"test/{name}/psnr"] - 6
        assert abs(found["tiles"][f"test/{name}/psnr"] - diffusion[f"test/{name}/psnr"]) < 0.1
