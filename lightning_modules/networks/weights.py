"""Weights from local files: safetensors, PyTorch state dicts, Lightning checkpoints; no code in them is run."""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_modules.networks.normalized import Normalized

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
INSIDE = ("state_dict", "model_state_dict", "model")  # where training scripts keep the network's weights
WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every key


def listed(names: Iterable[str], at_most: int = 5) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def weights_file(path: str | Path) -> Path:
    """The one file of weights that a path means.

    Args:
        path: a file, or a folder that holds one file of weights (a safetensors file is preferred to others beside it).

    Raises:
        FileNotFoundError: if there is nothing at `path`, or no weights in the folder.
        ValueError: if the suffix is unknown, or the folder holds several files of weights.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        files = [file for file in files if file.suffix == ".safetensors"] or files
        if not files:
            raise FileNotFoundError(
                f"no weights in the folder {path}: expected one file ending in {', '.join(SUFFIXES)}"
            )
        if len(files) > 1:
            raise ValueError(f"{path} holds several files of weights, name one: {listed(file.name for file in files)}")
        return files[0]
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}: expected a file or a folder; copy it there or correct the path")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"weights must end in {', '.join(SUFFIXES)}, got {path}")
    return path


def read_weights(path: str | Path, prefix: str = "", renamed: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """A state dict from a local file, on the CPU.

    Args:
        path: a `.safetensors`, `.pt`, `.pth`, `.ckpt`, `.bin` or `.tar` file, or a folder with one such file. Weights
            are also found inside it, under `state_dict` as in Lightning's checkpoints, `model_state_dict` or `model`;
            `module.` and `_orig_mod.` before all keys are removed.
        prefix: keeps the keys that start with it, after that or as they stand in the file, and removes it from them.
        renamed: other beginnings for what is left of the keys.

    Raises:
        FileNotFoundError: if there are no weights at `path`.
        ValueError: if the file is damaged, holds anything but tensors, or no key starts with `prefix` or with a
            beginning in `renamed`.
    """
    file = weights_file(path)
    try:
        content = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{file} is not a readable file of weights (or holds more than tensors): {reason}") from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in INSIDE if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        found = listed(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"{file} holds no state dict (names and tensors, perhaps under {', '.join(INSIDE)}), but: {found}"
        )
    weights = dict(content)
    for wrapper in WRAPPERS * 2:  # in either order
        if weights and all(key.startswith(wrapper) for key in weights):
            weights = {key.removeprefix(wrapper): value for key, value in weights.items()}
    kept = below(weights, prefix) or below(content, prefix)
    if not kept:
        raise ValueError(f"prefix {prefix!r} begins no key of {file}, whose keys are: {listed(weights)}")
    for old, new in (renamed or {}).items():
        if not below(kept, old):
            raise ValueError(f"renamed: {old!r} begins no key of {file}, whose keys are: {listed(kept)}")
        kept = {new + key.removeprefix(old) if key.startswith(old) else key: value for key, value in kept.items()}
    return kept


def below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose keys start with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def with_weights(network: nn.Module, path: str, prefix: str = "", renamed: dict[str, str] | None = None) -> nn.Module:
    """A network with weights from a local file, all of them and nothing else.

    On the meta device, where parameters have no values, nothing is read.

    Args:
        network: any network; a `Normalized` one also takes the keys of the network inside it.
        path: a `.safetensors`, `.pt`, `.pth`, `.ckpt`, `.bin` or `.tar` file, or a folder with one such file.
        prefix: keeps the keys that start with it, and removes it from them: `network.` for the network of a Lightning
            module.
        renamed: other beginnings for what is left of the keys: `{fc.: linear.}` for the classifier of a ResNet whose
            last layer has another name.

    Raises:
        FileNotFoundError: if there are no weights at `path`.
        ValueError: if the file is damaged, or names are missing, unexpected, of another shape or not there to rename.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        return network
    weights = read_weights(path, prefix, renamed)
    if isinstance(network, Normalized) and not any(key.startswith("network.") for key in weights):
        load(network.network, weights, path)
    else:
        load(network, weights, path)
    return network


def load(network: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Copies weights into a network.

    Raises:
        ValueError: names what is missing, unexpected or of another shape.
    """
    own = network.state_dict()
    # Old files lack batch normalisation's counters, which no output depends on; PyTorch fills them in.
    missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in weights if key not in own]
    reshaped = [
        f"{key} {list(weights[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    problems = [
        f"{what}: {listed(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", reshaped))
        if names
    ]
    if problems:
        raise ValueError(f"{path} does not fit {type(network).__name__}: {'; '.join(problems)}")
    network.load_state_dict(weights)


def from_pretrained(network_class: Any, source: str, file: str, needed: str = "", **options: Any) -> Any:
    """Load a network of diffusers or transformers with all of its weights.

    Args:
        network_class: the network's class, of one of the two.
        source: a folder that `save_pretrained` wrote, or a name on the Hugging Face Hub.
        file: the weights that are expected there.
        needed: what the names of those weights begin with that must be there; others may be drawn anew.
        options: what else the class's own `from_pretrained` is given.

    Raises:
        FileNotFoundError: if there are no weights.
        ValueError: if some are missing or of another shape.
    """
    try:
        network, report = network_class.from_pretrained(source, output_loading_info=True, **options)
    except OSError as error:
        raise FileNotFoundError(
            f"no weights of {network_class.__name__} for {source}: expected {file} beside config.json, as "
            f"save_pretrained writes it; or draw new ones with pretrained: false"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the weights of {source} do not fit: {' '.join(str(error).split())}") from error
    if missing := sorted(key for key in report["missing_keys"] if key.startswith(needed)):
        raise ValueError(f"the weights of {source} lack: {listed(missing)}")
    return network
