from functools import partial

import pytest
import torch
from torch import nn

from lightning_modules.optim.averages import AveragedWeights, move_average, ramped_decay


def test_parameters_move_towards_the_network_and_statistics_stay() -> None:
    average, trained = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double() for _ in range(2))
    trained[1].running_mean.fill_(7.0)
    before = [parameter.detach().clone() for parameter in average.parameters()]
    move_average(average, trained, decay=0.75)
    for old, new, towards in zip(before, average.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), 0.75 * old + 0.25 * towards.detach(), rtol=0, atol=1e-15)
    assert (average[1].running_mean == 0).all()


def test_the_ramp_begins_with_a_tenth_and_ends_with_the_decay() -> None:
    assert [ramped_decay(update, 0.9) for update in (0, 1, 80, 1000)] == [0.1, 2 / 11, 0.9, 0.9]


def trained_for(steps: int, average: AveragedWeights, network: nn.Module) -> list[torch.Tensor]:
    """Train the network while averaging its weights, and return the first layer's weight after each step."""
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    average.follow(network, optimizer)
    weights = []
    for step in range(steps):
        optimizer.zero_grad()
        network(torch.full((3, 2), step + 1.0, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
        weights.append(network[0].weight.detach().clone())
    return weights


def test_an_average_follows_each_step_with_the_decay_of_its_own_count() -> None:
    network = nn.Sequential(nn.Linear(2, 1).double(), nn.BatchNorm1d(1).double())
    network[1].requires_grad_(False)
    expected = network[0].weight.detach().clone()
    average = AveragedWeights(network, partial(ramped_decay, decay=0.5))
    for update, weight in enumerate(trained_for(4, average, network)):
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(average.weights[0].detach(), expected, rtol=0, atol=1e-15)
    assert len(average.weights) == 2
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_an_average_is_used_and_given_back_whatever_happens() -> None:
    network = nn.Linear(2, 1)
    average = AveragedWeights(network, lambda update: 0.0)
    average.weights[0].data.fill_(7.0)
    own = network.weight.data.clone()

    def use_it_twice_and_fail() -> None:
        with average.used_by(network):
            with average.used_by(network):
                assert (network.weight == 7).all()
            assert (network.weight == 7).all()
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        use_it_twice_and_fail()
    assert torch.equal(network.weight.data, own)
    assert (average.weights[0] == 7).all()


def test_an_average_of_half_precision_moves_by_little_and_goes_on_from_its_state() -> None:
    network = nn.Linear(1, 1, bias=False).bfloat16()
    network.weight.data.fill_(1.0)
    average = AveragedWeights(network, lambda update: 0.9999)
    network.weight.data.fill_(2.0)
    for _ in range(3):
        average.update(network)
    assert average.weights[0].item() == pytest.approx(2 - 0.9999**3, abs=1e-6)
    with average.used_by(network):
        assert network.weight.dtype == torch.bfloat16
    again = AveragedWeights(network, lambda update: 0.9999)
    again.load_state_dict(average.state_dict())
    assert again.updates == 3
    assert torch.equal(again.weights[0], average.weights[0])


def test_an_average_is_used_by_a_network_that_was_frozen_since() -> None:
    """Modules that use a trained denoiser or generator freeze its network after loading, like this test."""
    network = nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    average = AveragedWeights(network, lambda update: 0.5)
    average.weights[0].data.fill_(7.0)
    network.requires_grad_(False)
    with average.used_by(network):
        assert (network.weight == 7).all()
    assert (network.weight != 7).all()


def test_an_average_on_the_host_is_that_on_the_device_bit_by_bit() -> None:
    networks = [nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double() for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    decay = partial(ramped_decay, decay=0.9)
    device, host = (AveragedWeights(each, decay, on_cpu) for each, on_cpu in zip(networks, (False, True), strict=True))
    assert not list(host.parameters())
    for average, network in ((device, networks[0]), (host, networks[1])):
        trained_for(5, average, network)
    assert host.unfinished is not None  # the last update waits for its copy
    expected, found = device.state_dict(), host.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    own = [parameter.clone() for parameter in networks[1].parameters()]
    with host.used_by(networks[1]), device.used_by(networks[0]):
        for one, other in zip(*(network.parameters() for network in networks), strict=True):
            assert torch.equal(one, other)
    assert all(torch.equal(one, other) for one, other in zip(own, networks[1].parameters(), strict=True))


def test_an_average_on_the_host_takes_weights_as_they_were_after_the_step() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = AveragedWeights(network, lambda update: 0.5, on_cpu=True)
    network.weight.data.fill_(2.0)
    average.update(network)
    network.weight.data.fill_(100.0)
    first = average.host[0].item()  # type: ignore[index]
    assert average.values()[0].item() == pytest.approx(first / 2 + 1)
    assert average.values()[0].item() == pytest.approx(first / 2 + 1)


@pytest.mark.parametrize("places", [(False, True), (True, False), (True, True)])
def test_a_checkpoint_goes_on_at_either_place(places: tuple[bool, bool]) -> None:
    network = nn.Linear(2, 1)
    saved, again = (AveragedWeights(network, lambda update: 0.5, on_cpu) for on_cpu in places)
    network.weight.data.fill_(3.0)
    saved.update(network)
    owner = nn.ModuleDict({"average": again})
    owner.load_state_dict({f"average.{key}": value for key, value in saved.state_dict().items()})
    assert again.updates == 1
    assert all(torch.equal(*pair) for pair in zip(saved.values(), again.values(), strict=True))
    with pytest.raises(RuntimeError, match=r"Missing key.*average\.weights\.1"):
        owner.load_state_dict({key: value for key, value in owner.state_dict().items() if key != "average.weights.1"})


def test_without_decay_no_average_is_kept_and_checkpoints_fit_both_ways() -> None:
    network = nn.Linear(2, 1)
    none, kept = AveragedWeights(network, None), AveragedWeights(network, lambda update: 0.0)
    for average in (none, kept):
        average.update(network)
    assert none.values() == []
    assert list(none.state_dict()) == ["_extra_state"]
    with none.used_by(network):
        assert none.dtype(network) == torch.float32
    none.load_state_dict(kept.state_dict())
    assert none.updates == 1
    state = {f"average.{key}": value for key, value in none.state_dict().items()} | {
        f"network.{key}": value for key, value in network.state_dict().items()
    }
    kept.complete(state, "average.", "network.")
    nn.ModuleDict({"average": kept, "network": network}).load_state_dict(state)
    assert torch.equal(kept.weights[0], network.weight)
