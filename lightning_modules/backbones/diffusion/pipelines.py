"""Load whole diffusers pipelines from the Hugging Face Hub, from a folder or from a single file."""

import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from datamodules.arguments import one_of
from datamodules.files.limits import sentence
from datamodules.files.text_files import check_pretrained_json, read_json_object
from lightning_modules.backbones.adaptation import Precision
from lightning_modules.backbones.quantization import NETWORKS
from lightning_modules.backbones.weights import check_safetensors, from_pretrained, join_names, loaded_from

NetworkPrediction = Literal["epsilon", "v_prediction", "sample", "flow"]
HUB_NAME = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that no method of this project uses. A safety checker would bias comparisons, as it blackens some images."""
WEIGHTS = {"diffusers": "diffusion_pytorch_model.safetensors", "transformers": "model.safetensors"}
MOST_TOKENS = 4096
FULL_PRECISION = ("vae",)
"""Parts that are always loaded in float32. The autoencoder of SDXL would overflow in half precision."""


def need_transformers(needed_by: str) -> None:
    """Check that the package `transformers` is installed."""
    if find_spec("transformers") is None:
        raise ImportError(f"{needed_by} needs transformers: pip install 'noiseworks[pipelines]'")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence all log messages of transformers except errors, inside a `with` block."""
    from transformers.utils import logging

    said = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(said)


