"""Build vision networks from transformers by name, such as CLIP, SigLIP and ViT."""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from datamodules.files.limits import sentence
from datamodules.files.text_files import read_json_object
from lightning_modules.backbones.adaptation import Precision, adapt
from lightning_modules.backbones.diffusion.pipelines import need_transformers, quiet_transformers
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.backbones.weights import check_pretrained, folder_or_name, from_pretrained, new_network

Features = Literal["pooled", "first_token", "mean_token", "projected"]


class TransformersBackbone(nn.Module):
    """Wrap a transformers vision network so that it returns features, or logits of a linear classifier on features.

    Args:
        network: vision network from transformers, whose argument `pixel_values` receives normalised images, `[B, C, H,
            W]`.
        features: which output of the network is used; see `transformers_model`.
        num_classes: number of outputs of the linear classifier; with 0, there is no classifier.
    """

    def __init__(self, network: nn.Module, features: Features, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.features = features
        config: Any = network.config
        width = config.projection_dim if features == "projected" else _width(config)
        self.num_features: int = width
        self.classifier = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def extra_repr(self) -> str:
        return f"features={self.features}"

    def forward(self, image: Tensor) -> Tensor:
        output = self.network(pixel_values=image)
        if self.features == "projected":
            features = output.image_embeds
        elif self.features == "pooled":
            features = output.pooler_output.flatten(1)
        else:
            tokens = output.last_hidden_state
            if tokens.ndim == 4:  # feature maps of a convolutional network
                tokens = tokens.flatten(2).transpose(1, 2)
            features = tokens[:, 0] if self.features == "first_token" else tokens.mean(dim=1)
        return self.classifier(features)


def _width(config: Any) -> int:
    """Return the number of features of the last layer, as stated in a network's config.

    The config of a convolutional network lists one number for each stage; the last one is returned.
    """
    sizes = getattr(config, "hidden_sizes", None)
    return sizes[-1] if sizes and not hasattr(config, "num_attention_heads") else config.hidden_size


def transformers_model(
    name_or_path: str,
    num_classes: int = 0,
    features: Features = "pooled",
    pretrained: bool = True,
    normalize: bool = True,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    tuning: Literal["full", "lora", "frozen", "linear_probe"] = "full",
    dtype: Precision | None = None,
    **adaptation: Any,
) -> nn.Module:
    """Build a vision network from transformers, which computes features or logits of images `[B, C, H, W]` in [0, 1].

    If a model also has a text tower, like CLIP, only its vision tower is built. On the meta device, where parameters
    have no values, no weights are read or downloaded.

    Args:
        name_or_path: local folder written by `save_pretrained`, or name of a model on the Hugging Face Hub.
        num_classes: number of logits, K, of a new linear classifier; with 0, the network returns the features.
        features: which features are used. `pooled` is the network's own pooled output, `first_token` is the first
            token, `mean_token` is the mean over all tokens or pixels of the last layer, and `projected` is CLIP's
            projection of images to the joint embedding space of images and texts.
        pretrained: load the weights; if false, build the config's architecture with random weights.
        normalize: normalise images inside the network, so that inputs are images in [0, 1]. If false, inputs must
            already be normalised.
        mean: mean of each channel, in pixel units; None reads the values from `preprocessor_config.json` next to the
            config.
        std: standard deviation of each channel, in pixel units; None reads it from `preprocessor_config.json` next to
            the config.
        tuning: full trains all parameters, lora trains adapters and the classifier, linear_probe trains only the
            classifier, and frozen trains nothing.
        dtype: precision of weights and internal computation; inputs and outputs are always float32. None means float32.
        adaptation: further arguments of `adapt`, for adapters, gradient checkpointing and compilation.

    Raises:
        FileNotFoundError: if the config or the weights are neither on disk nor on the Hub.
        ValueError: if the config does not define a vision network, or if weights or arguments do not match the config.
        ImportError: if transformers is not installed, or if `tuning` is lora and peft is not installed.
    """
    need_transformers("transformers_model")
    import transformers

    if features not in get_args(Features):
        raise ValueError(f"features must be one of {', '.join(get_args(Features))}, got {features!r}")
    if tuning == "linear_probe" and num_classes == 0:
        raise ValueError("tuning linear_probe trains the classifier, but num_classes=0 leaves no classifier")
    source, local = folder_or_name(name_or_path)
    check_pretrained(source)
    try:
        config: Any = transformers.AutoConfig.from_pretrained(source, local_files_only=local, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"no transformers network at {name_or_path}: expected a folder with config.json, as save_pretrained "
            f"writes it, or a name on the Hugging Face Hub"
        ) from error
    except Exception as error:  # transformers raises many types of errors for invalid values
        raise ValueError(f"config.json of {source} is not a config of transformers: {sentence(error)}") from error
    config = getattr(config, "vision_config", config)
    network_class = _vision_class(transformers, config, features)
    if pretrained and torch.get_default_device().type != "meta":
        network = _with_weights(network_class, source, local, config, dtype)
    else:
        network = new_network(network_class, config, source)
    model: nn.Module = TransformersBackbone(network.train(), features, num_classes)
    if normalize:
        statistics = _statistics(source, local) if mean is None or std is None else {}
        for key, value in (("image_mean", mean), ("image_std", std)):
            if value is None and key not in statistics:
                short = key.removeprefix("image_")
                raise ValueError(
                    f"{short} must be given: there is no {key} in preprocessor_config.json of {name_or_path}"
                )
        for key in ("image_mean", "image_std"):
            if not _are_numbers(statistics.get(key, [0.5])):
                raise ValueError(f"preprocessor_config.json of {name_or_path}: {key} must be numbers, one per channel")
        model = Normalized(model, mean or statistics["image_mean"], std or statistics["image_std"])
    return adapt(
        model,
        tuning="frozen" if tuning == "linear_probe" else tuning,
        trainable=["classifier"] if tuning in ("lora", "linear_probe") and num_classes else None,
        dtype=dtype,
        **adaptation,
    )


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(type(value) in (int, float) for value in values)


def _vision_class(transformers: Any, config: Any, features: Features) -> Any:
    mapping = transformers.models.auto.modeling_auto.MODEL_MAPPING
    found = mapping.get(type(config), None)
    found = found[0] if isinstance(found, tuple | list) else found
    if found is None or getattr(found, "main_input_name", None) != "pixel_values":
        raise ValueError(f"name_or_path: {config.model_type} is not a vision network of transformers")
    if features == "projected":
        projecting = getattr(transformers, f"{found.__name__}WithProjection", None)
        if projecting is None:
            raise ValueError(
                f"features: projected requires a network like CLIP, but {config.model_type} has no projection"
            )
        return projecting
    return found


def _with_weights(network_class: Any, source: str, local: bool, config: Any, dtype: Precision | None) -> Any:
    precision = torch.float32 if dtype is None else getattr(torch, dtype)
    options = {"config": config, "local_files_only": local, "dtype": precision}
    with quiet_transformers():  # transformers reports each weight of the text tower as unexpected
        return from_pretrained(network_class, source, "model.safetensors", **options)


def _statistics(source: str, local: bool) -> dict[str, Any]:
    if local:
        path = Path(source, "preprocessor_config.json")
        return read_json_object(path) if path.is_file() else {}
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(source, trust_remote_code=False).to_dict()
    except (OSError, ValueError):
        return {}
