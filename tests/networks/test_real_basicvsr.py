from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.real_basicvsr import RealBasicVSR, negvsr_weights
from lightning_modules.networks.spynet import SPyNet, ZeroFlow, warp


class Steady(nn.Module):
    """A flow network whose output is the same for all pixels, and depends on the order of the two frames."""

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


@pytest.mark.parametrize("flow", [None, Steady()])
def test_the_recurrence_is_that_of_its_equations(flow: nn.Module | None) -> None:
    network, v = small(flow), clip()
    frames = v.unbind(dim=1)

    def moved(state: Tensor, frame: Tensor, other: Tensor) -> Tensor:
        return state if flow is None else warp(state, flow(frame, other))

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
    torch.testing.assert_close(network.upscale(v), expected)


@pytest.mark.parametrize("scale", [2, 4])
def test_without_features_frames_are_enlarged_bilinearly(scale: int) -> None:
    network, v = small(scale=scale), clip()
    for parameter in network.enlargement.last.parameters():
        nn.init.zeros_(parameter)
    large = F.interpolate(v.flatten(0, 1), scale_factor=scale, mode="bilinear")
    torch.testing.assert_close(network.upscale(v).flatten(0, 1), large)


def test_mirrored_clips_have_mirrored_flows_and_results() -> None:
    network, half = small(Steady()), clip(1, 3, 1, 6, 8)
    mirrored = torch.cat([half, half.flip(1)], dim=1)
    to_later, to_earlier = network.flows(mirrored)
    assert to_later is not None
    assert to_earlier is not None
    torch.testing.assert_close(to_earlier, to_later.flip(1))
    assert to_later.std() > 0
    network.backward_trunk.load_state_dict(network.forward_trunk.state_dict())  # both directions are equal
    with torch.no_grad():
        weight = network.enlargement.fuse.weight
        weight[:, 4:] = weight[:, :4]
    made = network(mirrored)
    torch.testing.assert_close(made, made.flip(1))
    assert not torch.allclose(made[:, 0], made[:, 1])


def test_every_frame_sees_all_others() -> None:
    network, v = small(), clip(1, 4, 1, 4, 4).requires_grad_()
    for t in range(4):
        [gradient] = torch.autograd.grad(network.upscale(v)[:, t].sum(), v)
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
        torch.testing.assert_close(network.train(training).clean_frames(given), given + passes * step)
        assert len(calls) == passes


def test_how_often_a_clip_is_cleaned_does_not_depend_on_the_batch() -> None:
    network = small(threshold=0.2).eval()
    with torch.no_grad():  # a residual of -x / 2, which halves the clip
        for parameter in network.cleaning.parameters():
            parameter.zero_()
        network.cleaning[0][0].weight[0, 0, 1, 1] = 1  # type: ignore[index]
        network.cleaning[1].weight[0, 0, 1, 1] = -0.5  # type: ignore[index]
    given = clip() * torch.tensor([2.0, 0.5])[:, None, None, None, None]  # with means of about 1 and 1/4
    made = network.clean_frames(given)
    torch.testing.assert_close(made, torch.stack([given[0] / 8, given[1] / 2]))
    for row in range(2):
        torch.testing.assert_close(network.clean_frames(given[row : row + 1])[0], made[row])


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


LAYERS: dict[str, tuple[int, int, int]] = {  # the authors' layers: output channels, input channels and kernel size
    "image_cleaning.0.main.0": (4, 1, 3),
    "image_cleaning.1": (1, 4, 3),
    **{f"image_cleaning.0.main.2.0.conv{number}": (4, 4, 3) for number in (1, 2)},
    **{f"basicvsr.{way}_resblocks_layer10.main.0": (4, 5, 3) for way in ("backward", "forward")},
    **{
        f"basicvsr.{way}_resblocks_layer10.main.2.{block}.conv{number}": (4, 4, 3)
        for way in ("backward", "forward")
        for block in (0, 1)
        for number in (1, 2)
    },
    **{f"basicvsr.carafe{number}.channel_compressor": (64, 4, 1) for number in (1, 2)},
    **{f"basicvsr.carafe{number}.content_encoder": (100, 64, 3) for number in (1, 2)},
    **{"basicvsr.fusion": (4, 8, 1), "basicvsr.conv_hr": (4, 4, 3), "basicvsr.conv_last": (1, 4, 3)},
}


def published() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(2)
    state = {}
    for name, (after, before, kernel) in LAYERS.items():
        for kind, shape in (("weight", (after, before, kernel, kernel)), ("bias", (after,))):
            state[f"{name}.{kind}"] = 0.2 * torch.randn(shape, generator=random, dtype=torch.float64)
    return state


