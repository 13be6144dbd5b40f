import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.real_basicvsr import RealBasicVSR
from lightning_modules.networks.spynet import SPyNet, ZeroFlow, warped


class Steady(nn.Module):
    """A flow that is the same everywhere, and other for another order of frames."""

    def forward(self, frame: Tensor, other: Tensor) -> Tensor:
        flow = torch.ones(len(frame), 2, *frame.shape[2:], dtype=frame.dtype)
        return flow * (other - frame).mean(dim=(1, 2, 3))[:, None, None, None].sign()


def small(flow: nn.Module | None = None, **options: object) -> RealBasicVSR:
    torch.manual_seed(0)
    arguments = {"channels": 1, "width": 4, "num_blocks": 1, "num_cleaning_blocks": 1, "scale": 2, **options}
    network = RealBasicVSR(flow or ZeroFlow(), **arguments).double()  # type: ignore[arg-type]
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def clip(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*(shape or (2, 4, 1, 6, 8)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("num_blocks", "trained"), [(20, 4_854_534), (10, 3_377_414)])
def test_the_papers_networks_have_their_parameters(num_blocks: int, trained: int) -> None:
    with torch.device("meta"):
        network = RealBasicVSR(SPyNet(None), num_blocks=num_blocks)
    assert sum(parameter.numel() for parameter in network.parameters()) == trained + 1_440_300
    assert sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad) == trained


@pytest.mark.parametrize("flow", [None, Steady()])
def test_the_recurrence_is_that_of_its_equations(flow: nn.Module | None) -> None:
    network, v = small(flow), clip()
    frames = v.unbind(dim=1)

    def moved(state: Tensor, frame: Tensor, other: Tensor) -> Tensor:
        return state if flow is None else warped(state, flow(frame, other))

    def through(trunk: nn.Module, frame: Tensor, state: Tensor) -> Tensor:
        return trunk(torch.cat([frame, state], dim=1))

    zero = torch.zeros(2, 4, 6, 8, dtype=torch.float64)
    b = {3: through(network.backward_trunk, frames[3], zero)}
    for t in (2, 1, 0):
        b[t] = through(network.backward_trunk, frames[t], moved(b[t + 1], frames[t], frames[t + 1]))
    f = {0: through(network.forward_trunk, frames[0], zero)}
    for t in (1, 2, 3):
        f[t] = through(network.forward_trunk, frames[t], moved(f[t - 1], frames[t], frames[t - 1]))
    large = [F.interpolate(frame, scale_factor=2, mode="bilinear") for frame in frames]
    expected = torch.stack([large[t] + network.enlargement(b[t], f[t]) for t in range(4)], dim=1)
    torch.testing.assert_close(network.enlarged(v), expected)


@pytest.mark.parametrize("scale", [2, 4])
def test_without_features_frames_are_enlarged_bilinearly(scale: int) -> None:
    network, v = small(scale=scale), clip()
    for parameter in network.enlargement.last.parameters():
        nn.init.zeros_(parameter)
    large = F.interpolate(v.flatten(0, 1), scale_factor=scale, mode="bilinear")
    torch.testing.assert_close(network.enlarged(v).flatten(0, 1), large)


def test_mirrored_clips_have_mirrored_flows_and_results() -> None:
    network, half = small(Steady()), clip(1, 3, 1, 6, 8)
    mirrored = torch.cat([half, half.flip(1)], dim=1)
    to_later, to_earlier = network.flows(mirrored)
    assert to_later is not None
    assert to_earlier is not None
    torch.testing.assert_close(to_earlier, to_later.flip(1))
    assert to_later.std() > 0
    network.backward_trunk.load_state_dict(network.forward_trunk.state_dict())  # both directions alike
    with torch.no_grad():
        weight = network.enlargement.fuse.weight
        weight[:, 4:] = weight[:, :4]
    made = network(mirrored)
    torch.testing.assert_close(made, made.flip(1))
    assert not torch.allclose(made[:, 0], made[:, 1])


def test_every_frame_sees_all_others() -> None:
    network, v = small(), clip(1, 4, 1, 4, 4).requires_grad_()
    for t in range(4):
        [gradient] = torch.autograd.grad(network.enlarged(v)[:, t].sum(), v)
        assert (gradient.abs().sum(dim=(0, 2, 3, 4)) > 0).all()


def test_training_cleans_once_and_evaluation_as_often_as_a_clip_needs() -> None:
    network, calls = small(threshold=0.05), []
    for parameter in network.cleaning.parameters():
        nn.init.zeros_(parameter)
    bias = network.cleaning[1].bias
    network.cleaning.register_forward_hook(lambda *_: calls.append(1))
    given = clip()
    for training, step, passes in ((True, 0.1, 1), (False, 0.1, 3), (False, 0.04, 1)):
        calls.clear()
        nn.init.constant_(bias, step)  # type: ignore[arg-type]
        torch.testing.assert_close(network.train(training).cleaned(given), given + passes * step)
        assert len(calls) == passes


def test_how_often_a_clip_is_cleaned_does_not_depend_on_the_batch() -> None:
    network = small(threshold=0.2).eval()
    with torch.no_grad():  # a residue of -x / 2, which halves the clip
        for parameter in network.cleaning.parameters():
            parameter.zero_()
        network.cleaning[0][0].weight[0, 0, 1, 1] = 1  # type: ignore[index]
        network.cleaning[1].weight[0, 0, 1, 1] = -0.5  # type: ignore[index]
    given = clip() * torch.tensor([2.0, 0.5])[:, None, None, None, None]  # means about 1 and 1/4
    made = network.cleaned(given)
    torch.testing.assert_close(made, torch.stack([given[0] / 8, given[1] / 2]))
    for row in range(2):
        torch.testing.assert_close(network.cleaned(given[row : row + 1])[0], made[row])


def test_steps_that_are_computed_again_change_no_gradient() -> None:
    found = []
    for checkpointed in (False, True):
        network = small(Steady(), checkpointed=checkpointed)
        loss = network(clip()).square().sum()
        found.append(torch.autograd.grad(loss, list(network.parameters())))
    torch.testing.assert_close(*found)


def test_residual_blocks_begin_near_the_identity() -> None:
    torch.manual_seed(0)
    block = RealBasicVSR(ZeroFlow(), width=64, num_blocks=1, num_cleaning_blocks=1).forward_trunk[2]
    expected = 0.1 * (2 / (9 * 64)) ** 0.5
    assert float(block.first.weight.detach().std()) == pytest.approx(expected, rel=0.02)
    assert (block.first.bias == 0).all()
