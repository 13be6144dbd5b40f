"""Moving averages of a network's weights, updated during training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def move_average(average: nn.Module, trained: nn.Module, decay: float) -> None:
    """Move the parameters of an average towards those of a trained network, in place.

        e <- decay e + (1 - decay) theta

    Buffers, such as the statistics of batch normalisation, stay unchanged.

    Args:
        average: network whose parameters are the moving average e, with the same architecture as `trained`.
        trained: trained network, with parameters theta.
        decay: weight of the previous average, in [0, 1].
    """
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(trained.parameters()), None)


def ramped_decay(update: int, decay: float) -> float:
    """Compute the decay of the update that follows n earlier updates, min(decay, (1 + n) / (10 + n)).

    The decay increases with n.

    Args:
        update: n, number of earlier updates.
        decay: maximum decay.
    """
    return min(decay, (1 + update) / (10 + update))


class AveragedWeights(nn.Module):
    """Moving average of the trainable parameters of a network, in float32 or above.

    The average is saved in the state dict of the module that owns it. The state dict is the same whether the average is
    kept on the device or on the CPU.

    The average is updated after each optimizer step. Steps that a gradient scaler skips do not update the average. The
    network's buffers are not averaged. In the context `with average.used_by(network):`, the network has the averaged
    weights.

    Args:
        network: network whose parameters are averaged; frozen parameters are left out.
        decay: function that maps the number of earlier updates to the weight of the previous average, in [0, 1]. With
            None, there is no average, and the network's own weights are used instead.
        on_cpu: whether to keep the average in CPU memory, with one copy per rank. Weights on a GPU are copied to the
            CPU asynchronously. The CPU updates the average at the end of the next step, or earlier if the average is
            read.
    """

    updates: int

    def __init__(self, network: nn.Module, decay: Callable[[int], float] | None, on_cpu: bool = False) -> None:
        super().__init__()
        self.decay = decay
        self.updates = 0
        self.names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        kept = [] if decay is None else self._average(network)
        copies = [parameter.detach().to(wide(parameter.dtype), copy=True) for parameter in kept]
        # `Module.to` moves parameters, but not tensors in a list.
        self.host = [copy.to("cpu") for copy in copies] if on_cpu else None
        self.weights = nn.ParameterList([] if on_cpu else [nn.Parameter(copy, False) for copy in copies])
        self._in_use = False
        self._staged: list[Tensor] = []
        self.unfinished: tuple[float, Any] | None = None
        self.register_state_dict_post_hook(_write_host)
        self.register_load_state_dict_pre_hook(_read_host)

    def _average(self, network: nn.Module) -> list[nn.Parameter]:
        """Return the averaged parameters.

        These are the parameters that were trainable when the average was built, even if they do not require gradients
        now.
        """
        named = dict(network.named_parameters())
        return [named[name] for name in self.names]

    def values(self) -> list[Tensor]:
        """Return the averaged weights; the list is empty if no average is kept."""
        self.finish()
        return list(self.weights) if self.host is None else self.host

    def complete(self, state: dict[str, Any], own: str, network: str) -> None:
        """Add an average to a state dict from a run that kept none; the average starts from the trained weights.

        Args:
            state: state dict of the module that owns the average.
            own: prefix of the average's keys.
            network: prefix of the network's keys.
        """
        for place, name in enumerate(self.names if self.decay is not None else ()):
            if f"{network}{name}" in state:
                state.setdefault(f"{own}weights.{place}", state[f"{network}{name}"])

    def dtype(self, network: nn.Module) -> torch.dtype:
        """Return the dtype of the averaged weights."""
        return wide(self._average(network)[0].dtype)

    @torch.no_grad()
    def follow(self, network: nn.Module, optimizer: Optimizer) -> None:
        """Register a hook that updates the average after every step of the network's optimizer."""
        if self.host is not None:  # the network's precision may have changed
            trained = zip(self.host, self._average(network), strict=self.decay is not None)
            self.host = [mine.to(wide(parameter.dtype)) for mine, parameter in trained]
        optimizer.register_step_post_hook(lambda *_: self.update(network))

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update the average with the network's weights: e <- d e + (1 - d) theta."""
        self.finish()
        if self.decay is not None:
            weight, trained = self.decay(self.updates), self._average(network)
            if self.host is not None:
                self.unfinished = weight, self._stage(trained)
            else:
                _move(list(self.weights), trained, weight)
        self.updates += 1

    def _stage(self, trained: Sequence[Tensor]) -> Any:
        """Copy weights to the CPU. Return an event that marks the end of the copy, or None if the copy has ended.

        The copy is queued on the optimizer's CUDA stream, so the optimizer's next step waits for the copy.
        """
        asynchronous = trained[0].is_cuda
        if not self._staged:
            self._staged = [torch.empty_like(each, device="cpu", pin_memory=asynchronous) for each in trained]
        for staged, each in zip(self._staged, trained, strict=True):
            staged.copy_(each, non_blocking=asynchronous)
        if not asynchronous:
            return None
        event = torch.cuda.Event()
        event.record()
        return event

    @torch.no_grad()
    def finish(self) -> None:
        """Update an average on the CPU with the weights that were copied last."""
        if self.unfinished is None:
            return
        weight, event = self.unfinished
        if event is not None:
            event.synchronize()
        assert self.host is not None
        _move(self.host, self._staged, weight)
        self.unfinished = None

    @contextmanager
    def used_by(self, network: nn.Module) -> Iterator[None]:
        """Context manager that replaces the network's weights with the averaged weights.

        These contexts can be nested.
        """
        if self._in_use or self.decay is None:
            yield
            return
        trained = self._average(network)
        own = [parameter.detach().to("cpu" if self.host else parameter.device, copy=True) for parameter in trained]
        self._in_use = True
        try:
            _copy(trained, self.values())  # in place, because sharded parameters are views of their storage
            yield
        finally:
            _copy(trained, own)
            self._in_use = False

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        self.updates = int(state)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which weights of a given dtype are averaged."""
    return torch.promote_types(dtype, torch.float32)


def _move(average: list[Tensor], trained: Sequence[Tensor], decay: float) -> None:
    given = [each.to(mine.dtype) for each, mine in zip(trained, average, strict=True)]
    get_ema_multi_avg_fn(decay)(average, given, None)


def _write_host(average: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    if average.host is not None:
        state |= {f"{prefix}weights.{place}": value for place, value in enumerate(average.values())}


@torch.no_grad()
def _read_host(
    average: Any, state: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str], *_: Any
) -> None:
    """Load a checkpoint's average into CPU memory, or discard it if `average` keeps no average."""
    if average.host is None and average.decay is not None:
        return
    given = {key: state.pop(key) for key in list(state) if key.startswith(f"{prefix}weights.")}
    average.unfinished = None
    for place, own in enumerate(average.host or ()):
        key = f"{prefix}weights.{place}"
        if key in given:
            own.copy_(given[key])
        else:
            missing.append(key)


@torch.no_grad()
def _copy(to: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    for old, new in zip(to, given, strict=True):
        old.copy_(new)
