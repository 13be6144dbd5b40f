"""Number of votes of a real classifier that change with the batch size or the memory layout, for equal inputs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from datamodules.classification.cifar import CIFAR10
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.backbones.weights import with_weights
from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.robustness.certificates.votes import BlockNoise

pytestmark = pytest.mark.benchmark
SIGMA = 0.25
IMAGES, DRAWS = range(0, 222, 37), 1000


def classifier_and_images() -> tuple[nn.Module, Tensor]:
    """Return a ResNet-20 and six images of CIFAR-10's test set.

    The network was trained without noise, so that many of its votes on noisy images are close.
    """
    root = os.environ.get("NOISEWORKS_DATA", "")
    weights = Path(root, "weights", "resnet20_cifar10.safetensors")
    if not weights.is_file() or not list(Path(root, "cifar10").glob("**/test*")):
        pytest.skip("NOISEWORKS_DATA does not point to CIFAR-10 and the weights of ResNet-20")
    network = Normalized(CIFARResNet(20, 10), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    images: Tensor = CIFAR10(root).test().image
    return with_weights(network, str(weights)).eval(), images[list(IMAGES)].float() / 255


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16 autocast"])
@torch.inference_mode()
def test_votes_hardly_depend_on_batches_and_layout(
    dtype: torch.dtype, report: Callable[[str, float, str], None]
) -> None:
    network, images = classifier_and_images()
    noise = BlockNoise(0, torch.device("cpu"))

    def votes(noisy: Tensor, batch_size: int, layout: torch.memory_format) -> Tensor:
        batches = [network(batch.contiguous(memory_format=layout)) for batch in noisy.split(batch_size)]
        return torch.cat(batches).argmax(1)

    by_batch, by_layout, minority = 0, 0, 0
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        for index, image in zip(IMAGES, images, strict=True):
            noisy = image + SIGMA * torch.cat(noise.draws(index, 1, 0, DRAWS, image.shape))
            whole = votes(noisy, DRAWS, torch.contiguous_format)
            by_batch += int((votes(noisy, 77, torch.contiguous_format) != whole).sum())
            by_layout += int((votes(noisy, DRAWS, torch.channels_last) != whole).sum())
            minority += DRAWS - int(whole.bincount().max())
    total = len(IMAGES) * DRAWS
    name = "float32" if dtype == torch.float32 else "bfloat16 autocast"
    report(
        f"votes that batches of 77 change over those of 1000, {name}, ResNet-20, 6 CIFAR-10 images",
        by_batch / total,
        "<= 0.002",
    )
    report(f"  that the layout channels_last changes, {name}", by_layout / total, "<= 0.01")
    assert minority / total > 0.1  # there are close votes, which can change
    assert by_batch / total <= 0.002
    assert by_layout / total <= 0.01
