import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.noisy_labels.adele.multi_scale import (
    confident_images,
    mixture,
    multi_scale_consistency,
    multi_scale_cross_entropy,
    multi_scale_logits,
)

B, K, H, W = 3, 4, 5, 6
THIRDS = torch.full((3,), 1 / 3, dtype=torch.float64)


@pytest.fixture
def logits() -> list[Tensor]:
    torch.manual_seed(0)
    return [2 * torch.randn(B, K, H, W, dtype=torch.float64, requires_grad=True) for _ in range(3)]


@pytest.fixture
def label() -> Tensor:
    torch.manual_seed(1)
    label = torch.randint(K, (B, H, W))
    label[:, 0, :2] = 255
    return label


def test_ignored_pixels_count_in_the_mean_with_no_loss(logits: list[Tensor], label: Tensor) -> None:
    weight = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    expected = sum(
        -(w * z).log_softmax(1).gather(1, label.clamp(max=K - 1)[:, None])[:, 0][label < 255].sum() / label.numel()
        for w, z in zip(weight, logits, strict=True)
    )
    torch.testing.assert_close(multi_scale_cross_entropy(logits, label, weight), expected)


def test_consistency_is_the_sum_of_divergences_from_the_mixture_in_confident_images(
    logits: list[Tensor], label: Tensor
) -> None:
    weight = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    p = [z.detach().softmax(1) for z in logits]
    q = sum(w * each for w, each in zip(weight, p, strict=True)).clamp(1e-3, 1 - 1e-3)
    highest = q.amax(1).masked_fill(label == 255, 0).flatten(1).amax(1)
    threshold = float(highest.sort().values[1])  # two of the three images
    divergence = sum((each * (each / q).log()).sum(1).mean((1, 2)) for each in p)
    expected = ((highest >= threshold) * divergence).mean()
    torch.testing.assert_close(multi_scale_consistency(logits, label, weight, threshold), expected, rtol=1e-12, atol=0)


def test_gradients_flow_through_predictions_mixture_and_weights(label: Tensor) -> None:
    torch.manual_seed(2)
    z = torch.randn(3, 2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    v = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z, v: multi_scale_consistency(list(z), label[:2, 1:3, :2], v.softmax(0), 0.3), (z, v)
    )


def test_agreeing_scales_are_consistent_up_to_the_clamp(label: Tensor) -> None:
    z = torch.randn(B, K, H, W, dtype=torch.float64)
    assert multi_scale_consistency([z] * 3, label, THIRDS, 0.0).abs() < 1e-10
    certain = 50 * F.one_hot(torch.zeros(B, H, W, dtype=torch.int64), K).movedim(-1, 1).double()
    assert 0 < multi_scale_consistency([certain] * 3, label, THIRDS, 0.0) < 2e-2


def test_the_gate_is_per_image_and_sees_no_ignored_pixel(logits: list[Tensor], label: Tensor) -> None:
    assert multi_scale_consistency(logits, label, THIRDS, 1.0) == 0  # q is at most 0.999
    assert multi_scale_consistency(logits, torch.full_like(label, 255), THIRDS, 0.8) == 0
    mixed = torch.full((2, K, 2, 2), 0.1)
    mixed[0, 2, 1, 1] = 0.8
    ignored = torch.zeros(2, 2, 2, dtype=torch.int64)
    assert confident_images(mixed, ignored, 0.8).tolist() == [1, 0]
    ignored[0, 1, 1] = 255
    assert confident_images(mixed, ignored, 0.8).tolist() == [0, 0]
    torch.testing.assert_close(mixture([mixed] * 3, THIRDS.float()), mixed)


def test_half_precision_logits_give_single_precision_terms_and_finite_gradients() -> None:
    z = (200 * torch.randn(1, K, 2, 2)).half().requires_grad_()
    label = torch.zeros(1, 2, 2, dtype=torch.int64)
    terms = [multi_scale_consistency([z, -z, z], label, THIRDS.float(), 0.5)]
    terms.append(multi_scale_cross_entropy([z, -z, z], label, THIRDS.float()))
    assert all(term.dtype == torch.float32 for term in terms)
    sum(terms).backward()
    assert z.grad.isfinite().all()


def test_each_scale_is_seen_and_its_logits_are_brought_back() -> None:
    sizes = []

    def network(image: Tensor) -> Tensor:
        sizes.append(tuple(image.shape[-2:]))
        return torch.cat([image, -image], dim=1)[..., ::2, ::2]  # smaller than the image, as in some networks

    image = torch.rand(2, 1, 40, 20, dtype=torch.float64)
    found = multi_scale_logits(network, image, [0.7, 1.0, 1.5], flip=True)
    assert sizes == [(28, 14), (28, 14), (40, 20), (40, 20), (60, 30), (60, 30)]
    assert {tuple(z.shape) for z in found} == {(2, 2, 40, 20)}


def test_a_linear_image_has_the_same_logits_at_all_scales_and_mirrored() -> None:
    """With aligned corners, bilinear resizing preserves functions that are linear in the position."""
    ramp = torch.linspace(0, 1, 41, dtype=torch.float64)
    image = (ramp[:, None] + 2 * ramp)[None, None]
    for z in multi_scale_logits(lambda x: 3 * x, image, [0.7, 1.0, 1.5], flip=True):
        torch.testing.assert_close(z, 3 * image)