def enlarged_by_names(state: dict[str, Tensor], clip: Tensor) -> Tensor:
    """Clean a clip without motion once and upscale it, layer by layer, with the authors' names."""

    def conv(name: str, x: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def trunk(name: str, x: Tensor) -> Tensor:
        x = F.leaky_relu(conv(f"{name}.main.0", x), 0.1)
        for block in range(2 if f"{name}.main.2.1.conv1.weight" in state else 1):
            x = x + conv(f"{name}.main.2.{block}.conv2", conv(f"{name}.main.2.{block}.conv1", x).relu())
        return x

    def carafe(name: str, x: Tensor) -> Tensor:
        encoded = conv(f"{name}.content_encoder", conv(f"{name}.channel_compressor", x))
        masks = F.pixel_shuffle(encoded, 2).softmax(dim=1)
        patches = F.unfold(x, 5, padding=2).unflatten(2, x.shape[2:])
        large = F.interpolate(patches, scale_factor=2, mode="nearest").unflatten(1, (x.shape[1], 25))
        return F.leaky_relu((large * masks[:, None]).sum(dim=2), 0.1)

    frames = [frame + conv("image_cleaning.1", trunk("image_cleaning.0", frame)) for frame in clip.unbind(dim=1)]
    states: dict[str, list[Tensor]] = {}
    for way, order in (("backward", frames[::-1]), ("forward", frames)):
        states[way] = [torch.zeros(len(clip), 4, *clip.shape[3:], dtype=clip.dtype)]
        for frame in order:
            inside = torch.cat([frame, states[way][-1]], dim=1)
            states[way].append(trunk(f"basicvsr.{way}_resblocks_layer10", inside))
    result = []
    for frame, backward, forward in zip(frames, states["backward"][:0:-1], states["forward"][1:], strict=True):
        x = F.leaky_relu(conv("basicvsr.fusion", torch.cat([backward, forward], dim=1)), 0.1)
        x = carafe("basicvsr.carafe2", carafe("basicvsr.carafe1", x))
        last = conv("basicvsr.conv_last", F.leaky_relu(conv("basicvsr.conv_hr", x), 0.1))
        result.append(last + F.interpolate(frame, scale_factor=4, mode="bilinear"))
    return torch.stack(result, dim=1)


def saved(path: Path, state: dict[str, Tensor], **more: Any) -> str:
    """Save a checkpoint as mmediting does, with averaged weights that differ from the trained ones."""
    weights = {f"generator.{name}": value + 1 for name, value in state.items()}
    averaged = {f"generator_ema.{name}": value for name, value in state.items()}
    torch.save({"meta": {"iter": 1}, "state_dict": {"step_counter": torch.zeros(1), **weights, **averaged}}, path)
    return str(path)


def test_published_weights_compute_what_their_names_say(tmp_path: Path) -> None:
    network = small(scale=4, num_blocks=2, threshold=1.0, upscaling="carafe").eval()
    path = saved(tmp_path / "negvsr.pth", published())
    assert negvsr_weights(network, path) is network
    with torch.no_grad():
        torch.testing.assert_close(network(clip()), enlarged_by_names(published(), clip()))


def test_published_weights_of_flow_and_of_pixel_shuffle_are_read(tmp_path: Path) -> None:
    network = RealBasicVSR(SPyNet(None), 1, 4, 2, 1, upscaling="pixel_shuffle").double()
    state = {name: value for name, value in published().items() if "carafe" not in name}
    state = {name.replace("_layer10", ""): value for name, value in state.items()}
    shuffled = {f"basicvsr.upsample{number}.upsample_conv": (16, 4, 3, 3) for number in (1, 2)}
    flow = {
        f"basicvsr.spynet.basic_module.{level}.basic_module.{layer}.conv": (after, before, 7, 7)
        for level in range(6)
        for layer, (before, after) in enumerate(((8, 32), (32, 64), (64, 32), (32, 16), (16, 2)))
    }
    for place, (name, shape) in enumerate({**shuffled, **flow}.items()):
        state |= {f"{name}.weight": torch.full(shape, float(place)), f"{name}.bias": torch.zeros(shape[0])}
    constants = {f"basicvsr.spynet.{name}": torch.ones(1, 3, 1, 1) for name in ("mean", "std")}
    negvsr_weights(network, saved(tmp_path / "x4.pth", {**state, **constants}))
    found: Any = network
    assert float(found.enlargement.doublings[1].weight[0, 0, 0, 0].detach()) == 1
    assert float(found.flow.levels[5][6].weight[0, 0, 0, 0]) == 2 + 5 * 5 + 3


def test_published_weights_of_another_layout_are_one_sentence(tmp_path: Path) -> None:
    path = saved(tmp_path / "negvsr.pth", published())
    message = r"missing: enlargement\.doublings\.0\.weight, .*; unexpected: enlargement\.doublings\.0\.compress\.weight"
    with pytest.raises(ValueError, match=message):
        negvsr_weights(small(scale=4, num_blocks=2), path)
