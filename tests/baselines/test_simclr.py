import math
import re
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.files.image_files import Crop, ResizedCrop
from lightning_modules.backbones.layer_features import classifier_layer
from lightning_modules.baselines.simclr import SimCLR
from lightning_modules.losses.contrastive import nt_xent
from lightning_modules.networks.mlp import MLP
from tests.trainers import standing

B, D = 5, 7


def views() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, B, D, generator=generator, dtype=torch.float64)
    return first, second


def equation(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    h = F.normalize(torch.cat([first, second]), dim=1)
    similarity = (h @ h.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(similarity, torch.arange(2 * B).roll(B))


def test_each_view_must_find_the_other_one_of_its_image() -> None:
    first, second = views()
    found = nt_xent(first, second, first, second, 0, 0.3)
    torch.testing.assert_close(found, equation(first, second, 0.3), rtol=1e-12, atol=0)


def test_parts_of_a_batch_are_compared_with_all_of_it() -> None:
    first, second = views()
    parts = [nt_xent(first[a:b], second[a:b], first, second, a, 0.3) for a, b in ((0, 2), (2, 5))]
    whole = nt_xent(first, second, first, second, 0, 0.3)
    torch.testing.assert_close((2 * parts[0] + 3 * parts[1]) / 5, whole, rtol=1e-12, atol=0)


def test_equal_views_of_orthogonal_images_give_the_least_loss() -> None:
    h = torch.eye(B, dtype=torch.float64)
    expected = math.log1p((2 * B - 2) * math.exp(-1 / 0.1))
    assert float(nt_xent(h, 3 * h, h, 3 * h, 0, 0.1)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"augmentation": Augmentation(flip=True)}, "data.augmentation.flip must be false, got True"),
        ({"augmentation": Augmentation(crop_padding=4)}, "data.augmentation.crop_padding must be 0, got 4"),
        ({"images": SimpleNamespace(crop=ResizedCrop(8, 8))}, "data.images.min_area must be null, got 0.08"),
        ({"images": SimpleNamespace(crop=Crop(8, 8)), "augmentation": Augmentation()}, ""),
    ],
)
def test_images_that_were_augmented_before_are_refused(given: dict[str, Any], message: str) -> None:
    module = SimCLR(MLP(24, [8], 6), 6, nn.Identity())
    module.trainer = standing(datamodule=SimpleNamespace(**given))
    with pytest.raises(ValueError, match=re.escape(message)) if message else nullcontext():
        module.setup("fit")


def test_the_classifier_is_left_as_it_was_drawn() -> None:
    module = SimCLR(MLP(24, [8], 6), 6, nn.Identity())
    assert not any(parameter.requires_grad for parameter in classifier_layer(module.network).parameters())
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained == {"network.layers.0.weight", "network.layers.0.bias"} | {
        f"projection.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
