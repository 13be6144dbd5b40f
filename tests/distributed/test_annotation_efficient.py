"""All stages of annotation-efficient segmentation: two processes give what one process gives."""

import functools
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from datamodules.segmentation.ellipse_images import EllipseImages
from datamodules.segmentation.unpaired_masks import UnpairedMasks
from lightning_modules.networks.cycle_generator import UNetGenerator
from lightning_modules.networks.mlp import MLP
from lightning_modules.networks.patch_discriminator import PatchDiscriminator
from lightning_modules.networks.shape_vae import ShapeVAE
from lightning_modules.noisy_labels.annotation_efficient.module import AnnotationEfficient
from lightning_modules.noisy_labels.annotation_efficient.translation import Translation


class NoiselessVAE(ShapeVAE):
    """Each process draws noise for itself; without it the processes can be compared."""

    def negative_elbo(self, mask: Tensor, beta: float = 1.0, noise: Tensor | None = None) -> Tensor:
        return super().negative_elbo(mask, beta, mask.new_zeros(len(mask), self.num_latents))


def ellipses() -> UnpairedMasks:
    return UnpairedMasks(EllipseImages(num_training=21, num_validation=7, num_test=1), batch_size=8, num_workers=0)


def module() -> AnnotationEfficient:
    torch.manual_seed(0)
    segmenter = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    generators = [UNetGenerator(1, 1, 4, 2) for _ in range(2)]
    discriminators = [PatchDiscriminator(1, 4, 1) for _ in range(2)]
    descent = functools.partial(torch.optim.SGD, lr=0.05)
    return AnnotationEfficient(
        segmenter,
        NoiselessVAE(32, 3, (4, 4, 4, 4)),
        Translation(*generators, *discriminators, MLP(3, [16], 1)),
        **{"vae_epochs": 1, "translation_epochs": 2, "warm_up_epochs": 1, "rounds": 1, "round_epochs": 1},
        stop_early=False,
        optimizer=descent,
        vae_optimizer=functools.partial(torch.optim.SGD, lr=1e-4),
        translation_optimizer=descent,
    ).double()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """21 images in batches of 8: the last one, of 5, is shared 3 to 2; which labels are kept is agreed on."""
    states: list[dict[str, Tensor]] = []
    tables: list[dict[str, pd.DataFrame]] = []
    start = {name: value.clone() for name, value in module().state_dict().items()}
    for processes in (1, 2):
        directory, trained = tmp_path / str(processes), module()
        options: dict[str, Any] = {"devices": processes}
        if processes > 1:
            options["strategy"] = "ddp_fork_find_unused_parameters_true"
        Trainer(
            max_epochs=5,
            accelerator="cpu",
            precision="64-true",
            logger=CSVLogger(directory, name="", version=""),
            log_every_n_steps=1,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **options,
        ).fit(trained, datamodule=ellipses())
        states.append(trained.state_dict())
        names = ("metrics.csv", "pseudo_labels/round_0.csv", "pseudo_labels/round_1.csv")
        tables.append({name: pd.read_csv(directory / name) for name in names})
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-10, msg=name)
    for part in ("network", "vae", "translation"):
        assert any(not torch.equal(states[0][name], start[name]) for name in start if name.startswith(part)), part
    for name, table in tables[0].items():
        pd.testing.assert_frame_equal(tables[1][name], table, check_exact=False, rtol=1e-6, atol=1e-6)
    for number in (0, 1):
        one, two = (tmp_path / str(processes) / "pseudo_labels" / f"round_{number}" for processes in (1, 2))
        files = sorted(path.name for path in one.iterdir())
        assert len(files) == 21
        assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)
    assert tables[0]["pseudo_labels/round_1.csv"]["kept"].sum() == 16
