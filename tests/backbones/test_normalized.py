import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_modules.backbones.normalized import Normalized

channel = st.tuples(st.floats(0, 1), st.floats(0.05, 1))


@settings(deadline=None)
@given(st.lists(channel, min_size=1, max_size=4))
def test_every_channel_is_shifted_and_scaled_by_its_own_statistics(channels: list[tuple[float, float]]) -> None:
    mean, std = zip(*channels, strict=True)
    image = torch.rand(2, len(channels), 3, 3)
    network = Normalized(nn.Identity(), mean, std)
    for c, (m, s) in enumerate(channels):
        expected = (image[:, c].double() - m) / s
        torch.testing.assert_close(network(image)[:, c].double(), expected, atol=1e-4, rtol=1e-5)


def test_one_value_serves_all_channels_and_other_mismatches_are_refused() -> None:
    image = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(Normalized(nn.Identity(), [0.5], [0.25])(image), (image - 0.5) / 0.25)
    with pytest.raises(ValueError, match=r"mean has 3 values, but the image has 1 channels"):
        Normalized(nn.Identity(), [0.5] * 3, [0.25] * 3)(image[:, :1])


def test_statistics_default_to_those_of_a_timm_network() -> None:
    network = nn.Identity()
    network.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    normalized = Normalized(network, std=[1.0, 1.0, 1.0])
    assert normalized.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert normalized.std.flatten().tolist() == [1.0, 1.0, 1.0]


def test_only_the_wrapped_network_is_saved_under_its_own_keys() -> None:
    network = nn.Linear(4, 2)
    assert set(Normalized(network, [0.5], [0.5]).state_dict()) == {f"network.{key}" for key in network.state_dict()}


def test_statistics_follow_the_module_to_another_precision() -> None:
    image = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    assert Normalized(nn.Identity(), [0.5] * 3, [0.5] * 3).double()(image).dtype == torch.float64