def diffusers_pipeline(
    name_or_path: str,
    parts: Sequence[str] = (),
    config: str | None = None,
    variant: str | None = None,
    dtype: Precision | None = None,
    local_files_only: bool = False,
    pipeline_class: str | None = None,
    part_classes: Mapping[str, str | tuple[str, ...]] | None = None,
    families: Mapping[str, type] | None = None,
    quantization: Any = None,
    unread: Collection[str] = (),
) -> Any:
    """Load a diffusers pipeline's networks, tokenizers and scheduler on the CPU, without running code from its files.

    Args:
        name_or_path: local folder written by `save_pretrained`, name of a pipeline on the Hugging Face Hub, or a single
            `.safetensors` or `.ckpt` file with all weights, which requires `config`.
        parts: names of required parts, such as unet, vae, text_encoder, tokenizer and scheduler.
        config: folder or name of a pipeline with the same architecture; allowed only if `name_or_path` is a single
            file.
        variant: variant of the weight files, such as fp16 or non_ema; None loads the files without a variant.
        dtype: precision of the weights; None means float32. The autoencoder is always loaded in float32.
        local_files_only: never download files; a pipeline given by name must be in the Hugging Face cache. A local
            folder never requires network access.
        pipeline_class: diffusers class into which the parts are loaded; None uses the class named in
            `model_index.json`.
        part_classes: required class of each part, by part name; the key `_class_name` stands for the pipeline itself.
            If several class names are allowed, the first one is the current name.
        families: dictionary that maps network classes to model classes; it is used in error messages about missing or
            unexpected parts.
        quantization: diffusers' quantisation config for the unet or the transformer; see `quantization_config`.
        unread: names of parts that are not loaded. `pipeline_class` must work without these parts.

    Returns:
        A `diffusers.DiffusionPipeline`, without a safety checker.

    Raises:
        FileNotFoundError: if the pipeline, its weights or one of its parts are neither on disk nor on the Hub.
        ValueError: if a part is missing in `model_index.json` or has an unexpected class, or if weights or arguments do
            not match the pipeline.
        ImportError: if a text encoder requires transformers and this package is not installed.
    """
    import diffusers

    one_of((None, "float32", "bfloat16", "float16"), dtype=dtype)
    path = Path(name_or_path).expanduser()
    single = path.is_file() or path.suffix in (".safetensors", ".ckpt")
    if single and not path.is_file():
        raise FileNotFoundError(f"no pipeline at {path}: expected one file with all weights; copy it there")
    if single and config is None:
        raise ValueError(
            f"config: {path.name} contains only weights; give the folder or the name of a pipeline with the same "
            f"architecture, such as stable-diffusion-v1-5/stable-diffusion-v1-5"
        )
    if single and quantization is not None:
        raise ValueError(
            f"quantization: weights are quantised while they are read from a folder, and {path.name} is a single file; "
            f"give the folder or the name of the pipeline"
        )
    if config is not None and not single:
        raise ValueError(f"config is only allowed for a single file of weights, and {name_or_path} is not one")
    described = str(Path(config).expanduser()) if config is not None else str(path) if path.is_dir() else name_or_path
    index = {name: part for name, part in _index(described, local_files_only).items() if name not in unread}
    named = pipeline_class or index.get("_class_name")
    found: Any = getattr(diffusers, named, None) if isinstance(named, str) else None
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise ValueError(
            f"_class_name of {described} must be a diffusers pipeline, such as StableDiffusionPipeline, got {named!r}"
        )
    if found._load_connected_pipes:
        raise ValueError(f"_class_name of {described} must be a single pipeline, but {named} downloads others")
    classes = _classes(described, index)
    libraries = {name: library for name, (library, _) in classes.items()}
    kinds = [str(named), *(kind for _, kind in classes.values())]
    _check_parts(described, libraries, parts, _advice(kinds, families, part_classes))
    for name, expected in (part_classes or {}).items():
        allowed = (expected,) if isinstance(expected, str) else expected
        given = named if name == "_class_name" else classes[name][1]
        if given not in allowed:
            advice = _advice(kinds, families, part_classes)
            raise ValueError(f"{name} of {described} must be of class {allowed[0]}, got {given}{advice}")
    if any(library == "transformers" for name, library in libraries.items() if name not in UNUSED):
        need_transformers(f"the text encoder of {described}")
    options: dict[str, Any] = {name: None for name, part in index.items() if name in UNUSED or part == [None, None]}
    if "requires_safety_checker" in index or "safety_checker" in index:
        options["requires_safety_checker"] = False
    options |= {"local_files_only": local_files_only or Path(described).is_dir(), "trust_remote_code": False}
    precision = getattr(torch, dtype or "float32")
    try:
        # Loading requires tensors with values, so the default device must not be meta. diffusers has renamed the
        # argument `torch_dtype`, but the oldest supported version of diffusers does not know the new name.
        with torch.device("cpu"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*torch_dtype.*", FutureWarning)
            if single:
                if path.suffix == ".safetensors":
                    check_safetensors(path)
                pipeline = found.from_single_file(str(path), config=described, torch_dtype=precision, **options)
                for part in pipeline.components.values():
                    if isinstance(part, torch.nn.Module):
                        loaded_from(path, part)
                for name in FULL_PRECISION if dtype else ():
                    getattr(pipeline, name).float()
            else:
                if not (folder := Path(described)).is_dir():
                    fetched = found.download(described, variant=variant, use_safetensors=True, **options)
                    folder = Path(fetched)
                precisions = {"default": precision, **dict.fromkeys(FULL_PRECISION, torch.float32)}
                with quiet_transformers() if "transformers" in libraries.values() else nullcontext():
                    given = _load(folder, classes, variant, precisions, quantization)
                pipeline = found.from_pretrained(
                    str(folder), variant=variant, torch_dtype=precisions, use_safetensors=True, **options, **given
                )
        _check_whole(name_or_path, pipeline)
    except FileNotFoundError as error:
        missing = sentence(error).partition("; or initialise new ones")[0]
        raise FileNotFoundError(f"no pipeline {name_or_path}: {missing}") from error
    except OSError as error:
        raise FileNotFoundError(
            f"no pipeline {name_or_path}: a part or its weights are not on disk and could not be downloaded; expected "
            f"{'one file with all weights' if single else 'a folder as save_pretrained writes it'} "
            f"({sentence(error)})"
        ) from error
    except Exception as error:  # diffusers raises many types of errors for unsuitable files
        raise ValueError(f"the pipeline {name_or_path} cannot be loaded: {sentence(error)}") from error
    return pipeline


def _index(described: str, local_files_only: bool) -> dict[str, Any]:
    """Read `model_index.json` of a pipeline, which lists its parts."""
    from huggingface_hub import hf_hub_download

    if (folder := Path(described)).is_dir():
        file = folder / "model_index.json"
        if not file.is_file():
            raise FileNotFoundError(f"no pipeline in {folder}: expected {file}, as save_pretrained writes it")
    elif not re.fullmatch(HUB_NAME, described):
        raise FileNotFoundError(f"no pipeline at {folder}: expected a folder with model_index.json; correct the path")
    else:
        try:
            file = Path(hf_hub_download(described, "model_index.json", local_files_only=local_files_only))
        except OSError as error:
            only = ", the only place that local_files_only allows" if local_files_only else ""
            raise FileNotFoundError(
                f"no pipeline {described}: there is no such folder in {Path.cwd()}, and model_index.json is not in the "
                f"Hugging Face cache{only or ', nor could it be downloaded'}; run `hf download {described}` where "
                f"there is a network, and give the folder"
            ) from error
    return read_json_object(file)


def _classes(described: str, index: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the library and the class of each part to load; the library must be diffusers or transformers.

    Without this check of the library, diffusers would import any module that `model_index.json` names.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or name in UNUSED or entry == [None, None]:
            continue
        if len(entry) != 2 or entry[0] not in ("diffusers", "transformers") or not isinstance(entry[1], str):
            raise ValueError(
                f"{name} in model_index.json of {described} must be [diffusers or transformers, class], got {entry}"
            )
        if Path(name).name != name:
            raise ValueError(f"{name} in model_index.json of {described} is not a folder name")
        found[name] = entry[0], entry[1]
    return found


def _load(
    folder: Path,
    classes: dict[str, tuple[str, str]],
    variant: str | None,
    precisions: dict[str, torch.dtype],
    quantization: Any,
) -> dict[str, Any]:
    """Load a pipeline's tokenizers and networks, and reject incomplete networks; code from its folder is not run."""
    import diffusers

    found: dict[str, Any] = {}
    for name, (library, named) in classes.items():
        place = folder / name
        kind: Any = getattr(import_module(library), named, None)
        if not callable(getattr(kind, "from_pretrained", None)) or not hasattr(kind, "__mro__"):
            raise ValueError(f"{name} in {folder / 'model_index.json'} is {named}, which is not a class of {library}")
        if issubclass(kind, torch.nn.Module) and kind.__module__.startswith(f"{library}.models."):
            if variant is not None and not any(folder.glob(f"*/*.{variant}[.-]*")):
                continue  # diffusers reports this error
            options: dict[str, Any] = {"local_files_only": True}
            options["torch_dtype" if library == "diffusers" else "dtype"] = precisions.get(name, precisions["default"])
            options["variant"] = variant if any(place.glob(f"*.{variant}[.-]*")) else None
            if quantization is not None and name in NETWORKS:
                options["quantization_config"] = quantization
            found[name] = from_pretrained(kind, str(place), WEIGHTS[library], **options).eval()
        elif library == "transformers" and named.endswith(("Tokenizer", "TokenizerFast", "Processor")):
            check_pretrained_json(place)
            files = [*getattr(kind, "vocab_files_names", {}).values()]
            if files and not any((place / file).is_file() for file in files):  # transformers accepts an empty folder
                raise FileNotFoundError(
                    f"{place} has no vocabulary: expected {' or '.join(files)}; copy the tokenizer's files there"
                )
            found[name] = kind.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
            length = getattr(found[name], "model_max_length", 1)  # to which a CLIP tokenizer pads each prompt
            if named.startswith("CLIPTokenizer") and not (type(length) is int and 0 < length <= MOST_TOKENS):
                raise ValueError(f"model_max_length of {place} must be in 1 ... {MOST_TOKENS}, got {str(length)[:40]}")
        elif not issubclass(kind, diffusers.SchedulerMixin):
            raise ValueError(
                f"{name} in {folder / 'model_index.json'} is {named}, which is neither a network, "
                f"a tokenizer nor a scheduler"
            )
        else:
            read_json_object(place / "scheduler_config.json")
    return found


def tokenizers_of(
    name_or_path: str, local_files_only: bool = False, encoders: tuple[str, ...] = ("CLIPTextModel",)
) -> tuple[str, dict[str, Any]]:
    """Load only the tokenizers of a pipeline's text encoders, without loading any neural network.

    Args:
        name_or_path: local folder written by `save_pretrained`, or name of a pipeline on the Hugging Face Hub.
        local_files_only: never download files; a pipeline given by name must be in the Hugging Face cache.
        encoders: beginnings of the names of classes of text encoders; the tokenizers of others are not loaded.

    Returns:
        The diffusers class of the pipeline, and the tokenizers by their names, in the order of the text encoders.
    """
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        files = ["model_index.json", "tokenizer*"]
        folder = Path(snapshot_download(name_or_path, allow_patterns=files, local_files_only=local_files_only))
    index = _index(str(folder), True)
    classes = _classes(str(folder), index)
    chosen = [name for name, (_, kind) in classes.items() if kind.startswith(encoders)]
    names = sorted(name.replace("text_encoder", "tokenizer") for name in chosen)
    found = _load(folder, {name: classes[name] for name in names if name in classes}, None, {}, None)
    return str(index.get("_class_name")), found


def _check_whole(name_or_path: str, pipeline: Any) -> None:
    """Reject a pipeline whose networks have weights on the meta device, because their forward passes would fail."""
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and (
            missing := [key for key, value in part.state_dict().items() if value.is_meta]
        ):
            raise ValueError(f"{name} of {name_or_path} lacks {join_names(missing)}")


def family_of(name_or_path: str, families: Mapping[str, Any], local_files_only: bool = False) -> Any:
    """Return the model class in `families` for the class of a pipeline or, if it is no key, of its network."""
    path = Path(name_or_path).expanduser()
    described = str(path) if path.is_dir() else name_or_path
    index = _index(described, local_files_only)
    classes = _classes(described, index)
    kinds = [str(index.get("_class_name")), *(kind for _, kind in classes.values())]
    fitting = [families[named] for named in kinds if named in families]
    if not fitting:
        networks = [f"{name} is a {classes[name][1]}" for name in ("unet", "transformer") if name in classes]
        has = f"its {' and its '.join(networks)}" if networks else "it has neither unet nor transformer"
        raise ValueError(f"no model supports the pipeline {described}: {has}{_advice(kinds, families)}")
    return fitting[0]


def _advice(kinds: Sequence[str], families: Mapping[str, Any] | None, own: Any = None) -> str:
    """Return the end of an error message: it names the model that supports a pipeline, or else all families.

    It is empty if the model with the part classes `own`, which rejects the pipeline, is the one for its network.
    """
    if not families:
        return ""
    fitting = [families[named] for named in kinds if named in families]
    if fitting:
        return "" if fitting[0].part_classes is own else f"; use {fitting[0].__name__} for this pipeline"
    current: dict[str, str] = {}
    for network, model in families.items():
        current.setdefault(model.__name__, network)
    return f"; supported are {', '.join(f'{model} ({network})' for model, network in current.items())}"


def _check_parts(described: str, libraries: dict[str, str], parts: Sequence[str], advice: str = "") -> None:
    missing = [part for part in parts if part not in libraries]
    if missing:
        has = join_names(libraries, 20)
        raise ValueError(f"{described} lacks {join_names(missing)}; its model_index.json has: {has}{advice}")
    if (folder := Path(described)).is_dir():
        absent = [part for part in libraries if part not in UNUSED and not (folder / part).is_dir()]
        if absent:
            raise FileNotFoundError(
                f"{described} lacks {join_names(absent)}: its model_index.json lists them, so the folder "
                f"{folder / absent[0]} must exist"
            )


def is_flow_matching(scheduler: Any) -> bool:
    """Return whether a diffusers scheduler is for flow matching, where the network predicts e - z."""
    flow_solver = scheduler.config.get("prediction_type") == "flow_prediction"
    return flow_solver or type(scheduler).__name__.startswith("FlowMatch")


def reject_flow_matching(scheduler: Any, method: str, reason: str) -> None:
    """Reject a flow-matching model if a method requires a diffusion model."""
    if is_flow_matching(scheduler):
        raise ValueError(f"model: {method} {reason}, but {type(scheduler).__name__} is a scheduler for flow matching")


def check_schedule(scheduler: Any, prediction_types: Collection[str] = ("epsilon",)) -> NetworkPrediction:
    """Return a scheduler's prediction type, and reject unsupported prediction types and diffusion processes.

    Args:
        scheduler: a diffusers scheduler.
        prediction_types: prediction types that the calling method supports, among epsilon, v_prediction, sample and
            flow.
    """
    kind = type(scheduler).__name__
    if "flow" in prediction_types and is_flow_matching(scheduler):
        return "flow"
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"scheduler: {kind} has no alphas_cumprod: its process is not z_t = sqrt(abar) z + ...")
    predicted = scheduler.config.get("prediction_type", "epsilon")
    if predicted not in prediction_types:
        raise ValueError(f"prediction_type of {kind} must be one of {', '.join(prediction_types)}, got {predicted!r}")
    return predicted
