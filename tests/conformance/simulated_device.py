"""A device emulated in Python, so that code that only fails on a GPU also fails on a machine without one.

Its tensors compute on the CPU and report the device `simulated:0`. As with CUDA, they can be combined with CPU tensors
only if these are zero-dimensional or indices, or in copies. The following mistakes therefore raise an error on this
device, too: a tensor created without `device=`, a generator of a different device, `.numpy()` of a device tensor, or a
module that Lightning has moved back to the CPU.

The device is registered for the whole process, with hooks that the autograd engine reads only once. Register it only in
a separate process, before the first backward pass (`tests/conformance/on_device.py`). It does not emulate speed,
memory, streams, or kernels.
"""

import gc
import os
import sys
from functools import partial
from typing import Any

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

DEVICE = torch.device("cpu")
"""The simulated device, after it has been registered."""
aten: Any = torch.ops.aten
COPIES = {aten.copy_.default, aten.copy.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
MADE = "arange arange.start arange.start_step eye eye.m linspace logspace randperm randperm.generator range range.step"
"""Factories that PyTorch implements by resizing an empty tensor; tensors of this device cannot be resized."""


BEFORE: list[Any] = []
"""Functions that are called with each operator on the device and its arguments."""
AFTER: list[Any] = []
"""Functions that are called with each operator on the device, its arguments and the result computed on the CPU."""


class DifferentDevices(RuntimeError):
    """Raised when tensors of different devices are combined in a way that CUDA rejects."""


class Backend(_DummyBackendModule):
    """The module that PyTorch expects for each type of device; its generator is that of the CPU."""

    def set_device(self, device: Any) -> None:
        pass

    def get_rng_state(self, device: Any = 0) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = 0) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class DeviceTensor(Tensor):
    """A tensor of the device; it shares the memory of the CPU tensor `host`, which contains its values."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> "DeviceTensor":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, host.shape, host.stride(), host.storage_offset(), dtype=host.dtype, layout=host.layout, device=DEVICE
        )
        made.host = host
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, *args, **(kwargs or {}))

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        value = value if isinstance(value, DeviceTensor) else DeviceTensor(value)
        self.host = value.host
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.host.untyped_storage()

    def tolist(self) -> Any:
        return self.host.tolist()

    def __format__(self, spec: str) -> str:
        return format(self.host, spec)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.host!r} on {self.device}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copy: Tensor = DeviceTensor(self.host.detach().clone())
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(copy, self.requires_grad) if is_parameter else copy
            memo[id(self)].requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.host.detach().__reduce_ex__(protocol)  # read on the CPU, as Lightning reads checkpoints


def on_device(tensor: Any) -> bool:
    return isinstance(tensor, DeviceTensor)


def host(value: Any) -> Any:
    """Return the CPU tensor of a device tensor, or the CPU in place of the device; return other values unchanged."""
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == DEVICE.type else value
    return value.host if isinstance(value, DeviceTensor) else value


def refused(func: Any, args: tuple[Any, ...], tensors: list[Tensor]) -> bool:
    """Return whether CUDA rejects these arguments because of their devices."""
    if func in COPIES or not any(map(on_device, tensors)):
        return False
    if func in INDEXED:  # indices may be on the CPU, or on the device if the tensor is on the device
        first, _, *values = args
        others = [value for value in values if isinstance(value, Tensor) and value.ndim]
        return any(on_device(value) != on_device(first) for value in others) or not on_device(first)
    return any(tensor.ndim and not on_device(tensor) for tensor in tensors)


def computed(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute an operator on the CPU, and mark its results as on the device where CUDA's would be."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if refused(func, args, tensors):
        places = ", ".join(f"{list(tensor.shape)} on {tensor.device}" for tensor in tensors)
        raise DifferentDevices(f"Expected all tensors to be on the same device, got {places} in {func}")
    place = kwargs.get("device")
    there = any(map(on_device, tensors)) if place is None else torch.device(place).type == DEVICE.type
    kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    for watch in BEFORE:
        watch(func, args, kwargs)
    shapes = [(host(tensor).shape, host(tensor).stride()) for tensor in tensors]
    made = aten.zeros.default if func is aten._efficientzerotensor.default else func  # used by forward-mode AD
    result = made(*tree_map(host, args), **{key: tree_map(host, value) for key, value in kwargs.items()})
    for watch in AFTER:
        watch(func, args, kwargs, result)
    same = {id(host(tensor)): tensor for tensor in tensors}  # in-place results keep their identity

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return same[id(value)] if id(value) in same else DeviceTensor(value) if there else value

    result = tree_map(placed, result)
    for tensor, shape in zip(tensors, shapes, strict=True):
        if isinstance(tensor, DeviceTensor) and (tensor.host.shape, tensor.host.stride()) != shape:  # in place
            tensor.data = tensor.host
    return result


_Generator = torch.Generator


class AnyGenerator(type(_Generator)):
    """Makes every generator an instance of the replacement for `torch.Generator`."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _Generator)


class Generator(_Generator, metaclass=AnyGenerator):
    """Replacement for `torch.Generator`; a generator of the device is a CPU generator that reports this device."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return _Generator.__new__(cls if torch.device(device).type == DEVICE.type else _Generator, "cpu")

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE


class GeneratorsFit(TorchFunctionMode):
    """Checks that random numbers are drawn by a generator of the same device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(generator := kwargs.get("generator"), _Generator):
            place = torch.device(kwargs.get("device") or "cpu")
            drawn = place.type == DEVICE.type or any(map(on_device, tree_leaves((args, kwargs))))
            if drawn != (type(generator) is Generator):
                raise DifferentDevices(f"Expected a generator of the tensor's device, got {generator.device} in {func}")
        return func(*args, **kwargs)


_KEPT: list[Any] = []  # a library object that is garbage-collected removes its operators


def register() -> None:
    """Register the device until the process ends; Trainers on the CPU with a single process then use this device."""
    global DEVICE
    _setup_privateuseone_for_python_backend("simulated", backend_module=Backend())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) creates a CPU tensor and copies it
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters stay the same objects, as with CUDA
    DEVICE = torch.device("simulated:0")
    rest, factories = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    rest.fallback(computed, "PrivateUse1")
    for name in MADE.split():
        packet, _, overload = name.partition(".")
        func = getattr(getattr(aten, packet), overload or "default")
        factories.impl(name, partial(computed, func), "PrivateUse1")
    began, ended = SingleDeviceStrategy.__init__, SingleDeviceStrategy.teardown

    def on_the_device(self: SingleDeviceStrategy, device: Any = "cpu", *args: Any, **kwargs: Any) -> None:
        began(self, DEVICE, *args, **kwargs)

    def given_back(self: SingleDeviceStrategy) -> None:
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()  # drops references to parameters, which would prevent swapping
            gc.collect()
        ended(self)

    _KEPT.extend((rest, factories, GeneratorsFit().__enter__()))
    SingleDeviceStrategy.__init__ = on_the_device  # type: ignore[method-assign]
    SingleDeviceStrategy.teardown = given_back  # type: ignore[method-assign]
    CPUAccelerator.parse_devices = staticmethod(lambda devices: int(os.environ.get("WORLD_SIZE", 1)))  # type: ignore[method-assign]
    CPUAccelerator.setup_device = lambda self, device: None  # type: ignore[method-assign]
    torch.Generator = Generator  # type: ignore[misc]
