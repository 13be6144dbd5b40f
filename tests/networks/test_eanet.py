from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lightning_modules.backbones.resized import times_larger
from lightning_modules.baselines import SupervisedRestoration
from lightning_modules.networks.eanet import ChannelNorm, EANet, GatedConvolutions, ediffsr_weights


def small(**arguments: object) -> EANet:
    torch.manual_seed(0)
    return EANet(
        **{"channels": 2, "width": 16, "encoder": [2, 1], "middle": 1, "decoder": [1, 1], **arguments}
    ).double()  # type: ignore[arg-type]


def awake(network: EANet) -> EANet:
    """Draw all parameters anew, because the blocks are initialised as the identity and would have no effect."""
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("size", [(7, 9), (8, 8), (3, 4)])
def test_images_of_any_size_and_times_in_any_form(size: tuple[int, int]) -> None:
    network = awake(small())
    x, degraded = torch.randn(2, 2, 2, *size, dtype=torch.float64)
    made = [network(x, degraded, time) for time in (5, 5.0, torch.tensor([5, 5]), torch.tensor([5.0, 5.0]))]
    assert made[0].shape == x.shape
    for each in made[1:]:
        torch.testing.assert_close(each, made[0])
    assert not torch.allclose(network(x, degraded, 6), made[0])


def test_a_fresh_network_knows_no_time() -> None:
    network = small()
    x, degraded = torch.randn(2, 3, 2, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(network(x, degraded, 3), network(x, degraded, 90))


def test_the_network_sees_the_difference_and_the_degraded_image() -> None:
    network = awake(small())
    seen = []
    network.first.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x, degraded = torch.randn(2, 1, 2, 6, 4, dtype=torch.float64)
    network(x, degraded, 1)
    torch.testing.assert_close(seen[0][..., :6, :], torch.cat([x - degraded, degraded], dim=1))
    assert seen[0].shape[2:] == (8, 4)
    assert (seen[0][..., 6:, :] == 0).all()


def test_without_the_enhancement_its_parameters_and_its_features_are_left_out() -> None:
    whole, plain = awake(small()), small(enhanced=False)
    left_out = {key for key in whole.state_dict() if key not in plain.state_dict()}
    assert left_out == {f"enhance.{key}" for key in GatedConvolutions(16).state_dict()}
    plain.load_state_dict({key: value for key, value in whole.state_dict().items() if key not in left_out})
    for key in ("body.2.weight", "body.2.bias"):
        whole.get_parameter(f"enhance.{key}").data.zero_()
    whole.first.weight.data /= 2  # the enhancement also adds its input
    whole.first.bias.data /= 2
    x, degraded = torch.randn(2, 1, 2, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(plain(x, degraded, 3), whole(x, degraded, 3))


def test_gates_and_norms_are_those_of_their_formulas() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 32, 5, 4, dtype=torch.float64)
    gated = GatedConvolutions(32).double()
    made = gated.body(x)
    weight = gated.gate[3](torch.relu(gated.gate[1](made.mean(dim=(2, 3), keepdim=True)))).sigmoid()
    torch.testing.assert_close(gated(x), x + weight * made)
    normed = ChannelNorm(32).double()(x)
    torch.testing.assert_close(normed, (x - x.mean(1, True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt())


def test_activations_that_are_computed_again_change_no_gradient() -> None:
    gradients = []
    for checkpointed in (False, True):
        network = awake(small(checkpointed=checkpointed))
        torch.manual_seed(1)
        loss = network(*torch.randn(2, 1, 2, 8, 8, dtype=torch.float64), 4).square().sum()
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
        torch.manual_seed(0)
    torch.testing.assert_close(*gradients)


def test_a_regressor_corrects_the_enlarged_image() -> None:
    network = awake(small())
    image = torch.rand(1, 2, 3, 4, dtype=torch.float64)
    large = times_larger(image, 4)
    torch.testing.assert_close(network(large), large + network(large, large, 0))
    module = SupervisedRestoration(network, factor=4)
    torch.testing.assert_close(module.restore(image), network(large))
    assert large.shape == (1, 2, 12, 16)
    with pytest.raises(ValueError, match="factor"):
        SupervisedRestoration(network, factor=0)


def published() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of the authors' parameters for a network of width 16, in their order."""

    def layer(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from ((f"{name}.weight", shape), (f"{name}.bias", shape[:1]))

    def block(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from ((f"{name}.{scale}", (1, width, 1, 1)) for scale in ("beta", "gamma"))
        yield from layer(f"{name}.mlp.1", 4 * width, 32)
        yield from layer(f"{name}.conv1", 2 * width, width, 1, 1)
        yield from layer(f"{name}.conv2", 2 * width, 1, 3, 3)
        yield from layer(f"{name}.conv3", width, width, 1, 1)
        yield from layer(f"{name}.sca.1", width, width, 1, 1)
        yield from layer(f"{name}.conv4", 2 * width, width, 1, 1)
        yield from layer(f"{name}.conv5", width, width, 1, 1)
        yield from ((f"{name}.{norm}.g", (1, width, 1, 1)) for norm in ("norm1", "norm2"))

    yield from (*layer("time_mlp.1", 128, 16), *layer("time_mlp.3", 64, 64), *layer("intro", 16, 6, 3, 3))
    yield from (*layer("enhance.rcab.0", 16, 16, 3, 3), *layer("enhance.rcab.2", 16, 16, 3, 3))
    yield from layer("enhance.rcab.3.attention.1", 1, 16, 1, 1)
    yield from layer("enhance.rcab.3.attention.3", 16, 1, 1, 1)
    yield from layer("ending", 3, 16, 3, 3)
    yield from (*block("encoders.0.0", 16), *block("encoders.0.1", 16), *block("encoders.1.0", 32))
    yield from (*block("decoders.0.0", 32), *block("decoders.1.0", 16), *block("middle_blks.0", 64))
    yield from (("ups.0.0.weight", (128, 64, 1, 1)), ("ups.1.0.weight", (64, 32, 1, 1)))
    yield from (*layer("downs.0", 32, 16, 2, 2), *layer("downs.1", 64, 32, 2, 2))


def test_published_weights_compute_what_the_authors_code_does(tmp_path: Path) -> None:
    def values(number: int) -> torch.Tensor:
        return torch.arange(number, dtype=torch.float64)

    state = {
        name: 0.3 * torch.sin(0.7 * values(torch.Size(shape).numel()) + place).reshape(shape)
        for place, (name, shape) in enumerate(published())
    }
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "180000_G.pth")
    network = small(channels=3)
    assert ediffsr_weights(network, str(tmp_path / "180000_G.pth")) is network
    x, degraded = torch.sin(0.13 * values(252)).reshape(2, 3, 6, 7), torch.cos(0.17 * values(252)).reshape(2, 3, 6, 7)
    with torch.no_grad():
        found = network(x, degraded, torch.tensor([3.0, 50.0], dtype=torch.float64)).flatten()
    # computed by the authors' code in float64, with its epsilon in float32
    expected = [-122.26449916639591, 150.53909598515293, -7.34529264282278, -4.8294582144615195, -63.67935554789752]
    torch.testing.assert_close(
        found[[0, 50, 100, 125, 126]], torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_other_weights_are_one_sentence(tmp_path: Path) -> None:
    torch.save({**dict.fromkeys(("intro.weight", "intro.scale"), torch.ones(16))}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"other\.pth does not fit EANet: missing: .* unexpected: first\.scale; wrong shape"
    ):
        ediffsr_weights(small(), str(tmp_path / "other.pth"))
