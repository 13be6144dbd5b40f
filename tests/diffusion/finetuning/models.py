"""Fine-tuning of tiny models on a few images, for tests."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim import SGD

from datamodules.classification.digits import Digits
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import CaptionedClasses
from datamodules.prompts.folder_sets import CaptionedFolder
from lightning_modules.backbones.diffusion.guidance import Sampling
from lightning_modules.backbones.diffusion.pixel_space import PixelSpace
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.diffusion.finetuning import DiffusionFineTuning
from tests.datamodules.image_folders import photograph, save
from tests.grouped import grouped


def pixel_space(**scheduler: Any) -> PixelSpace:
    network = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=4,
    )  # fmt: skip
    return PixelSpace(network, DDPMScheduler(**scheduler))


def digits(count: int = 6) -> CaptionedImages:
    return CaptionedImages(CaptionedClasses(Digits(train_size=count)), batch_size=2, validation_fraction=0.34)


def captioned(folder: Path, image_size: int = 16, **options: Any) -> CaptionedImages:
    for number in range(4):
        save(folder / f"{number}.png", photograph(image_size + 4, image_size + 4, number))
        (folder / f"{number}.txt").write_text(["a cat", "dog", "dog", "bird"][number])
    images = CaptionedFolder(str(folder), image_size=image_size)
    given: dict[str, Any] = {"batch_size": 2, "validation_fraction": 0.25, "num_workers": 0, **options}
    return CaptionedImages(images, **grouped(CaptionedImages, given))


def conditioned(folder: Path, image_size: int = 16, first: int = 0, **options: Any) -> CaptionedImages:
    """Write a dataset with condition images in a separate folder; with `first` 0, they are copies of its images."""
    data, size = captioned(folder, image_size, **options), image_size + 4
    for number in range(4):
        save(folder.parent / "conditions" / f"{number}.png", photograph(size, size, first + number))
    data.images = CaptionedFolder(str(folder), image_size, condition_dir=str(folder.parent / "conditions"))
    return data


def tuning(network: TextToImage | PixelSpace, rate: float = 0.1, **options: Any) -> DiffusionFineTuning:
    options = {"average_decay": 0.5, "sampling": Sampling(2), "optimizer": lambda p: SGD(p, lr=rate), **options}
    return DiffusionFineTuning(network, **options)


def trainer(folder: Path, **options: Any) -> Trainer:
    given: dict[str, Any] = {"max_epochs": 1, "logger": CSVLogger(folder, name="", version="run"), **options}
    return Trainer(
        accelerator="cpu", enable_model_summary=False, enable_progress_bar=False, use_distributed_sampler=False,
        num_sanity_val_steps=0, log_every_n_steps=1, enable_checkpointing=False, **given,
    )  # fmt: skip


def loss_of_a_step(module: Any, batch: dict[str, Any]) -> Tensor:
    """Take a training step without a Trainer from the random seed 5, and compute the gradients."""
    module.log = lambda *args, **kwargs: None
    torch.manual_seed(5)
    count = len(batch["image"])
    loss = module.training_step({"index": torch.arange(count), "global_batch_size": count, **batch}, 0)["loss"]
    loss.backward()
    return loss


def assert_gradients_equal(own: nn.Module, other: nn.Module) -> None:
    """Compare the gradients of all parameters with those of the same network of diffusers alone."""
    theirs = {name: each.grad for name, each in other.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in theirs.values() if gradient is not None)
    assert largest > 0
    for name, parameter in own.named_parameters():
        found, wanted = parameter.grad, theirs[name]
        assert (found is None) == (wanted is None), name
        if wanted is not None:
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5 * largest, msg=name)
