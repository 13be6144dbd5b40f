"""Collectives with NCCL's restriction, computed by gloo: they accept only tensors on the device.

    simulated_device.register()
    collectives.like_nccl()

Call these functions in this order in each process of a group, as `on_device(command, ranks=2)` in
`tests/conformance/on_device.py` does. The modules and batches of a multi-process Trainer are then on the simulated
device. A group created with `new_group(backend="gloo")` also accepts CPU tensors. Object collectives accept any
tensors, because PyTorch moves their bytes. If DDP searches for unused parameters, gradients are not synchronised,
because this search needs pinned memory of the device.
"""

from functools import wraps
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from tests.conformance import simulated_device

OF_TENSORS = (
    *("all_reduce", "reduce", "broadcast", "all_gather", "all_gather_into_tensor", "gather", "scatter"),
    *("reduce_scatter", "reduce_scatter_tensor", "all_to_all", "all_to_all_single"),
    *("send", "recv", "isend", "irecv"),
)
UNKNOWN_TYPES = {torch.int16, torch.uint16, torch.uint32, torch.uint64}  # NCCL has no such dtypes
UNKNOWN_SUMS = {dist.ReduceOp.BAND, dist.ReduceOp.BOR, dist.ReduceOp.BXOR}


class RefusedByNCCL(RuntimeError):
    """An operation that NCCL rejects or hangs on."""


class Reached(NamedTuple):
    """A tensor that was passed to a collective."""

    collective: str
    device: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    group: str


REACHED: list[Reached] = []
"""Tensors that were passed to collectives in this process, in order."""
_gloo: list[Any] = []  # groups created explicitly with gloo


def check(name: str, group: Any, tensors: list[Tensor], op: Any = None) -> None:
    """Record the tensors that are passed to a collective, and raise an error if NCCL would not accept them."""
    says_gloo = any(group is each for each in _gloo)
    for tensor in tensors:
        place, shape = str(tensor.device), tuple(tensor.shape)
        REACHED.append(Reached(name, place, tensor.dtype, shape, "gloo" if says_gloo else "nccl"))
        if says_gloo:
            continue
        if not simulated_device.on_device(tensor):
            raise RefusedByNCCL(f"{name} of a tensor {list(shape)} on {place}, in a group that does not say gloo")
        if tensor.dtype in UNKNOWN_TYPES:
            raise RefusedByNCCL(f"{name} of {tensor.dtype}, which NCCL does not have")
        if not tensor.is_contiguous():
            raise RefusedByNCCL(f"{name} of a tensor {list(shape)} that is not contiguous")
    if not says_gloo and op in UNKNOWN_SUMS:
        raise RefusedByNCCL(f"{name} by {op}, which NCCL does not have")


class Unsynchronised(DistributedDataParallel):
    """DDP that never synchronises gradients, even if Lightning requests it."""

    @property
    def require_backward_grad_sync(self) -> bool:
        return False

    @require_backward_grad_sync.setter
    def require_backward_grad_sync(self, value: bool) -> None:
        pass


def _checked(name: str, function: Any) -> Any:
    @wraps(function)
    def collective(*args: Any, **kwargs: Any) -> Any:
        leaves = tree_leaves((args, kwargs))
        groups = [leaf for leaf in leaves if isinstance(leaf, dist.ProcessGroup)]
        ops = [leaf for leaf in leaves if isinstance(leaf, dist.ReduceOp | dist.ReduceOp.RedOpType)]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        check(name, *(groups or [None])[:1], tensors, *ops[:1])
        return function(*args, **kwargs)

    return collective


def like_nccl() -> None:
    """Until the process ends, make collectives behave like NCCL's, and make DDPStrategy use the simulated device."""
    for name in OF_TENSORS:
        setattr(dist, name, _checked(name, getattr(dist, name)))
    made = dist.new_group

    @wraps(made)
    def new_group(*args: Any, **kwargs: Any) -> Any:
        group = made(*args, **kwargs)
        if kwargs.get("backend", args[2] if len(args) > 2 else None) == "gloo":
            _gloo.append(group)
        return group

    began = DDPStrategy.setup_distributed

    def setup_distributed(self: DDPStrategy) -> None:
        """Initialise the process group on the CPU, because gloo does not support the simulated device."""
        DDPStrategy.root_device = torch.device("cpu")  # type: ignore[assignment, method-assign]
        try:
            began(self)
        finally:
            DDPStrategy.root_device = simulated_device.DEVICE  # type: ignore[assignment, method-assign]

    wrapped = DistributedDataParallel.__init__

    def __init__(self: DistributedDataParallel, *args: Any, find_unused_parameters: bool = False, **more: Any) -> None:
        wrapped(self, *args, **more)
        self.__class__ = Unsynchronised if find_unused_parameters else type(self)

    dist.new_group = new_group
    DistributedDataParallel.__init__ = __init__  # type: ignore[method-assign]
    DDPStrategy.setup_distributed = setup_distributed  # type: ignore[method-assign]
    DDPStrategy.root_device = simulated_device.DEVICE  # type: ignore[assignment, method-assign]
    DDPStrategy.determine_ddp_device_ids = lambda self: None  # type: ignore[method-assign]
