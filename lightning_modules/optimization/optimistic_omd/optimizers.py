"""Online optimizers that play a point in a ball in every round: optimistic online mirror descent and baselines.

The equations are in the docstring of the package. A call of `step` uses the gradient of round t at the played point,
and immediately computes the next point with the hint of the next round. The parameters are therefore equal to x_{t+1}
before round t + 1 starts. In any training loop, `loss.backward(); optimizer.step()` completes one round.

On the CPU, a round is computed with Python numbers and NumPy arrays, which stay there until the memory is read or
saved. For vectors with about ten entries, most of the time is call overhead, which is several times lower in NumPy than
in PyTorch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from datamodules.arguments import at_least, one_of, only_with, positive
from lightning_modules.optimization.optimistic_omd.ball import project_in_norm, project_points, squared_norm

Memory = dict[str, Any]
"""State by name: tensors or, during a round on the CPU, NumPy arrays and Python numbers (for scalar tensors)."""


class OnlineOptimizer(Optimizer, ABC):
    """Base class of optimizers that play a point in the ball of diameter D around the origin in every round.

    The point is the concatenation of all parameters. The initial point is projected onto the ball. The memory of a
    learner is part of `state`, and is therefore saved in checkpoints.

    Args:
        params: parameters in a single group, with the same dtype and on the same device.
        D: diameter of the ball around the origin.
        G: bound on the norms of all gradients, including their noise; None means the largest norm so far, for which no
            regret bound is proven.
    """

    def __init__(self, params: Iterable[Any], D: float, G: float | None) -> None:
        positive(D=D, G=G)
        super().__init__(params, {})
        if len(self.param_groups) > 1:
            raise ValueError(
                f"{type(self).__name__} needs all parameters in a single group, got {len(self.param_groups)} groups"
            )
        self.D = D
        self.G = G
        self.radius = D / 2
        self._on_host: Memory = {}
        x = project_points(self.point, self.radius)
        zero = torch.zeros_like(x[0])
        self._play(x)
        self.state[self._parameters[0]] = {
            "round": zero,
            "greatest": torch.zeros_like(zero),
            "beyond": zero.new_zeros(2),
            **self.begin(x),
        }

    @abstractmethod
    def begin(self, x: Tensor) -> Memory:
        """Return the initial memory, before the first round.

        x, `[d]`, is the point that is played in the first round.
        """

    @abstractmethod
    def decide(self, gradient: Any, memory: Memory) -> Any:
        """Return the point of the next round, `[d]`, and update the memory.

        Args:
            gradient: gradient of the last round at the played point, `[d]`, a tensor or a NumPy array.
            memory: memory of the learner, which is updated in place; its entry `round` is the number of completed
                rounds. If the gradient is a NumPy array, the memory consists of NumPy arrays and Python numbers.
        """

    @property
    def _parameters(self) -> list[Tensor]:
        return self.param_groups[0]["params"]

    @property
    def memory(self) -> Memory:
        """Return the memory of the learner, as tensors."""
        kept = self.state[self._parameters[0]]
        for name, value in self._on_host.items():
            kept[name] = torch.as_tensor(value, dtype=kept[name].dtype)
        self._on_host = {}
        return kept

    def state_dict(self) -> dict[str, Any]:
        assert self.memory  # moves it from the host to `state`
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._on_host = {}
        super().load_state_dict(state_dict)

    @property
    def point(self) -> Tensor:
        """The point to play in the next round, `[d]`."""
        return torch.cat([each.detach().flatten() for each in self._parameters])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """End a round with the gradients of the parameters, and set the parameters to the next point."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        own = [torch.zeros_like(each) if each.grad is None else each.grad.detach() for each in self._parameters]
        if own[0].device.type == "cpu" and own[0].dtype in (torch.float32, torch.float64):
            self._play(self._end_round_on_host(np.concatenate([each.numpy().ravel() for each in own])))
        else:
            self._play(self._end_round(torch.cat([each.flatten() for each in own]), self.memory))
        return loss

    def _end_round(self, gradient: Tensor, memory: Memory) -> Tensor:
        memory["round"] += 1
        norm = gradient.norm()
        memory["greatest"] = torch.maximum(memory["greatest"], norm)
        beyond = ~(norm <= self._largest_norm(norm.dtype)) & (
            memory["beyond"][0] == 0
        )  # also if the norm is not finite
        memory["beyond"] = torch.where(beyond, torch.stack([memory["round"], norm]), memory["beyond"])
        return self.decide(gradient, memory)

    def _end_round_on_host(self, gradient: np.ndarray) -> np.ndarray:
        if not self._on_host:
            self._on_host = {name: each.numpy() if each.ndim else each.item() for name, each in self.memory.items()}
        memory, norm = self._on_host, math.sqrt(squared_norm(gradient))
        memory["round"] += 1
        memory["greatest"] = memory["greatest"] if memory["greatest"] > norm else norm
        allowed = self._largest_norm(torch.float32 if gradient.dtype == np.float32 else torch.float64)
        if not norm <= allowed and memory["beyond"][0] == 0:
            memory["beyond"] = np.array([memory["round"], norm], gradient.dtype)
        return self.decide(gradient, memory)

    def _largest_norm(self, dtype: torch.dtype) -> float:
        """Return the largest gradient norm that is accepted."""
        return torch.finfo(dtype).max if self.G is None else self.G * (1 + 1e-9)

    def check(self) -> None:
        """Raise an error if the norm of a gradient has exceeded G; the check synchronises with the host.

        Raises:
            ValueError: if the norm of a gradient has exceeded G or was not finite; the message names the first such
                round.
        """
        number, norm = (self._on_host or self.memory)["beyond"].tolist()
        if number and self.G is None:
            raise ValueError(f"the gradient of round {number:.0f} has norm {norm:g}: it is not finite")
        if number:
            raise ValueError(
                f"G is {self.G}, but the gradient of round {number:.0f} has norm {norm:g}: set G to a bound on all "
                f"gradients, noise included"
            )

    def bound(self, memory: Memory) -> Any:
        """Return G if it is set, and otherwise the largest gradient norm so far."""
        if self.G is not None:
            return self.G
        greatest = memory["greatest"]
        return greatest.clamp(min=1e-30) if isinstance(greatest, Tensor) else max(greatest, 1e-30)

    def _play(self, x: Any) -> None:
        start = 0
        for parameter in self._parameters:
            part = x[start : start + parameter.numel()].reshape(parameter.shape)
            if isinstance(part, Tensor):
                parameter.data.copy_(part)
            else:
                parameter.detach().numpy()[...] = part
            start += parameter.numel()


