"""Shard parameters, gradients, optimizer state and averaged weights of a diffusers network over ranks."""

from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from lightning_modules.backbones.weight_copies import network_blocks


def share_out(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard every parameter over ranks; each block gathers its parameters for its forward and backward passes.

    The network stays an instance of its class, the names of its parameters stay the same, and pipelines that contain
    the network still work.

    Args:
        network: U-Net or transformer from diffusers.
        mesh: device mesh over which parameters are sharded.
    """
    for block in network_blocks(network):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # All weights are sharded outside a forward pass, so they can be swapped with averages between validation batches.
    fully_shard(network, mesh=mesh, reshard_after_forward=True)


def refuse_to_go_on(shared_out: bool, stage: Any) -> None:
    """Reject an attempt to resume training with sharded weights.

    To load the optimizer state, PyTorch runs an optimizer step, and the averaged weights would count this step as an
    update.
    """
    if shared_out and stage == TrainerFn.FITTING:
        raise ValueError(
            "training with ModelParallelStrategy cannot resume from a checkpoint: resume with one device or with ddp, "
            "which can load the same checkpoint"
        )
