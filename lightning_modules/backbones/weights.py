"""Weights from local files: safetensors, PyTorch state dicts, Lightning checkpoints; no code in them is run."""

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
INSIDE = ("state_dict", "model_state_dict", "model")  # where training scripts keep the network's weights
WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every key
MOST_LAYERS = 10_000


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


def check_safetensors(file: Path) -> None:
    """Compare the header of a file of safetensors with its content, without reading that.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else, naming the file.
    """
    check_is_file(file)
    try:
        with safe_open(file, framework="pt") as opened:
            opened.keys()
    except Exception as error:
        raise ValueError(f"{file} is not a readable file of weights: {sentence(error)}") from error


def check_folder(folder: Path) -> None:
    """Check what `save_pretrained` wrote before a library reads it: its config, and the headers of its weights.

    Raises:
        ValueError: names the file that is damaged, leads out of the folder, declares too many layers or loads another.
    """
    if (adapters := folder / "adapter_config.json").exists():
        raise ValueError(
            f"{adapters} makes the folder one of adapters, which name the network that is loaded; merge them"
        )
    if (config := folder / "config.json").exists():
        check_config(config, read_json_object(config))
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        shards = read_json_object(index, ["weight_map"])["weight_map"]
        named = shards.values() if isinstance(shards, dict) else [shards]
        if wrong := [name for name in named if not isinstance(name, str) or Path(name).name != name]:
            raise ValueError(f"{index}: weight_map must name files beside it, got {wrong[0]!r}")
        for name in sorted(set(named)):
            check_safetensors(folder / name)
    for file in sorted(folder.glob("*.safetensors")):
        check_safetensors(file)


def check_pretrained(name_or_path: str) -> None:
    """Check every configuration in JSON and the weights of a local folder; names on the Hub pass.

    Raises:
        ValueError: names the file that is damaged or hostile.
    """
    if (folder := Path(name_or_path).expanduser()).is_dir():
        check_pretrained_json(folder)
        check_folder(folder)


def new_network(network_class: Any, config: Any, source: str) -> Any:
    """Build a network with new weights from a config that a file holds.

    Raises:
        ValueError: names where the config is from, if its values make no network.
    """
    try:
        return network_class(config)
    except Exception as error:  # a config of other values raises almost anything
        raise ValueError(f"the config of {source} makes no {network_class.__name__}: {sentence(error)}") from error


def check_config(file: Path, config: dict[str, Any]) -> None:
    """Reject a config whose network would take for ever to build, or is made by code from elsewhere.

    Raises:
        ValueError: names file, key and value.
    """
    for key, value in config.items():
        if isinstance(value, dict):
            check_config(file, value)
        numbers = value if isinstance(value, list) else [value]
        if "layer" in key and any(isinstance(each, int) and each > MOST_LAYERS for each in numbers):
            raise ValueError(f"{file}: {key} must be at most {MOST_LAYERS}, got {value}")
        if key.endswith("attn_implementation") and isinstance(value, str) and "/" in value:
            raise ValueError(f"{file}: {key} must be a name that transformers knows, got {value!r}, which is code")


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
    content = read_tensors(file)
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
    imaginary = [key for key in own if key in weights and weights[key].is_complex() and not own[key].is_complex()]
    problems = [
        f"{what}: {listed(names)}"
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
    if (folder := Path(source, options.get("subfolder") or "")).is_dir():
        check_folder(folder)
    try:
        network, report = network_class.from_pretrained(
            source, output_loading_info=True, use_safetensors=True, **options
        )
    except OSError as error:
        raise FileNotFoundError(
            f"no weights of {network_class.__name__} for {source}: expected {file} beside config.json, as "
            f"save_pretrained writes it; or draw new ones with pretrained: false"
        ) from error
    except Exception as error:  # configs and weights that do not fit raise almost anything
        raise ValueError(f"the weights of {source} do not fit: {sentence(error)}") from error
    without = [key for key, value in network.state_dict().items() if value.is_meta]
    if missing := sorted(key for key in {*report["missing_keys"], *without} if key.startswith(needed)):
        raise ValueError(f"the weights of {source} lack: {listed(missing)}")
    if wrong := [str(key[0] if isinstance(key, tuple) else key) for key in report["mismatched_keys"]]:
        raise ValueError(f"the weights of {source} have another shape in: {listed(wrong)}")
    return network
