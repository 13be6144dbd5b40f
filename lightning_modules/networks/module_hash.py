"""A hash by which results that were computed with one network are not continued with another."""

import hashlib
import re

import torch
from torch import Tensor, nn


def hash_of_module(module: nn.Module) -> str:
    """Hash all parameters and buffers, saved or not, and each submodule's kind and `extra_repr`.

    A module whose results depend on an argument that is in none of its tensors has to name it in `extra_repr`.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, part in module.named_modules(remove_duplicate=False):
        said = re.sub(r" at 0x[0-9a-f]+", "", part.extra_repr())  # addresses, which every process has others of
        digest.update(f"{name} {type(part).__name__} {said}\n".encode())
    tensors = {
        **module.state_dict(),  # has extra states
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