def number(value: Any, gradient: Any) -> Any:
    """Convert a scalar to a Python number if the gradient is a NumPy array."""
    return float(value) if isinstance(gradient, np.ndarray) else value


class OptimisticOMD(OnlineOptimizer):
    """Optimistic online mirror descent for convex, strongly convex or exp-concave losses.

    By default, the hint is the last gradient.

    Args:
        params: parameters in a single group, with the same dtype and on the same device.
        D: diameter of the ball around the origin.
        G: bound on the norms of all gradients, including their noise; None means that the largest norm so far is used,
            for which no regret bound is proven. G is required for exp-concave losses. The step sizes for strongly
            convex losses do not depend on G.
        L: smoothness constant of the expected losses.
        mode: kind of the losses, `convex`, `strongly_convex` or `exp_concave`.
        modulus: lambda for strongly convex losses, or alpha for exp-concave losses.
        delta: term that is added to 4 G^2 in the step size for convex losses; None means 10 D^2 L^2.
        hint: whether the hint is the last gradient; if false, the hint is 0.
    """

    def __init__(
        self,
        params: Iterable[Any],
        D: float,
        G: float | None = None,
        L: float = 1.0,
        mode: Literal["convex", "strongly_convex", "exp_concave"] = "convex",
        modulus: float | None = None,
        delta: float | None = None,
        hint: bool = True,
    ) -> None:
        one_of(("convex", "strongly_convex", "exp_concave"), mode=mode)
        at_least(0, L=L, delta=delta)
        positive(D=D, G=G, modulus=modulus)
        only_with("mode convex", mode == "convex", OptimisticOMD, delta=delta)
        if (modulus is None) != (mode == "convex"):
            raise ValueError(
                f"modulus must be {'left out' if mode == 'convex' else 'given'} for mode {mode}, got {modulus}"
            )
        if G is None and mode == "exp_concave":
            raise ValueError("G must be given for mode exp_concave, got None")
        self.mode = mode
        self.modulus = modulus or 0.0
        self.delta = 10 * D**2 * L**2 if delta is None else delta
        self.beta = 0.0 if G is None else 0.5 * min(1 / (4 * G * D), self.modulus)
        self.hint = hint
        super().__init__(params, D, G)

    def begin(self, x: Tensor) -> Memory:
        memory = {"anchor": x, "hint": torch.zeros_like(x), "variation": torch.zeros_like(x[0])}
        if self.mode == "exp_concave":
            scale = 1 + self.beta * (self.G or 0) ** 2 / 2
            identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
            memory |= {"h": scale * identity, "inverse": identity / scale}
        start = torch.zeros_like(x[0])
        first = self.step_size({**memory, "round": start, "greatest": start})
        return {**memory, "step_size": torch.as_tensor(first, dtype=x.dtype, device=x.device)}

    def step_size(self, memory: Memory) -> Any:
        """Compute the step size eta_t of the next round.

        For exp-concave losses, the step size is 1, because H_t determines the step.
        """
        if self.mode == "convex":
            bound = self.bound(memory)
            return self.D / (self.delta + 4 * bound * bound + memory["variation"]) ** 0.5
        return 2 / (self.modulus * (memory["round"] + 1)) if self.mode == "strongly_convex" else memory["round"] * 0 + 1

    def decide(self, gradient: Any, memory: Memory) -> Any:
        memory["anchor"] = self._move(gradient, memory)
        memory["variation"] = memory["variation"] + squared_norm(gradient - memory["hint"])
        if self.mode == "exp_concave":
            memory["h"] = memory["h"] + self.beta / 2 * (gradient[:, None] * gradient)
            memory["inverse"] = sherman_morrison(memory["inverse"], gradient, self.beta / 2)
        memory["step_size"] = number(self.step_size(memory), gradient)
        if not self.hint:
            return memory["anchor"]
        memory["hint"] = gradient
        return self._move(gradient, memory)

    def _move(self, gradient: Any, memory: Memory) -> Any:
        """Return the anchor after a step along the negative gradient and a projection onto the ball."""
        if self.mode == "exp_concave":
            return project_in_norm(memory["anchor"] - memory["inverse"] @ gradient, memory["h"], self.radius)
        return project_points(memory["anchor"] - memory["step_size"] * gradient, self.radius)


