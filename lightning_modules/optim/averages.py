"""Moving averages of a network's weights during training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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
        average: moving average e, with the architecture of the network.
        trained: theta.
        decay: weight of the previous average, in [0, 1].
    """
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(trained.parameters()), None)


def ramped_decay(update: int, decay: float) -> float:
    """Compute the decay of the n-th update, min(decay, (1 + n) / (10 + n)).

    It increases with n.

    Args:
        update: number n of earlier updates.
        decay: maximum decay.
    """
    return min(decay, (1 + update) / (10 + update))


class AveragedWeights(nn.Module):
    """Moving average of the trainable parameters of a network, in float32 or above.

    It is saved in the state dict of its owner.

    The average is updated after each optimizer step. Steps that a gradient scaler skips do not update it. The network's
    buffers are not averaged. Within `with average.used_by(network):` the network has the averaged weights.

    Args:
        network: the network; the average leaves out frozen parameters.
        decay: function that maps the number of earlier updates to the weight of the previous average, in [0, 1].
    """

    updates: int

    def __init__(self, network: nn.Module, decay: Callable[[int], float]) -> None:
        super().__init__()
        self.decay = decay
        self.updates = 0
        self.names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        self.weights = nn.ParameterList(
            nn.Parameter(parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32), copy=True), False)
            for parameter in self._averaged(network)
        )
        self._in_use = False

    def _averaged(self, network: nn.Module) -> list[nn.Parameter]:
        """Return the averaged parameters.

        It does not matter whether they currently require a gradient.
        """
        named = dict(network.named_parameters())
        return [named[name] for name in self.names]

    @torch.no_grad()
    def follow(self, network: nn.Module, optimizer: Optimizer) -> None:
        """Update the average after every step of an optimizer of the network."""
        optimizer.register_step_post_hook(lambda *_: self.update(network))

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update the average towards the network: e <- d e + (1 - d) theta."""
        trained = [
            parameter.to(mine.dtype) for parameter, mine in zip(self._averaged(network), self.weights, strict=True)
        ]
        get_ema_multi_avg_fn(self.decay(self.updates))(list(self.weights), trained, None)
        self.updates += 1

    @contextmanager
    def used_by(self, network: nn.Module) -> Iterator[None]:
        """Context manager that gives the network the averaged weights.

        Such contexts can be nested.
        """
        if self._in_use:
            yield
            return
        trained = self._averaged(network)
        own = [parameter.detach().clone() for parameter in trained]
        self._in_use = True
        try:
            _copy(trained, list(self.weights))  # in place, since sharded parameters are views of their storage
            yield
        finally:
            _copy(trained, own)
            self._in_use = False

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        self.updates = int(state)


@torch.no_grad()
def _copy(to: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    for old, new in zip(to, given, strict=True):
        old.copy_(new)
