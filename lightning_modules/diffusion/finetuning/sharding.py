"""Shard parameters, gradients, optimizer state and averaged weights of a diffusers network over ranks."""

from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard


def share_out(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard every parameter over ranks; each block gathers its parameters for its forward and backward pass.

    The network's type and parameter names stay unchanged, and pipelines that contain the network still work.

    Args:
        network: U-Net or transformer of diffusers.
        mesh: device mesh to shard over.
    """
    for block in blocks(network):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # Outside a forward pass, all weights are sharded, so they can be swapped with averages between validation batches.
    fully_shard(network, mesh=mesh, reshard_after_forward=True)


def blocks(network: nn.Module) -> list[nn.Module]:
    """List the blocks of a diffusers network.

    These are the elements of its module lists and the middle block of a U-Net.
    """
    lists = (child for child in network.children() if isinstance(child, nn.ModuleList))
    middle = getattr(network, "mid_block", None)
    return [block for each in lists for block in each] + ([] if middle is None else [middle])


def refuse_to_go_on(shared_out: bool, stage: Any) -> None:
    """Reject resuming training with sharded weights.

    To load the optimizer state, PyTorch runs an optimizer step, and the averaged weights would count it as an update.

    Raises:
        ValueError: if `stage` is fit and the weights are sharded.
    """
    if shared_out and stage == TrainerFn.FITTING:
        raise ValueError(
            "training with ModelParallelStrategy cannot resume from a checkpoint: resume with one device or with ddp, "
            "which can load the same checkpoint"
        )
