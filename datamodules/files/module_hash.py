"""Hash a network, so that the cached results of one network are not used for another network."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

PYTORCHS_OWN = vars(nn.Module())


def hash_of_module(module: nn.Module, attributes: bool = False) -> str:
    """Hash all parameters and buffers, saved or not, and the class and the `extra_repr` of each submodule.

    A module whose results depend on an argument outside its tensors must include it in `extra_repr`.

    Args:
        module: any module. Its mode, hooks and functions are ignored.
        attributes: whether to hash attributes too, if they are numbers, text, collections of both or Hugging Face
            configurations. Networks of other packages need this if their `extra_repr` is incomplete.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, part in module.named_modules(remove_duplicate=False):
        said = re.sub(r" at 0x[0-9a-f]+", "", part.extra_repr())  # addresses differ between processes
        digest.update(f"{name} {type(part).__name__} {said}\n".encode())
        own = sorted(vars(part).items()) if attributes else []
        described = [(key, _described(value)) for key, value in own if key not in PYTORCHS_OWN]
        digest.update(f"{type(part).__module__} {described}\n".encode() if attributes else b"")
    tensors = {
        **module.state_dict(),  # includes extra states
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    _add_tensors(digest, tensors)
    return digest.hexdigest()


def hash_of_tensors(tensors: Mapping[str, Any]) -> str:
    """Hash the names, dtypes, shapes and values of tensors; other values are ignored."""
    digest = hashlib.blake2b(digest_size=16)
    _add_tensors(digest, tensors)
    return digest.hexdigest()


def _add_tensors(digest: "hashlib.blake2b", tensors: Mapping[str, Any]) -> None:
    for name, tensor in sorted(tensors.items()):
        if hasattr(tensor, "__tensor_flatten__"):  # a tensor of several tensors, such as codes and scales
            inner = tensor.__tensor_flatten__()[0]
            _add_tensors(digest, {f"{name}.{part}": getattr(tensor, part) for part in inner})
        elif isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _described(value: Any) -> Any:
    """Return a text for an attribute that is the same in every process.

    For an object, it is the name or the class.
    """
    if hasattr(type(value), "to_dict"):
        value = value.to_dict()
    if isinstance(value, dict):
        return [(_described(key), _described(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [_described(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(_described(each)) for each in value)
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)
