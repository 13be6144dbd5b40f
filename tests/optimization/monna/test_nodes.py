"""Networks of several nodes in one tensor equal separate networks: outputs, gradients and statistics."""

import copy

import pytest
import torch
from torch import nn

from lightning_modules.backbones.normalized import Normalized
from lightning_modules.optimization.monna.nodes import NodeNetworks
from tests.numbers import numbers


def network() -> nn.Module:
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)]
    return Normalized(nn.Sequential(*layers), [0.3], [0.2]).double()


def apart(nodes: NodeNetworks, one: nn.Module) -> list[nn.Module]:
    """Copy the weights of each node into a separate network."""
    copies = []
    for row in nodes.weights.detach():
        copies.append(copy.deepcopy(one))
        nn.utils.vector_to_parameters(row, copies[-1].parameters())
    return copies


def test_nodes_are_networks_apart() -> None:
    one = network()
    nodes = NodeNetworks(one, 3)
    assert (nodes.weights == nn.utils.parameters_to_vector(one.parameters())).all()
    with torch.no_grad():
        nodes.weights += 0.1 * numbers(*nodes.weights.shape)
    copies, image = apart(nodes, one), numbers(3, 5, 1, 8, 8)
    expected = torch.stack([each(own) for each, own in zip(copies, image, strict=True)])
    logits = nodes.each(nodes.tensors(), image)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    (logits**2).sum().backward()
    (expected**2).sum().backward()
    assert nodes.weights.grad is not None
    for row, each in zip(nodes.weights.grad, copies, strict=True):
        gradient = torch.cat([parameter.grad.flatten() for parameter in each.parameters()])  # type: ignore[union-attr]
        torch.testing.assert_close(row, gradient, rtol=1e-10, atol=1e-12)
    for name, buffer in nodes.tensors().items():
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert (buffer != 0).any()
            theirs = [each.state_dict()[name] for each in copies]
            torch.testing.assert_close(buffer, torch.stack(theirs), rtol=1e-12, atol=1e-12)
    nodes.eval()
    for each in copies:
        each.eval()
    shared = nodes.each(nodes.tensors(), image[0], shared=True)
    torch.testing.assert_close(shared, torch.stack([each(image[0]) for each in copies]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(nodes(image[0]), shared[0], rtol=1e-12, atol=1e-12)


def test_frozen_layers_and_what_is_saved() -> None:
    one = network()
    one.network[0].requires_grad_(False)  # type: ignore[index]
    nodes = NodeNetworks(one, 2)
    assert nodes.size == 6 + 27 * 4 + 4  # BatchNorm and the linear layer
    statistics = {f"network/1/{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert set(nodes.state_dict()) == {"weights", "momentum", "network/0/weight", "network/0/bias"} | statistics
    assert [name for name, _ in nodes.named_parameters()] == ["weights"]
    torch.testing.assert_close(nodes(numbers(2, 1, 8, 8)), one(numbers(2, 1, 8, 8)))


def test_dropout_differs_from_node_to_node() -> None:
    nodes = NodeNetworks(nn.Sequential(nn.Linear(20, 20), nn.Dropout(0.5)), 3)
    outputs = nodes.each(nodes.tensors(), torch.ones(1, 20), shared=True)
    assert not (outputs[0] == 0).equal(outputs[1] == 0)
    nodes.eval()
    assert nodes.each(nodes.tensors(), torch.ones(1, 20), shared=True)[0].all()


def test_a_network_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="network: Linear has no trainable parameters"):
        NodeNetworks(nn.Linear(2, 2).requires_grad_(False), 3)
