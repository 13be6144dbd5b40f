import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from lightning_modules.robustness.mahalanobis.gaussians import Whitened, mahalanobis_confidence
from lightning_modules.robustness.mahalanobis.layers import Layer, layer_features, named_layers
from lightning_modules.robustness.mahalanobis.preprocessing import layer_confidence
from lightning_modules.robustness.mahalanobis.scores import (
    direction,
    energy_confidence,
    odin_confidence,
    softmax_confidence,
)
from tests.robustness.mahalanobis.small_detector import K, N, fitted


def smooth_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, K)).double().eval()


def of_network(network: nn.Module, names: list[str]) -> tuple[dict[str, Layer], list[Whitened], Tensor]:
    image = torch.rand(N, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layers = named_layers(network, names)
    with torch.no_grad():
        _, features = layer_features(network, layers, image)
    label = torch.arange(N) % K
    return layers, [fitted(part, label) for part in features], image


def test_confidence_without_preprocessing_is_minus_half_the_least_distance() -> None:
    network = smooth_network()
    layers, whitened, image = of_network(network, ["1", "2"])
    _, distances, M = layer_confidence(network, layers, whitened, image, [0.0])
    for place in range(2):
        torch.testing.assert_close(M[:, place, 0], -0.5 * distances[place].amin(dim=1), rtol=1e-10, atol=1e-10)
    _, _, both = layer_confidence(network, layers, whitened, image, [0.0, 0.01])
    torch.testing.assert_close(both[:, :, :1], M)


def test_a_small_step_raises_confidence_by_epsilon_times_the_l1_norm_of_its_gradient() -> None:
    network = smooth_network()
    layers, whitened, image = of_network(network, ["1", "2"])
    epsilon = 1e-6
    _, _, M = layer_confidence(network, layers, whitened, image, [0.0, epsilon])
    slope = (M[:, :, 1] - M[:, :, 0]) / epsilon
    for place in range(2):
        moving = image.clone().requires_grad_()
        _, features = layer_features(network, layers, moving)
        (gradient,) = torch.autograd.grad(mahalanobis_confidence(features[place], whitened[place]).sum(), moving)
        torch.testing.assert_close(slope[:, place], gradient.flatten(1).abs().sum(1), rtol=1e-3, atol=1e-4)
    assert bool((M[:, :, 1] >= M[:, :, 0]).all())


def test_images_move_by_epsilon_and_sign_of_zero_is_one() -> None:
    """Only the first pixel affects the score. All other pixels have gradient zero, and decrease by epsilon."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False), nn.Identity()).double()
    assert isinstance(network[1], nn.Linear)
    network[1].weight.data = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    whitened = Whitened(torch.zeros(1).long(), 0 * one, one[:, None], torch.zeros(1, 1, dtype=torch.float64))
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    image = torch.tensor([[0.5, 0.2, 0.0, 1.0]], dtype=torch.float64).view(1, 1, 2, 2)
    _, _, M = layer_confidence(network, named_layers(network, ["2"]), [whitened], image, [0.0, 0.1])
    torch.testing.assert_close(seen[-1].flatten(), torch.tensor([0.4, 0.1, -0.1, 0.9], dtype=torch.float64))
    torch.testing.assert_close(M.flatten(), torch.tensor([-0.125, -0.08], dtype=torch.float64))
    assert direction(torch.tensor([-1.0, 0.0, 2.0])).tolist() == [-1, 1, 1]


def test_odin_without_temperature_and_perturbation_is_softmax_confidence() -> None:
    network, image = smooth_network(), torch.rand(6, 1, 4, 4, dtype=torch.float64)
    scores = odin_confidence(network, image, [1.0, 10.0], [0.0, 0.01])
    logits = network(image)
    torch.testing.assert_close(scores[:, 0, 0], softmax_confidence(logits), rtol=0, atol=1e-14)
    torch.testing.assert_close(scores[:, 1, 0], softmax(logits / 10, dim=1).amax(dim=1))
    assert bool((scores[:, :, 1] > scores[:, :, 0]).all())
    assert all(parameter.grad is None for parameter in network.parameters())
    torch.testing.assert_close(energy_confidence(logits), logits.exp().sum(dim=1).log())
