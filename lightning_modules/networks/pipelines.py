"""Whole pipelines of diffusers by name, from a folder or from one file, with every argument in the signature."""

import json
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from datamodules.arguments import one_of
from lightning_modules.networks.adaptation import Precision
from lightning_modules.networks.weights import listed

HUB_NAME = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that no method here uses: a safety checker's black images would falsify every comparison."""
FULL_PRECISION = ("vae",)
"""Parts that stay in float32: SDXL's autoencoder overflows in half precision."""


def need_transformers(needed_by: str) -> None:
    """Refuse what needs the package transformers where it is not installed.

    Raises:
        ImportError: says how to install it.
    """
    if find_spec("transformers") is None:
        raise ImportError(f"{needed_by} needs transformers: pip install 'noiseworks[pipelines]'")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Let transformers report errors alone, within a `with`."""
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
) -> Any:
    """Load a pipeline of diffusers on the CPU: its networks, tokenizers and scheduler, and no code that comes with it.

    Args:
        name_or_path: a local folder as `save_pretrained` writes it, a pipeline's name on the Hugging Face Hub, or one
            `.safetensors` or `.ckpt` file that holds all weights, with `config`.
        parts: what has to be in it, such as unet, vae, text_encoder, tokenizer and scheduler.
        config: of a single file alone: the folder or name of a pipeline of the same architecture.
        variant: which of several files of weights, such as fp16 or non_ema; by default those without a variant.
        dtype: precision of the weights, float32 by default; the autoencoder always has float32.
        local_files_only: take a name's files from the Hugging Face cache alone. A folder never needs a network.
        pipeline_class: class of diffusers that the parts are loaded into; by default that of the pipeline.

    Returns:
        A `diffusers.DiffusionPipeline`, without a safety checker.

    Raises:
        FileNotFoundError: if the pipeline, its weights or a part are neither on disk nor on the Hub.
        ValueError: if a part is missing in its `model_index.json`, its class is none of diffusers, the weights do not
            fit, or an argument does not.
        ImportError: if its text encoder needs transformers, which is not installed.
    """
    import diffusers

    one_of((None, "float32", "bfloat16", "float16"), dtype=dtype)
    path = Path(name_or_path).expanduser()
    single = path.is_file() or path.suffix in (".safetensors", ".ckpt")
    if single and not path.is_file():
        raise FileNotFoundError(f"no pipeline at {path}: expected one file with all weights; copy it there")
    if single and config is None:
        raise ValueError(
            f"config: {path.name} holds weights alone; give the folder or the name of a pipeline of the same "
            f"architecture, such as stable-diffusion-v1-5/stable-diffusion-v1-5"
        )
    if config is not None and not single:
        raise ValueError(f"config belongs to a single file of weights, and {name_or_path} is none")
    described = str(Path(config).expanduser()) if config is not None else str(path) if path.is_dir() else name_or_path
    index = _index(described, local_files_only)
    named = pipeline_class or index.get("_class_name")
    found: Any = getattr(diffusers, named, None) if isinstance(named, str) else None
    if not hasattr(found, "from_pretrained") or not hasattr(found, "save_pretrained"):
        raise ValueError(
            f"_class_name of {described} must be a pipeline of diffusers, such as StableDiffusionPipeline, got "
            f"{named!r}"
        )
    libraries = {name: entry[0] for name, entry in index.items() if isinstance(entry, list) and entry[0] is not None}
    _check_parts(described, libraries, parts)
    if any(library == "transformers" for name, library in libraries.items() if name not in UNUSED):
        need_transformers(f"the text encoder of {described}")
    options: dict[str, Any] = {name: None for name in UNUSED if name in index}
    if "requires_safety_checker" in index or "safety_checker" in index:
        options["requires_safety_checker"] = False
    options["local_files_only"] = local_files_only or Path(described).is_dir()
    precision = getattr(torch, dtype or "float32")
    try:
        # It reads values, which tensors of another default device would not have. `torch_dtype` has a new name, which
        # the oldest diffusers that is allowed does not know.
        with torch.device("cpu"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*torch_dtype.*", FutureWarning)
            if single:
                pipeline = found.from_single_file(str(path), config=described, torch_dtype=precision, **options)
                for name in FULL_PRECISION if dtype else ():
                    getattr(pipeline, name).float()
            else:
                precisions = {"default": precision, **dict.fromkeys(FULL_PRECISION, torch.float32)}
                pipeline = found.from_pretrained(
                    described, variant=variant, torch_dtype=precisions, trust_remote_code=False, **options
                )
    except OSError as error:
        raise FileNotFoundError(
            f"no pipeline {name_or_path}: a part or its weights is neither on disk nor could be fetched; expected "
            f"{'one file with all weights' if single else 'a folder as save_pretrained writes it'} "
            f"({_sentence(error)})"
        ) from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"the pipeline {name_or_path} cannot be loaded: {_sentence(error)}") from error
    return pipeline


def _index(described: str, local_files_only: bool) -> dict[str, Any]:
    """Read the list of a pipeline's parts."""
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
            only = ", where alone local_files_only lets it be looked for" if local_files_only else ""
            raise FileNotFoundError(
                f"no pipeline {described}: there is no such folder in {Path.cwd()}, and model_index.json is not in the "
                f"Hugging Face cache{only or ', nor could it be fetched'}; run `hf download {described}` where there "
                f"is a network, and give the folder"
            ) from error
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error


def _check_parts(described: str, libraries: dict[str, str], parts: Sequence[str]) -> None:
    missing = [part for part in parts if part not in libraries]
    if missing:
        raise ValueError(f"{described} lacks {listed(missing)}; its model_index.json has: {listed(libraries, 20)}")
    if (folder := Path(described)).is_dir():
        absent = [part for part in libraries if part not in UNUSED and not (folder / part).is_dir()]
        if absent:
            raise FileNotFoundError(
                f"{described} lacks {listed(absent)}: expected the folder {folder / absent[0]}, which its "
                f"model_index.json names"
            )


def check_schedule(scheduler: Any, prediction_types: Collection[str] = ("epsilon",)) -> None:
    """Refuse a scheduler of networks that predict something else, or of a process that does not preserve variance.

    Args:
        scheduler: one of diffusers.
        prediction_types: what the networks of a method may predict: epsilon, v_prediction or sample.

    Raises:
        ValueError: names what the scheduler is.
    """
    kind = type(scheduler).__name__
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"scheduler: {kind} has no alphas_cumprod: its process is not z_t = sqrt(abar) z + ...")
    predicted = scheduler.config.get("prediction_type", "epsilon")
    if predicted not in prediction_types:
        raise ValueError(f"prediction_type of {kind} must be one of {', '.join(prediction_types)}, got {predicted!r}")


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())
