"""One network on all processes between two training steps.

DDP keeps parameters equal, but each process updates buffers, BatchNorm's running mean and variance above all, by its
own share of a batch. DDP gives all of them the first process's values only at the next forward pass through it, and a
checkpoint holds the first process's alone. So whoever judges images after a step by the network itself makes them equal
before. (Lightning's validation steps within `fit` go through DDP, and need no such care.)
"""

import torch.distributed as dist
from torch import nn

from datamodules.distributed.world import world_size


def broadcast_buffers(network: nn.Module) -> None:
    """Gives all processes the first one's buffers of floating-point numbers, in place; nothing in a single process.

    Every process calls it.
    """
    if world_size() == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.broadcast(buffer, src=0)