def sherman_morrison(inverse: Any, u: Any, c: float) -> Any:
    """Compute (H + c u u^T)^-1 from H^-1, `[d, d]`, and u, `[d]`."""
    moved = inverse @ u
    return inverse - (moved[:, None] * moved) * (c / (1 + c * (u @ moved)))


class OptimisticEnsemble(OnlineOptimizer):
    """Learners with different fixed step sizes, combined by optimistic Hedge, for comparators that change over time.

    Each round needs only one gradient. The first step size is D / (G sqrt(T)). Each further step size is twice the
    previous one, until 1 / (8 L) is reached. If 1 / (8 L) is smaller than the first step size, there is only one
    learner.

    Args:
        params: parameters in a single group, with the same dtype and on the same device.
        D: diameter of the ball around the origin.
        G: bound on the norms of all gradients, including their noise.
        T: number of rounds of the stream.
        L: smoothness constant of the expected losses, positive.
    """

    def __init__(self, params: Iterable[Any], D: float, G: float, T: int, L: float = 1.0) -> None:
        at_least(1, T=T)
        positive(D=D, G=G, L=L)
        self.L = L
        least = D / (G * math.sqrt(T))
        doublings = max(0, math.ceil(math.log2(1 / (8 * L) / least) - 1e-9))
        self.step_sizes = [least * 2.0**power for power in range(doublings + 1)]
        super().__init__(params, D, G)

    def begin(self, x: Tensor) -> Memory:
        points = x.repeat(len(self.step_sizes), 1)
        same = torch.full_like(points[:, 0], -math.log(len(points)))
        zero = torch.zeros_like(same)
        memory = {"points": points, "anchors": points.clone(), "switching": zero, "expected": zero.clone()}
        return {**memory, "log_weight": same, "weight": same.exp(), "error": torch.ones_like(x[0])}

    def rate(self, memory: Memory) -> Any:
        """Compute the rate eps_t = min{1 / (8 D^2 L), (1 + sum ||l_s - m_s||_inf^2)^(-1/2)} of the next round."""
        most, found = 1 / (8 * self.D**2 * self.L), memory["error"] ** -0.5
        return found.clamp(max=most) if isinstance(found, Tensor) else min(found, most)

    def decide(self, gradient: Any, memory: Memory) -> Any:
        loss = memory["points"] @ gradient + memory["switching"]
        memory["log_weight"] = log_softmax(memory["log_weight"] - self.rate(memory) * loss)
        error = abs(loss - memory["expected"]).max()
        if isinstance(gradient, Tensor):
            step_sizes: Any = torch.tensor(self.step_sizes, dtype=gradient.dtype).to(gradient.device, non_blocking=True)
        else:
            step_sizes, error = np.array(self.step_sizes, gradient.dtype), float(error)
        memory["error"] = memory["error"] + error * error
        step = step_sizes[:, None] * gradient
        memory["anchors"] = project_points(memory["anchors"] - step, self.radius)
        points = project_points(memory["anchors"] - step, self.radius)
        memory["switching"] = 2 * self.L * ((points - memory["points"]) ** 2).sum(1)
        memory["points"] = points
        memory["expected"] = points @ gradient + memory["switching"]
        log_weight = log_softmax(memory["log_weight"] - self.rate(memory) * memory["expected"])
        memory["weight"] = log_weight.exp() if isinstance(log_weight, Tensor) else np.exp(log_weight)
        return memory["weight"] @ points


