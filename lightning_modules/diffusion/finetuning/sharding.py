"""Shard parameters, gradients, optimizer state and averaged weights of a diffusers U-Net over ranks."""

from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard


def share_out(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard every parameter over ranks; each block gathers its parameters when it runs.

    The network keeps its type and parameter names, and pipelines that hold it still work.

    Args:
        network: U-Net of diffusers.
        mesh: device mesh to shard over.
    """
    unet: Any = network
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        if block is not None:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # Outside a forward pass all weights are sharded, so averaged weights can replace them between validation batches.
    fully_shard(unet, mesh=mesh, reshard_after_forward=True)


def refuse_to_go_on(shared_out: bool, stage: Any) -> None:
    """Reject resuming training with sharded weights.

    PyTorch runs an optimizer step while it loads the optimizer state, and the averaged weights would record that step.

    Raises:
        ValueError: if `stage` is fit and the weights are sharded.
    """
    if shared_out and stage == TrainerFn.FITTING:
        raise ValueError(
            "training with ModelParallelStrategy cannot resume from a checkpoint: resume with one device or with ddp, "
            "which can load the same checkpoint"
        )
