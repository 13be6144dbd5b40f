"""Hash a network, to avoid using one network's cached results for another network."""

import hashlib
import re
from typing import Any

import torch
from torch import Tensor, nn

PYTORCHS_OWN = vars(nn.Module())


def hash_of_module(module: nn.Module, attributes: bool = False) -> str:
    """Hash all parameters and buffers, saved or not, and each submodule's class and `extra_repr`.

    A module whose results depend on an argument outside its tensors must include it in `extra_repr`.

    Args:
        module: any module; its mode, hooks and functions are ignored.
        attributes: also hash attributes that are numbers, text, collections of both or Hugging Face configurations. Set
            this for networks of other packages whose `extra_repr` is incomplete.
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
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _described(value: Any) -> Any:
    """Return a text for an attribute that is the same in every process; for an object, only its name or class."""
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
