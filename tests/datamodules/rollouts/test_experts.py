"""Experts: CartPole's regulator compared with its equations, and an actor file compared with torch layers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.rollouts.experts import CartPoleLQR, SACExpert

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra imitation")


def test_the_regulator_solves_the_riccati_equation_of_the_environments_own_step() -> None:
    environment = gymnasium.make("CartPole-v1")
    expert = CartPoleLQR()
    expert.meet(environment)
    environment.reset(seed=0)
    pole, small = environment.unwrapped, 1e-4

    def stepped(state: np.ndarray, force: float) -> np.ndarray:
        pole.state, pole.steps_beyond_terminated, magnitude = tuple(state), None, pole.force_mag
        pole.force_mag = force * magnitude
        pole.step(1)
        pole.force_mag = magnitude
        return np.array(pole.state)

    columns = [(stepped(small * unit, 0.0) - stepped(-small * unit, 0.0)) / (2 * small) for unit in np.eye(4)]
    a, b = (
        np.stack(columns, axis=1),
        ((stepped(np.zeros(4), small) - stepped(np.zeros(4), -small)) / (2 * small))[:, None],
    )
    p = np.eye(4)
    for _ in range(20_000):  # the fixed-point iteration converges to the solution of the equation
        gain = np.linalg.solve(np.eye(1) + b.T @ p @ b, b.T @ p @ a)
        p = np.eye(4) + a.T @ p @ (a - b @ gain)
    np.testing.assert_allclose(expert.gain, gain, rtol=1e-5)
    states = np.array([[0.0, 0.0, 1e-3, 0.0], [0.0, 0.0, 2.0, 0.0]])
    assert expert.actions(states).tolist() == [[pytest.approx(-gain[0, 2] * 1e-3, rel=1e-5)], [1.0]]


def test_another_environment_is_refused_by_the_regulator() -> None:
    with pytest.raises(ValueError, match="balances only CartPole, got the environment Pendulum-v1"):
        CartPoleLQR().meet(gymnasium.make("Pendulum-v1"))


def robot(states: int, low: float = -2.0, high: float = 1.0) -> Any:
    box = SimpleNamespace(shape=(3,), low=np.full(3, low, np.float32), high=np.full(3, high, np.float32))
    return SimpleNamespace(
        observation_space=SimpleNamespace(shape=(states,)), action_space=box, spec=SimpleNamespace(id="Robot-v0")
    )


def saved(folder: Path) -> tuple[SACExpert, dict[str, nn.Linear]]:
    layers = {"linear1": nn.Linear(5, 8), "linear2": nn.Linear(8, 8), "mean_linear": nn.Linear(8, 3)}
    tensors = {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}
    torch.save(tensors, folder / "expert")
    return SACExpert("expert", str(folder)), layers


def test_an_actor_acts_by_the_mean_of_its_file_within_the_bounds(tmp_path: Path) -> None:
    expert, layers = saved(tmp_path)
    expert.meet(robot(5))
    states = torch.randn(7, 5)
    hidden = torch.relu(layers["linear2"](torch.relu(layers["linear1"](states))))
    expected = -0.5 + 1.5 * torch.tanh(layers["mean_linear"](hidden))
    np.testing.assert_allclose(expert.actions(states.double().numpy()), expected.detach().numpy(), atol=1e-6)


def test_a_file_that_is_missing_or_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"SACExpert: .*expert is missing; experts of SSO's authors are in"):
        SACExpert("expert", str(tmp_path)).meet(robot(5))
    expert, _ = saved(tmp_path)
    with pytest.raises(ValueError, match="maps 5 inputs to 3 outputs, but Robot-v0 needs 11 and 3"):
        expert.meet(robot(11))
    torch.save({"linear1.weight": torch.zeros(1)}, tmp_path / "expert")
    with pytest.raises(ValueError, match=r"lacks linear1\.bias"):
        expert.meet(robot(5))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text", "expert is not a readable weights file"),
        ([1], "must contain a dictionary of tensors, got a list"),
        (
            {"linear1.weight": torch.zeros(8), "linear1.bias": torch.zeros(8)},
            r"linear1 of \[8\] and \[8\], which does not",
        ),
        (
            {
                f"linear{n}.{key}": torch.zeros(shape)
                for n in (1, 2)
                for key, shape in (("weight", (8, 5)), ("bias", 8))
            },
            r"linear2 of \[8, 5\] and \[8\], which does not fit the previous layer",
        ),
    ],
)
def test_a_damaged_or_foreign_file_is_named(content: Any, message: str, tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / "expert").write_bytes(content)
    else:
        torch.save(content, tmp_path / "expert")
    with pytest.raises(ValueError, match=message):
        SACExpert("expert", str(tmp_path)).meet(robot(5))
