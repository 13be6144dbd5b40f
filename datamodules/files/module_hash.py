"""Hash a network, so that a cached result is only used for the network with which it was computed."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

PYTORCHS_OWN = vars(nn.Module())


def hash_of_module(module: nn.Module, attributes: bool = False) -> str:
    """Hash all parameters and buffers, including non-persistent ones, and the class and `extra_repr` of each submodule.

    If the results of a module depend on an argument that is not a tensor, its `extra_repr` must contain this argument.

    Args:
        module: any module. Its training mode, hooks and functions are ignored.
        attributes: whether to also hash attributes whose values are numbers, text, collections of these, or Hugging
            Face configurations. Set this argument for networks of other packages if their `extra_repr` does not show
            all settings.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, part in module.named_modules(remove_duplicate=False):
        said = re.sub(r" at 0x[0-9a-f]+", "", part.extra_repr())  # memory addresses differ between processes
        digest.update(f"{name} {type(part).__name__} {said}\n".encode())
        own = sorted(vars(part).items()) if attributes else []
        described = [(key, _describe(value)) for key, value in own if key not in PYTORCHS_OWN]
        digest.update(f"{type(part).__module__} {described}\n".encode() if attributes else b"")
    tensors = {
        **module.state_dict(),  # includes extra states
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    _add_tensors(digest, tensors)
    return digest.hexdigest()


def hash_of_tensors(tensors: Mapping[str, Any]) -> str:
    """Hash the names, dtypes, shapes and values of tensors. Values that are not tensors are ignored."""
    digest = hashlib.blake2b(digest_size=16)
    _add_tensors(digest, tensors)
    return digest.hexdigest()


def _add_tensors(digest: "hashlib.blake2b", tensors: Mapping[str, Any]) -> None:
    for name, tensor in sorted(tensors.items()):
        if hasattr(tensor, "__tensor_flatten__"):  # a subclass that wraps several tensors, such as codes and scales
            inner = tensor.__tensor_flatten__()[0]
            _add_tensors(digest, {f"{name}.{part}": getattr(tensor, part) for part in inner})
        elif isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _describe(value: Any) -> Any:
    """Describe the value of an attribute. The description is the same in every process.

    A function or class is described by its name, and any other object by the name of its class.
    """
    if hasattr(type(value), "to_dict"):
        value = value.to_dict()
    if isinstance(value, dict):
        return [(_describe(key), _describe(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [_describe(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(_describe(each)) for each in value)
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)
