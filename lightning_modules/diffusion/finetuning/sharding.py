"""Share out parameters, gradients, optimizer state and averages of a U-Net of diffusers over processes."""

from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard


def share_out(network: nn.Module, mesh: DeviceMesh) -> None:
    """Let each process keep a part of every parameter, which is gathered where a block needs it.

    The network keeps its type and its names, and pipelines that hold it go on.

    Args:
        network: a U-Net of diffusers.
        mesh: the processes.
    """
    unet: Any = network
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        if block is not None:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # At rest all weights are shared out, also between validation batches, when averages take their place.
    fully_shard(unet, mesh=mesh, reshard_after_forward=True)


def refuse_to_go_on(shared_out: bool, stage: Any) -> None:
    """Refuse to resume training with weights that are shared out.

    PyTorch makes a step of its own while it reads the optimizer's state, which averages would follow.

    Raises:
        ValueError: says where the run can go on.
    """
    if shared_out and stage == TrainerFn.FITTING:
        raise ValueError(
            "training by ModelParallelStrategy cannot go on from a checkpoint: resume it on one process or by ddp, "
            "which its checkpoints fit"
        )
