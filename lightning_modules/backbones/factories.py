"""Build networks from timm and diffusers by name. All arguments are explicit, so that configs can be checked."""

import difflib
import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datamodules.files.text_files import read_json_object
from lightning_modules.backbones.adaptation import Precision, Tuning, adapt
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.backbones.weights import (
    check_config,
    from_pretrained,
    join_names,
    loaded_from,
    new_network,
    read_weights,
    sentence,
)


def timm_model(
    name: str,
    num_classes: int,
    pretrained: bool = False,
    weights: str | None = None,
    in_channels: int = 3,
    image_size: int | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    normalize: bool = True,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    tuning: Literal["full", "lora", "frozen", "linear_probe"] = "full",
    **adaptation: Any,
) -> nn.Module:
    """Build a timm classification network, which maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`.

    On the meta device, where parameters have no values, no weights are read or downloaded.

    Args:
        name: name in `timm.list_models()`, optionally followed by the tag of pretrained weights (`resnet18.a1_in1k`).
        num_classes: number of logits, K; with 0, the network returns pooled features instead.
        pretrained: load timm's weights for this name from the Hugging Face Hub or from its local cache.
        weights: local file or folder with weights. If the number of outputs of its classifier differs from
            `num_classes`, the network's classifier is newly initialised.
        in_channels: number of image channels, C; timm adapts pretrained weights to this number.
        image_size: height and width of images, for networks with a fixed image size; None uses the network's default
            size.
        drop_rate: dropout probability, usually before the classifier; None uses the network's default.
        drop_path_rate: maximum probability of dropping a residual branch; None uses the network's default.
        normalize: normalise images inside the network, so that inputs are images in [0, 1]. If false, inputs must
            already be normalised.
        mean: mean of each channel, in pixel units; None uses the value that timm defines for its weights.
        std: standard deviation of each channel, in pixel units; None uses the value that timm defines for its weights.
        tuning: full trains all parameters, lora trains adapters and the classifier, linear_probe trains only the
            classifier, and frozen trains nothing.
        adaptation: further arguments of `adapt`, for adapters, gradient checkpointing, precision and compilation.

    Raises:
        ValueError: if an argument is unknown, or is incompatible with the network, with the weights or with a different
            argument; the message names the argument.
        FileNotFoundError: if there are no weights at the path `weights`, or if pretrained weights cannot be downloaded.
        ImportError: if `tuning` is lora and peft is not installed.
    """
    import timm

    _check_timm_name(name)
    if pretrained and weights is not None:
        raise ValueError(f"pretrained cannot be combined with weights={weights}: give one of the two")
    if pretrained and not timm.models.is_model_pretrained(name):
        raise ValueError(f"pretrained: timm has no weights for {name}")
    if tuning == "linear_probe" and num_classes == 0:
        raise ValueError("tuning linear_probe trains the classifier, but num_classes=0 leaves no classifier")
    if normalize and in_channels != 3 and (mean is None or std is None):
        raise ValueError(
            f"mean and std must be given, with one value per channel, because in_channels is {in_channels}, not 3"
        )
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels}
    optional = {"img_size": image_size, "drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    options |= {key: value for key, value in optional.items() if value is not None}
    on_meta = torch.get_default_device().type == "meta"
    try:
        if weights is None or on_meta:
            model = _timm_model_by_name(name, pretrained and not on_meta, options)
        else:
            model = _timm_model_from_file(name, weights, options)
    except TypeError as error:
        keys = {"img_size": "image_size", "drop_rate": "drop_rate", "drop_path_rate": "drop_path_rate"}
        refused = [key for option, key in keys.items() if f"'{option}'" in str(error)]
        if not refused:
            raise
        raise ValueError(f"{refused[0]}: {name} has no such option; leave it out") from error
    heads = _names(model.pretrained_cfg.get("classifier")) if num_classes else []
    return adapt(
        Normalized(model, mean, std) if normalize else model,
        tuning="frozen" if tuning == "linear_probe" else tuning,
        trainable=heads if tuning in ("lora", "linear_probe") else None,
        **adaptation,
    )


def _check_timm_name(name: str) -> None:
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        hint = f"the closest are {', '.join(close)}" if close else "timm.list_models() lists them"
        raise ValueError(f"name: timm has no model {name!r}; {hint}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        known = join_names(tagged, at_most=10) if tagged else "none"
        raise ValueError(f"name: {tag!r} is not a tag of {architecture}'s pretrained weights; timm has: {known}")


def _timm_model_by_name(name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    import timm

    try:
        network = timm.create_model(name, pretrained=pretrained, **options)
        return loaded_from(name, network) if pretrained else network
    except OSError as error:
        raise FileNotFoundError(
            f"pretrained: the weights of {name} are not in the Hugging Face cache and could not be downloaded; "
            f"download them where there is a network, and give the file as weights"
        ) from error


def _timm_model_from_file(name: str, path: str, options: dict[str, Any]) -> Any:
    """Load a file into a network with as many classes as the file, and then replace the classifier if necessary."""
    import timm

    state: dict[str, Tensor] = read_weights(path)
    config = timm.get_pretrained_cfg(name)
    heads = _names(config.classifier if config else None)
    classes = next((len(state[f"{head}.weight"]) for head in heads if f"{head}.weight" in state), 0)
    overlay = {"state_dict": state, "num_classes": classes, "label_offset": 0}
    try:
        model: Any = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **(options | {"num_classes": classes})
        )
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise
        raise ValueError(f"weights: {path} does not fit {name}: {sentence(error)}") from error
    except Exception as error:  # timm's weight converters raise many types of errors for wrong shapes
        raise ValueError(f"weights: {path} does not fit {name}: {sentence(error)}") from error
    model.pretrained_cfg.pop("state_dict")
    if classes != options["num_classes"]:
        model.reset_classifier(options["num_classes"])
    return loaded_from(path, model)


def _names(value: str | tuple[str, ...] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def diffusers_model(
    name_or_path: str,
    subfolder: str | None = None,
    pretrained: bool = True,
    tuning: Tuning = "full",
    dtype: Precision | None = None,
    **adaptation: Any,
) -> nn.Module:
    """Build a network from diffusers: a U-Net, a transformer or an autoencoder.

    On the meta device, where parameters have no values, no weights are read or downloaded.

    Args:
        name_or_path: local folder written by `save_pretrained`, name of a model on the Hugging Face Hub
            (`google/ddpm-cifar10-32`), or local `config.json`, which requires `pretrained: false`.
        subfolder: folder of the network in a pipeline, such as unet, transformer or vae.
        pretrained: load the weights; if false, build the config's architecture with random weights.
        tuning: `full` trains all parameters, `lora` trains only adapters, and `frozen` trains nothing.
        dtype: precision of weights and internal computation; inputs and outputs are always float32. None means float32.
        adaptation: further arguments of `adapt`, for adapters, gradient checkpointing and compilation.

    Raises:
        FileNotFoundError: if the config or the weights are neither on disk nor on the Hub.
        NotADirectoryError: if `name_or_path` is a file that is not a config.
        ValueError: if the class in the config is not from diffusers, if the weights do not match the network, or if an
            argument is unknown.
        ImportError: if `tuning` is lora and peft is not installed.
    """
    import diffusers

    config_file = _config_file(name_or_path, subfolder)
    config = read_json_object(config_file)
    check_config(config_file, config)
    class_name = config.get("_class_name")
    network_class = getattr(diffusers, class_name, None) if isinstance(class_name, str) else None
    if not (isinstance(network_class, type) and issubclass(network_class, diffusers.ModelMixin)):
        raise ValueError(
            f"_class_name in {config_file} must be a diffusers network, such as UNet2DModel, got {class_name!r}"
        )
    if pretrained and Path(name_or_path).expanduser().is_file():
        raise ValueError(
            f"pretrained: {name_or_path} is a config without weights; give its folder, or pretrained: false"
        )
    if pretrained and torch.get_default_device().type != "meta":
        local = Path(name_or_path).expanduser().is_dir()
        network = from_pretrained(
            network_class,
            str(config_file.parent) if local else name_or_path,
            "diffusion_pytorch_model.safetensors",
            subfolder=None if local else subfolder,
            local_files_only=local,
            torch_dtype=None if dtype is None else getattr(torch, dtype),
        )
    else:
        network = new_network(network_class.from_config, config, str(config_file))
    network.train()
    return adapt(
        network,
        tuning=tuning,
        dtype=dtype,
        **adaptation,
    )


def _config_file(name_or_path: str, subfolder: str | None) -> Path:
    path = Path(name_or_path).expanduser()
    if path.is_file():
        if path.suffix != ".json":
            raise NotADirectoryError(f"{path} is a file; give the folder with config.json that save_pretrained writes")
        return path
    if path.is_dir():
        config_file = path / (subfolder or "") / "config.json"
        if config_file.is_file():
            return config_file
        folders = [folder.parent.name for folder in sorted(path.glob("*/config.json"))]
        hint = f"; subfolder could be {join_names(folders)}" if folders else ", as save_pretrained writes it"
        raise FileNotFoundError(f"no diffusers network in {path}: expected {config_file}{hint}")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name_or_path) or path.suffix == ".json":
        raise FileNotFoundError(
            f"no diffusers network at {path}: expected a folder with config.json; copy it there or correct the path"
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name_or_path, "config.json", subfolder=subfolder))
    except OSError as error:
        where = f"{name_or_path}/{subfolder}" if subfolder else name_or_path
        raise FileNotFoundError(
            f"no diffusers network {where}: there is no such folder in {Path.cwd()}, and config.json is neither in the "
            f"Hugging Face cache nor could it be downloaded; run `hf download {name_or_path}` where there is a "
            f"network, and give the folder"
        ) from error
