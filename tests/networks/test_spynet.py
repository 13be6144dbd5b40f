from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lightning_modules.networks.spynet import SPyNet, ZeroFlow, warp


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def constant_flow(right: float, down: float) -> SPyNet:
    """Build a network whose coarsest level outputs a constant flow, to which the other levels add zero."""
    network = SPyNet(None).double()
    for number, parameter in enumerate(network.parameters()):
        parameter.zero_()
        if number == 9:  # the bias of the last convolution of the first level
            parameter.copy_(torch.tensor([right, down]))
    return network


def test_the_papers_network_has_its_parameters_and_trains_none() -> None:
    with torch.device("meta"):
        network = SPyNet("nowhere.safetensors")
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_440_300
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert list(ZeroFlow().parameters()) == []


def test_zero_flow_is_the_identity_and_whole_numbers_shift() -> None:
    given = image(2, 3, 6, 7)
    flow = torch.zeros(2, 2, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(warp(given, flow), given)
    flow[:, 0], flow[:, 1] = 2, -1  # two columns to the right, one row up
    moved = warp(given, flow)
    torch.testing.assert_close(moved[:, :, 1:, :-2], given[:, :, :-1, 2:])
    assert moved[:, :, 0].abs().max() < 1e-12
    torch.testing.assert_close(warp(given, flow, "border")[:, :, 1:, -1], given[:, :, :-1, -1])


def test_half_precision_moves_by_whole_pixels_in_wide_frames_too() -> None:
    given = image(1, 1, 2, 700).bfloat16()
    flow = torch.zeros(1, 2, 2, 700)
    flow[:, 0] = 1
    torch.testing.assert_close(warp(given, flow)[..., :-1], given[..., 1:], rtol=0, atol=0.01)


def test_between_pixels_is_their_weighted_mean() -> None:
    given = image(1, 1, 5, 5)
    flow = torch.zeros(1, 2, 5, 5, dtype=torch.float64)
    flow[:, 0] = 0.25
    torch.testing.assert_close(warp(given, flow)[..., :-1], 0.75 * given[..., :-1] + 0.25 * given[..., 1:])


@pytest.mark.parametrize("size", [(64, 64), (70, 99)])
def test_a_constant_of_the_coarsest_level_doubles_five_times(size: tuple[int, int]) -> None:
    flow = constant_flow(0.5, -0.25)(image(2, 3, *size), image(2, 3, *size, seed=1))
    stretched = [32 * -(-side // 32) for side in size]
    expected = torch.tensor([16 * size[1] / stretched[1], -8 * size[0] / stretched[0]], dtype=torch.float64)
    torch.testing.assert_close(flow, expected[:, None, None].expand_as(flow))


def test_finer_levels_see_the_other_frame_where_the_flow_points_to() -> None:
    network, seen = constant_flow(0.0625, 0.0), []
    network.levels[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    frame, other = image(1, 3, 64, 64), image(1, 3, 64, 64, seed=1)
    network(frame, other)
    [given] = seen
    normal = [(each - network.mean) / network.std for each in (frame, other)]
    torch.testing.assert_close(given[:, :3], normal[0])
    torch.testing.assert_close(given[:, 3:6, :, :-2], normal[1][..., 2:])
    torch.testing.assert_close(given[:, 6], torch.full((1, 64, 64), 2.0, dtype=torch.float64))


def test_gradients_go_through_to_the_frames() -> None:
    network = SPyNet(None)
    frame, other = (torch.rand(1, 3, 64, 64, requires_grad=True) for _ in range(2))
    network(frame, other).square().sum().backward()
    assert frame.grad is not None
    assert other.grad is not None
    assert frame.grad.abs().sum() > 0
    assert other.grad.abs().sum() > 0


@pytest.mark.parametrize("counted_alone", [False, True])
def test_files_of_both_projects_are_read(counted_alone: bool, tmp_path: Path) -> None:
    given, file = SPyNet(None), tmp_path / "spynet.safetensors"
    named = {}
    for key, value in given.state_dict().items():
        _, level, layer, kind = key.split(".")
        inner = f"{int(layer) // 2}.conv" if counted_alone else layer
        named[f"basic_module.{level}.basic_module.{inner}.{kind}"] = value
    save_file({**named, "mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}, file)
    read = SPyNet(str(file))
    for key, value in given.state_dict().items():
        torch.testing.assert_close(read.state_dict()[key], value, rtol=0, atol=0)
