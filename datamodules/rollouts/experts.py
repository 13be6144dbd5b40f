"""Expert policies for imitation learning."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.files.data_directory import data_directory
from datamodules.files.tensor_files import read_tensors

Numbers = NDArray[np.float64]


class Expert(ABC):
    """Interface of expert policies. `meet` is called once with the environment, before `actions`."""

    @abstractmethod
    def meet(self, environment: Any) -> None:
        """Inspect a gymnasium environment before the first state."""

    @abstractmethod
    def actions(self, states: Numbers) -> Numbers:
        """Return the expert's actions `[E, A]` in states `[E, S]`, in the units of the environment.

        If the environment has two discrete actions, A is 1, and a positive number means the second action.
        """


class CartPoleLQR(Expert):
    """Expert that balances CartPole with a linear-quadratic regulator, designed for linearised dynamics.

    The action -K s is the force divided by the maximum force, clipped to [-1, 1], with

        K = (R + B^T P B)^-1 B^T P A,    P = Q + A^T P (A - B K),

    where s' = A s + B u is one step of the environment, linearised around the state of rest. Q and R are identity
    matrices.
    """

    gain: Numbers

    def meet(self, environment: Any) -> None:
        """Linearise the dynamics of an environment and solve for the feedback gain K."""
        from scipy.linalg import solve_discrete_are

        pole = environment.unwrapped
        if not hasattr(pole, "polemass_length"):
            raise ValueError(f"CartPoleLQR balances only CartPole, got the environment {environment.spec.id}")
        turning = pole.length * (4 / 3 - pole.masspole / pole.total_mass)
        a, b = np.zeros((4, 4)), np.zeros((4, 1))
        a[0, 1] = a[2, 3] = 1
        a[3, 2], b[3, 0] = pole.gravity / turning, -pole.force_mag / pole.total_mass / turning
        lever = pole.polemass_length / pole.total_mass
        a[1, 2], b[1, 0] = -lever * a[3, 2], pole.force_mag / pole.total_mass - lever * b[3, 0]
        a, b = np.eye(4) + pole.tau * a, pole.tau * b
        p = solve_discrete_are(a, b, np.eye(4), np.eye(1))
        self.gain = np.linalg.solve(np.eye(1) + b.T @ p @ b, b.T @ p @ a)

    def actions(self, states: Numbers) -> Numbers:
        return np.clip(-states @ self.gain.T, -1, 1)


class SACExpert(Expert):
    """Expert that uses the mean action of a soft actor-critic policy. The policy's weights are read from a file.

    The file contains a dictionary of tensors that was saved by `torch.save`. The tensors are the weights and biases of
    an MLP with the layers `linear1`, `linear2` and `mean_linear`. The action is the tanh of the MLP's output, scaled to
    the action bounds of the environment.

    Args:
        file: path of the weights file in the data directory, such as `sac_actor_Hopper_v2_expert`.
        data_dir: folder that contains the file. None means the NOISEWORKS_DATA directory.
    """

    def __init__(self, file: str, data_dir: str | None = None) -> None:
        self.file = file
        self.data_dir = data_dir

    def meet(self, environment: Any) -> None:
        """Read the weights from the file, and the action bounds from the environment."""
        path = Path(data_directory(self.data_dir, "SACExpert"), self.file)
        if not path.is_file():
            raise FileNotFoundError(
                f"SACExpert: {path} is missing; experts of SSO's authors are in mujoco/online_learning/"
                f"expert_generation/expert_models of github.com/WilderLavington/"
                f"Target-Based-Surrogates-For-Stochastic-Optimization"
            )
        tensors = read_tensors(path)
        if not isinstance(tensors, dict):
            raise ValueError(f"SACExpert: {path} must contain a dictionary of tensors, got a {type(tensors).__name__}")
        self.layers: list[list[Numbers]] = []
        inputs = None
        for name in ("linear1", "linear2", "mean_linear"):
            if missing := {f"{name}.weight", f"{name}.bias"} - set(tensors):
                raise ValueError(f"SACExpert: {path} lacks {', '.join(sorted(missing))}")
            pair = [tensors[f"{name}.{part}"] for part in ("weight", "bias")]
            if not all(isinstance(each, Tensor) and each.is_floating_point() for each in pair):
                raise ValueError(f"SACExpert: {path} must contain floating-point tensors {name}.weight and {name}.bias")
            outputs, before = pair[0].shape if pair[0].ndim == 2 else (None, None)
            if pair[1].shape != (outputs,) or inputs not in (None, before):
                shapes = " and ".join(str(list(each.shape)) for each in pair)
                raise ValueError(f"SACExpert: {path} has {name} of {shapes}, which does not fit the previous layer")
            inputs = outputs
            self.layers.append([tensors[f"{name}.{part}"].double().numpy() for part in ("weight", "bias")])
        wanted = environment.observation_space.shape[0], environment.action_space.shape[0]
        if (found := (self.layers[0][0].shape[1], len(self.layers[2][1]))) != wanted:
            raise ValueError(
                f"SACExpert: {path} maps {found[0]} inputs to {found[1]} outputs, but {environment.spec.id} needs "
                f"{wanted[0]} and {wanted[1]}"
            )
        space = environment.action_space
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.middle, self.half = (high + low) / 2, (high - low) / 2

    def actions(self, states: Numbers) -> Numbers:
        hidden = states
        for weight, bias in self.layers[:2]:
            hidden = np.maximum(hidden @ weight.T + bias, 0)
        weight, bias = self.layers[2]
        return self.middle + self.half * np.tanh(hidden @ weight.T + bias)
