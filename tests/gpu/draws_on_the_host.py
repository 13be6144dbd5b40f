"""Random numbers drawn on the host for the device, so that a run there uses the same numbers as a run on the CPU."""

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

HOST_KEYS = ("CPU", "CompositeExplicitAutograd", "CompositeImplicitAutograd")
has_kernel: Any = torch._C._dispatch_has_kernel_for_dispatch_key


class DrawsOnTheHost(TorchDispatchMode):
    """Runs every operator that draws random numbers on the CPU, with a CPU generator of the same seed.

    Args:
        device: type of the device whose draws are replaced, `cuda`.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.twins: WeakKeyDictionary[torch.Generator, tuple[int, torch.Generator]] = WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        place = kwargs.get("device")
        places = [tensor.device for tensor in tensors] + ([torch.device(place)] if place is not None else [])
        there = next((one for one in places if one.type == self.device), None)
        if there is None or not any(map(partial(has_kernel, func.name()), HOST_KEYS)):
            return func(*args, **kwargs)  # for example, fused attention, which exists only on the device
        hosts = {id(tensor): tensor.cpu() for tensor in tensors}

        def host(value: Any) -> Any:
            if isinstance(value, Tensor):
                return hosts[id(value)]
            if isinstance(value, torch.Generator):
                return self.twin(value)
            return torch.device("cpu") if isinstance(value, torch.device) else value

        kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
        result = func(*tree_map(host, args), **{key: tree_map(host, value) for key, value in kwargs.items()})
        changed = {id(hosts[id(tensor)]): tensor for tensor in tensors}

        def back(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if id(value) in changed:  # drawn in place
                own = changed[id(value)]
                return own if own is value else own.copy_(value)
            return value.to(there)

        return tree_map(back, result)

    def twin(self, generator: torch.Generator) -> torch.Generator:
        """Return the CPU generator that replaces a device generator; it is created anew after each reseeding."""
        if generator.device.type == "cpu":
            return generator
        seed = generator.initial_seed()
        known = self.twins.get(generator)
        if known is None or known[0] != seed or generator.get_offset() == 0:  # type: ignore[attr-defined]
            known = self.twins[generator] = seed, torch.Generator().manual_seed(seed)
        generator.set_offset(generator.get_offset() + 4)  # type: ignore[attr-defined]  # marks that numbers were drawn
        return known[1]
