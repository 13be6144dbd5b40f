"""Load weights from local safetensors files, state dicts and Lightning checkpoints; code in the files is not run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from datamodules.files.limits import check_is_file, sentence
from datamodules.files.tensor_files import read_tensors
from datamodules.files.text_files import check_pretrained_json, read_json_object
from lightning_modules.backbones.normalized import Normalized

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
INSIDE = ("state_dict", "model_state_dict", "model")  # keys under which training scripts save the weights
WRAPPERS = ("module.", "_orig_mod.")  # prefixes added by DistributedDataParallel and torch.compile
MOST_LAYERS = 10_000
MOST_PIXELS = 8192


def join_names(names: Iterable[str], at_most: int = 5) -> str:
    """Join the first `at_most` names in a text, and append the number of omitted names."""
    names = list(names)
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def weights_file(path: str | Path) -> Path:
    """Return the weight file at a path, which may be the file itself or its folder.

    Args:
        path: weight file, or folder that contains one weight file. In a folder, a safetensors file takes precedence
            over other weight files.
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
            raise ValueError(
                f"{path} contains several files of weights, name one: {join_names(file.name for file in files)}"
            )
        return files[0]
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}: expected a file or a folder; copy it there or correct the path")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"weights must end in {', '.join(SUFFIXES)}, got {path}")
    return path


def check_safetensors(file: Path) -> None:
    """Check that the header of a safetensors file is consistent with the file's size, without reading tensors."""
    check_is_file(file)
    try:
        with safe_open(file, framework="pt") as opened:
            opened.keys()
    except Exception as error:
        raise ValueError(f"{file} is not a readable file of weights: {sentence(error)}") from error


def check_folder(folder: Path) -> None:
    """Check a folder written by `save_pretrained`, before a library reads its config and its weight files."""
    if (adapters := folder / "adapter_config.json").exists():
        raise ValueError(f"{adapters} shows that the folder contains adapters; merge them into the base network first")
    if (config := folder / "config.json").exists():
        check_config(config, read_json_object(config))
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        shards = read_json_object(index, ["weight_map"])["weight_map"]
        named = shards.values() if isinstance(shards, dict) else [shards]
        if wrong := [name for name in named if not isinstance(name, str) or Path(name).name != name]:
            raise ValueError(f"{index}: weight_map must name files next to it, got {wrong[0]!r}")
        for name in sorted(set(named)):
            check_safetensors(folder / name)
    for file in sorted(folder.glob("*.safetensors")):
        check_safetensors(file)


def check_pretrained(name_or_path: str) -> None:
    """Check all JSON configs and weight files of a local folder; names on the Hugging Face Hub are not checked."""
    if (folder := Path(name_or_path).expanduser()).is_dir():
        check_pretrained_json(folder)
        check_folder(folder)


def new_network(network_class: Any, config: Any, source: str) -> Any:
    """Build a network from its config, with newly initialised weights."""
    try:
        return network_class(config)
    except Exception as error:  # the libraries raise many types of errors for invalid values
        raise ValueError(f"the config of {source} defines no {network_class.__name__}: {sentence(error)}") from error


def check_config(file: Path, config: dict[str, Any]) -> None:
    """Reject a config whose network would take very long to build, or would run code that is not from the libraries."""
    for key, value in config.items():
        if isinstance(value, dict):
            check_config(file, value)
        numbers = value if isinstance(value, list) else [value]
        if "layer" in key and any(isinstance(each, int) and each > MOST_LAYERS for each in numbers):
            raise ValueError(f"{file}: {key} must be at most {MOST_LAYERS}, got {value}")
        known = [each for each in numbers if each is not None]
        if key == "sample_size" and any(type(each) is not int or not 0 < each <= MOST_PIXELS for each in known):
            raise ValueError(f"{file}: {key} must be a whole number in 1 ... {MOST_PIXELS}, got {str(value)[:40]!r}")
        if key.endswith("attn_implementation") and isinstance(value, str) and "/" in value:
            raise ValueError(
                f"{file}: {key} must be a name that transformers knows, not a reference to code, got {value!r}"
            )


