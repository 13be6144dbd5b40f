import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lightning_modules.losses.mixing import Mixing, SoftLabels, draw_mixing, soft_cross_entropy


def test_mixing_keeps_the_larger_part_and_permutes() -> None:
    torch.manual_seed(0)
    mixings = [draw_mixing(16, 1.0) for _ in range(500)]
    weights = torch.tensor([m.weight for m in mixings])
    assert (weights >= 0.5).all()
    assert (weights <= 1).all()
    # Beta(1, 1) folded at one half is uniform on [1/2, 1]: mean 3/4, standard deviation 1/(4 sqrt 3).
    assert abs(weights.mean() - 0.75) < 4 * 0.1443 / math.sqrt(500)
    assert all(sorted(m.partner.tolist()) == list(range(16)) for m in mixings[:5])
    assert draw_mixing(4, 0.0).weight == 1.0
    value = torch.arange(3.0)
    torch.testing.assert_close(Mixing(0.75, torch.tensor([1, 2, 0]))(value), torch.tensor([0.25, 1.25, 1.5]))


@settings(max_examples=20, deadline=None)
@given(
    mixup=st.sampled_from([0.0, 0.8]),
    cutmix=st.sampled_from([0.0, 1.0]),
    smoothing=st.floats(0, 0.9),
    size=st.integers(1, 5),
)
def test_soft_labels_are_distributions_of_the_mixed_images(
    mixup: float, cutmix: float, smoothing: float, size: int
) -> None:
    """Each pixel of an image is the one-hot vector of the image's class, so mixed pixels contain the mixing weights."""
    label = torch.arange(size) % 3
    image = F.one_hot(label, 3).double()[:, :, None, None].expand(-1, -1, 6, 6)
    mixed, soft = SoftLabels(mixup, cutmix, smoothing)(image, label, 3)
    torch.testing.assert_close(soft, mixed.mean(dim=(2, 3)) * (1 - smoothing) + smoothing / 3)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(size, dtype=torch.float64))


def test_an_image_is_mixed_as_a_whole_or_in_a_rectangle() -> None:
    """MixUp blends every pixel; CutMix copies whole pixels. Each is applied to half of the batches."""
    label = torch.tensor([0, 1])
    image = label.double()[:, None, None, None].expand(-1, 1, 8, 8)
    torch.manual_seed(0)
    mixed = [SoftLabels(mixup_alpha=8.0, cutmix_alpha=1.0)(image, label, 2)[0] for _ in range(200)]
    blended = [bool(((each > 0) & (each < 1)).any()) for each in mixed]
    assert stats.binomtest(sum(blended), 200).pvalue > 1e-3


def test_binary_cross_entropy_asks_of_each_class_whether_or_in_what_part_it_is_in_the_image() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    soft = torch.tensor([[1, 0, 0], [0.2, 0.8, 0], [0, 0, 1], [0.5, 0, 0.5]], dtype=torch.float64)
    right = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]], dtype=torch.float64)
    expected = -(right * logits.sigmoid().log() + (1 - right) * (-logits).sigmoid().log()).mean()
    torch.testing.assert_close(soft_cross_entropy(logits, soft, binary=True), expected)
    by_part = -(soft * logits.sigmoid().log() + (1 - soft) * (-logits).sigmoid().log()).mean()
    torch.testing.assert_close(soft_cross_entropy(logits, soft, binary=True, all_right=False), by_part)
    label = torch.tensor([0, 1, 2, 0])
    one_hot = F.one_hot(label, 3).double()
    torch.testing.assert_close(soft_cross_entropy(logits, label, True), soft_cross_entropy(logits, one_hot, True))
    torch.testing.assert_close(soft_cross_entropy(logits, soft), -(soft * logits.log_softmax(1)).sum(1).mean())
    torch.testing.assert_close(soft_cross_entropy(logits, label), F.cross_entropy(logits, label))


def test_a_half_precision_run_draws_the_weight_of_a_single_precision_one() -> None:
    torch.manual_seed(1)
    expected = draw_mixing(16, 1.0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # as trainer.precision bf16-true does within a step
    try:
        torch.manual_seed(1)
        drawn = draw_mixing(16, 1.0)
    finally:
        torch.set_default_dtype(before)
    assert drawn.weight == expected.weight
    assert torch.equal(drawn.partner, expected.partner)