def log_softmax(x: Any) -> Any:
    """Normalise log weights, `[N]`, so that the weights sum to 1."""
    if isinstance(x, Tensor):
        return x.log_softmax(0)
    moved = x - x.max()
    return moved - math.log(np.exp(moved).sum())


class OnlineGradientDescent(OnlineOptimizer):
    """Online gradient descent with the step size D / (G sqrt(t)) and without a hint."""

    def begin(self, x: Tensor) -> Memory:
        return {}

    def decide(self, gradient: Any, memory: Memory) -> Any:
        point: Any = self.point if isinstance(gradient, Tensor) else self.point.numpy()
        return project_points(point - self.D / (self.bound(memory) * memory["round"] ** 0.5) * gradient, self.radius)


class OptimisticFTRL(OnlineOptimizer):
    """Optimistic FTRL (follow the regularised leader) with the last gradient as the hint, as proposed by Sachs et al.

    Args:
        params: parameters in a single group, with the same dtype and on the same device.
        D: diameter of the ball around the origin.
        G: bound on the norms of all gradients, including their noise. G is only used for checking the gradients; None
            disables the check.
        nu: initial value nu of the denominator of the step size.
    """

    def __init__(self, params: Iterable[Any], D: float, G: float | None = None, nu: float = 1.0) -> None:
        positive(nu=nu)
        self.nu = nu
        super().__init__(params, D, G)

    def begin(self, x: Tensor) -> Memory:
        zero = torch.zeros_like(x)
        return {"sum": zero, "hint": zero.clone(), "weighted_variation": zero[0].clone()}

    def step_size(self, memory: Memory) -> Any:
        """Compute the step size eta_t = D^2 / (nu + sum_{s<t} eta_s ||g_s - M_s||^2)."""
        return self.D**2 / (self.nu + memory["weighted_variation"])

    def decide(self, gradient: Any, memory: Memory) -> Any:
        own = number(self.step_size(memory), gradient) * squared_norm(gradient - memory["hint"])
        memory["weighted_variation"] = memory["weighted_variation"] + own
        memory["sum"] = memory["sum"] + gradient
        memory["hint"] = gradient
        return project_points(-number(self.step_size(memory), gradient) / 2 * (memory["sum"] + gradient), self.radius)