def read_weights(path: str | Path, prefix: str = "", renamed: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Read a state dict from a local file, on the CPU.

    Args:
        path: a `.safetensors`, `.pt`, `.pth`, `.ckpt`, `.bin` or `.tar` file, or a folder with one such file. In the
            file, the weights may be nested under the key `state_dict` (as in Lightning), `model_state_dict` or `model`.
            If all keys start with `module.` or `_orig_mod.`, this prefix is removed.
        prefix: keep only keys that start with this prefix, and remove the prefix from them. A leading `module.` or
            `_orig_mod.`, which is removed from the keys, may be included in the prefix or left out.
        renamed: dictionary that maps old prefixes of the remaining keys to new prefixes.

    Raises:
        FileNotFoundError: if there are no weights at `path`.
        ValueError: if the file is damaged or contains objects other than tensors, if no key starts with `prefix`, or if
            `renamed` contains an old prefix with which no key starts.
    """
    file = weights_file(path)
    return weights_in(read_tensors(file), file, prefix, renamed)


def weights_in(
    content: Any, file: Path, prefix: str = "", renamed: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """Extract the state dict from the content of a file; see `read_weights`."""
    if isinstance(content, Mapping):
        content = next((content[key] for key in INSIDE if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        found = join_names(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"{file} must contain a state dict (names and tensors, possibly under one of the keys "
            f"{', '.join(INSIDE)}), got: {found}"
        )
    weights = dict(content)
    for wrapper in WRAPPERS * 2:  # in any order
        if weights and all(key.startswith(wrapper) for key in weights):
            weights = {key.removeprefix(wrapper): value for key, value in weights.items()}
    kept = below(weights, prefix) or below(content, prefix)
    if not kept:
        raise ValueError(f"no key of {file} starts with prefix {prefix!r}; its keys are: {join_names(weights)}")
    for old, new in (renamed or {}).items():
        if not below(kept, old):
            raise ValueError(f"renamed: no key of {file} starts with {old!r}; its keys are: {join_names(kept)}")
        kept = {new + key.removeprefix(old) if key.startswith(old) else key: value for key, value in kept.items()}
    return kept


def below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select the weights whose keys start with `prefix`, and remove this prefix from the keys."""
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def renamed_key(key: str, names: Mapping[str, str]) -> str:
    """Replace the layer name at the start of a key with the new name that `names` defines; the first match is used."""
    found = next((old for old in names if key == old or key.startswith(f"{old}.")), None)
    return key if found is None else names[found] + key.removeprefix(found)


def on_meta(network: nn.Module) -> bool:
    """Return whether a network is on the meta device, where parameters have no values and weights are not loaded."""
    return any(parameter.is_meta for parameter in network.parameters())


def with_weights(network: nn.Module, path: str, prefix: str = "", renamed: dict[str, str] | None = None) -> nn.Module:
    """Load a network's weights from a local file; its keys must be exactly those of the network.

    If the network is on the meta device, where parameters have no values, nothing is read.

    Args:
        network: any network; for a `Normalized` network, the file may also have the keys of the wrapped network.
        path: a `.safetensors`, `.pt`, `.pth`, `.ckpt`, `.bin` or `.tar` file, or a folder with one such file.
        prefix: keep only keys that start with this prefix, and remove the prefix. For example, `network.` selects the
            network in a checkpoint of a LightningModule.
        renamed: dictionary that maps old prefixes of the remaining keys to new prefixes. For example, `{fc.: linear.}`
            loads a ResNet's `fc` into a layer named `linear`.

    Raises:
        FileNotFoundError: if there are no weights at `path`.
        ValueError: if the file is damaged, if keys or shapes differ from those of the network, or if `renamed` contains
            an old prefix with which no key starts.
    """
    if on_meta(network):
        return network
    weights = read_weights(path, prefix, renamed)
    if isinstance(network, Normalized) and not any(key.startswith("network.") for key in weights):
        load(network.network, weights, path)
    else:
        load(network, weights, path)
    return network


def load(network: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy weights into a network."""
    own = network.state_dict()
    # Old files do not contain the counters of batch normalisation. PyTorch adds these counters, which do not affect
    # outputs.
    missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in weights if key not in own]
    reshaped = [
        f"{key} {list(weights[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    imaginary = [key for key in own if key in weights and weights[key].is_complex() and not own[key].is_complex()]
    problems = [
        f"{what}: {join_names(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("wrong shape", reshaped),
            ("complex", imaginary),
        )
        if names
    ]
    if problems:
        raise ValueError(f"{path} does not fit {type(network).__name__}: {'; '.join(problems)}")
    network.load_state_dict(weights)
    loaded_from(path, network)


def loaded_from(path: str | Path, network: Any) -> Any:
    """Record that a network was built with weights of a file, a folder or a name, and return the network.

    The network then is `Pretrained`, so that it may be tested without a checkpoint.
    """
    network.weights_from = str(path)
    return network


def folder_or_name(name_or_path: str) -> tuple[str, bool]:
    """Return a local folder's path and True, or else the name on the Hugging Face Hub and False."""
    folder = Path(name_or_path).expanduser()
    return (str(folder), True) if folder.is_dir() else (name_or_path, False)


def cached_folder(name_or_path: str, local_files_only: bool) -> str:
    """Return the folder of a model in the Hugging Face cache if only local files may be used, else the given name.

    Given a name, transformers asks the Hub for further files even if `local_files_only` is true.
    """
    if not local_files_only or Path(name_or_path).is_dir():
        return name_or_path
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name_or_path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name_or_path} is not in the Hugging Face cache, the only place that local_files_only allows; run "
            f"`hf download {name_or_path}` with network access"
        ) from error


def from_pretrained(network_class: Any, source: str, file: str, needed: str = "", **options: Any) -> Any:
    """Load a diffusers or transformers network with its weights, and reject incomplete weights.

    Args:
        network_class: the network's class, from diffusers or transformers.
        source: folder written by `save_pretrained`, or name on the Hugging Face Hub.
        file: expected name of the weight file.
        needed: prefix of the weights that must be in the file, by default of all weights. Other weights may be missing;
            they are then newly initialised.
        options: keyword arguments of `network_class.from_pretrained`.
    """
    if (folder := Path(source, options.get("subfolder") or "")).is_dir():
        check_folder(folder)
    try:
        network, report = network_class.from_pretrained(
            source, output_loading_info=True, use_safetensors=True, **options
        )
    except OSError as error:
        raise FileNotFoundError(
            f"no weights of {network_class.__name__} for {source}: expected {file} next to config.json, as "
            f"save_pretrained writes it; or initialise new ones with pretrained: false"
        ) from error
    except Exception as error:  # the libraries raise many types of errors for unsuitable files
        raise ValueError(f"the weights of {source} do not fit: {sentence(error)}") from error
    without = [key for key, value in network.state_dict().items() if value.is_meta]
    if missing := sorted(key for key in {*report["missing_keys"], *without} if key.startswith(needed)):
        raise ValueError(f"the weights of {source} lack: {join_names(missing)}")
    if wrong := [str(key[0] if isinstance(key, tuple) else key) for key in report["mismatched_keys"]]:
        raise ValueError(f"the weights of {source} have a different shape in: {join_names(wrong)}")
    return loaded_from(source, network)
