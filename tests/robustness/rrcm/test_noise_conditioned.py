import math

import torch
from torch import Tensor

from lightning_modules.robustness.rrcm.noise_conditioned import NoiseConditionedClassifier, represent
from tests.robustness.rrcm.small import small_encoder


def test_networks_are_shown_scaled_images_and_times() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def network(image: Tensor, time: Tensor) -> Tensor:
        seen.append((image, time))
        return image.flatten(1)

    image, noise = torch.randint(0, 2, (64, 1, 16, 16)).double() - 0.5, torch.randn(64, 1, 16, 16).double()
    features = represent(network, [image + t * noise for t in (0.002, 1.0, 80.0)], [0.002, 1.0, 80.0])  # type: ignore[arg-type]
    [(shown, time)] = seen
    for part, feature in zip(shown.chunk(3), features, strict=True):
        assert torch.equal(part.flatten(1), feature)
        torch.testing.assert_close(part.std(), torch.tensor(1.0).double(), rtol=0.02, atol=0)
    expected = torch.tensor([250 * math.log(t) for t in (0.002, 1.0, 80.0)]).double().repeat_interleave(64)
    torch.testing.assert_close(time, expected)


def test_the_head_begins_near_zero() -> None:
    classifier = NoiseConditionedClassifier(small_encoder(), 12, 50, 0.25)
    assert classifier.head.bias.abs().max() == 0
    assert 1e-5 < classifier.head.weight.std() < 3e-5
