"""Write the model card of a pushed run: README.md with the metadata that the Hugging Face Hub reads."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datamodules.files.text_files import read_json_object
from experiments.catalogue import Method, claims_of, find_methods, first_equation, parse_source
from experiments.config_files import PROJECT
from experiments.hub.pushed_folder import ADAPTERS, CONTROLNET, EMBEDDINGS, Pushed, adapted_network, merged_network
from experiments.results import arrow, markdown, mean_and_std, read_csv, read_curves, read_test_metrics

HUB_DATASETS = {
    "datamodules.classification.cifar.CIFAR10": "uoft-cs/cifar10",
    "datamodules.classification.cifar.CIFAR100": "uoft-cs/cifar100",
    "datamodules.classification.mnist.MNIST": "ylecun/mnist",
    "datamodules.classification.svhn.SVHN": "ufldl-stanford/svhn",
    "datamodules.classification.imagenet.ImageNet": "ILSVRC/imagenet-1k",
}
"""Hub names of public datasets, by dataset class."""
TASKS = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "restoration": "image-to-image",
    "speech": "audio-to-audio",
}
"""Names of tasks on the Hub, by the package of the dataset class."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PIPELINES = ("pipeline", "path", "name_or_path")
"""Names of the arguments that give the name of a pre-trained model."""
UNKNOWN_LICENCE = "unknown"
MOST_METRICS = 30
SHOWN = ("max_epochs", "max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val", "callbacks")
"""Trainer settings that the card shows. All settings are in config.yaml."""


@dataclass(frozen=True)
class CardOptions:
    """Information about a model that the user provides.

    Args:
        name: `owner/name` on the Hub, or the name of the folder.
        licence: identifier of the licence on the Hub. None if it is unknown.
        base_model: name of the pre-trained model on the Hub. None takes the name from the settings.
        datasets: names of the datasets on the Hub. If empty, the names are taken from the settings.
        docstring: docstring with the equation and the source of the loss. None takes the method's docstring.
    """

    name: str
    licence: str | None = None
    base_model: str | None = None
    datasets: Sequence[str] = ()
    docstring: str | None = None


def model_card(pushed: Pushed, folder: Path, options: CardOptions) -> str:
    """Return the model card of a folder that `write_folder` wrote. Metrics are read from the folder."""
    from huggingface_hub import ModelCard, ModelCardData

    method = method_of(pushed.class_path)
    base = options.base_model or base_model(pushed.settings)
    diffusers, part = _loaded_by_diffusers(pushed)
    relation = "adapter" if diffusers in ("adapters", "peft", "controlnet", "embeddings") else "finetune"
    metadata = ModelCardData(
        base_model=base,
        base_model_relation=None if base is None else relation,
        datasets=list(options.datasets) or hub_datasets(pushed.settings) or None,
        license=options.licence or UNKNOWN_LICENCE,
        library_name="diffusers" if diffusers else "noiseworks",
        pipeline_tag=task(pushed.settings, method),
        tags=["noiseworks", *([method.folder] if method else []), *(["lora"] if diffusers == "adapters" else [])],
    )
    docstring = "" if method is None else options.docstring or method.docstring
    card = ModelCard.from_template(
        metadata,
        str(Path(__file__).with_suffix(".md.jinja")),
        markdown=markdown,
        title=options.name.rpartition("/")[2],
        name=options.name,
        on_hub="/" in options.name,
        class_name=pushed.class_path.rpartition(".")[2],
        equation=first_equation(docstring),
        paper=_paper(method, docstring),
        facts=_facts(pushed, base, options),
        picture=pushed.picture,
        metrics=_metrics(folder),
        most_metrics=MOST_METRICS,
        measured_claims=(measured := _measured_claims(method)),
        claims=claims_of(method, PROJECT) if method and not measured else [],
        needed=", ".join(f"`{key}` (`{name}`)" for key, name in pushed.named.items()),
        diffusers=diffusers,
        part=part,
        part_class=_class_name(folder, part) if part and diffusers != "peft" else None,
        base=base or "BASE_MODEL",
        adapters=ADAPTERS,
        embeddings=[file for file in EMBEDDINGS if file in pushed.pipeline],
        new_word=(pushed.settings["model"].get("init_args") or {}).get("placeholder_token"),
        settings=_format_settings(pushed.settings),
    )
    return str(card)


def _loaded_by_diffusers(pushed: Pushed) -> tuple[str | None, str | None]:
    """Return what diffusers can load from `pipeline/`, or None, and the folder of the network if it is only a part."""
    if network := merged_network(pushed):
        return "network", network
    if ADAPTERS in pushed.pipeline:
        return "adapters", None
    if network := adapted_network(pushed):
        return "peft", network
    if f"{CONTROLNET}/config.json" in pushed.pipeline:
        return "controlnet", CONTROLNET
    if EMBEDDINGS[0] in pushed.pipeline:
        return "embeddings", None
    return ("pipeline" if "model_index.json" in pushed.pipeline else None), None


def method_of(class_path: str) -> Method | None:
    """Return the method that a class implements, or None if the user wrote the class."""
    name, folder = class_path.rpartition(".")[2], class_path.split(".")[:3]
    return next((each for each in find_methods() if each.name == name and each.module.split(".")[:3] == folder), None)


def base_model(settings: Mapping[str, Any]) -> str | None:
    """Return the Hub name of the pre-trained model from which a run started."""
    for spec in _classes(settings.get("model")):
        arguments = spec["init_args"]
        if str(spec["class_path"]).endswith("timm_model") and arguments.get("pretrained") and arguments.get("name"):
            return f"timm/{arguments['name']}"
        for key in PIPELINES:
            if isinstance(name := arguments.get(key), str) and HUB_NAME.fullmatch(name) and not _is_file(name):
                return name
    return None


def _is_file(name: str) -> bool:
    return name.endswith((".safetensors", ".pth", ".pt", ".ckpt", ".bin")) or Path(name).exists()


def hub_datasets(settings: Mapping[str, Any]) -> list[str]:
    """Return the Hub names of the datasets of a run."""
    found = []
    for spec in _classes(settings.get("data")):
        named = HUB_DATASETS.get(spec["class_path"])
        if spec["class_path"].endswith((".HuggingFaceImages", ".HuggingFaceCaptions")):
            named = spec["init_args"].get("name")
        if named and (HUB_NAME.fullmatch(named) or re.fullmatch(r"[\w.-]+", named)) and not Path(named).exists():
            found.append(named)
    return list(dict.fromkeys(found))


def task(settings: Mapping[str, Any], method: Method | None) -> str | None:
    """Return the Hub name of a model's task, or None if the Hub has no such task."""
    data, generates = settings.get("data") or {}, method is not None and method.field == "diffusion"
    package = str(data.get("class_path") if isinstance(data, dict) else data).partition("datamodules.")[2].split(".")[0]
    if generates and package in ("classification", "prompts"):
        backbones = [path for path in _paths(settings.get("model")) if path.startswith(BACKBONES)]
        if any(path.endswith(".FluxKontext") for path in backbones):
            return "image-to-image"
        texts = any("pixel" not in path.removeprefix(BACKBONES).lower() for path in backbones)
        return "text-to-image" if texts else "unconditional-image-generation"
    return TASKS.get(package)


BACKBONES = "lightning_modules.backbones.diffusion."
"""Package of all text-to-image models. It also contains pixel models, which have no text input."""


def _paths(value: Any) -> list[str]:
    return [spec["class_path"] for spec in _classes(value)]


def _classes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the parts of settings that define a class by `class_path` and `init_args`."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", value):
        yield {"class_path": value, "init_args": {}}
    if isinstance(value, dict):
        if isinstance(path := value.get("class_path"), str):
            arguments = value.get("init_args")
            yield {"class_path": path, "init_args": arguments if isinstance(arguments, dict) else {}}
        for key, inner in value.items():
            if key != "class_path":
                yield from _classes(inner)
    if isinstance(value, list):
        for inner in value:
            yield from _classes(inner)


def _paper(method: Method | None, docstring: str) -> str:
    if method is None:
        return ""
    paper = parse_source(docstring) or method.paper
    link = f"[arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else ""
    return ", ".join(filter(None, (paper.authors, f"*{paper.title}*" if paper.title else "", paper.venue, link)))


def _facts(pushed: Pushed, base: str | None, options: CardOptions) -> list[list[str]]:
    local = ", ".join(f"local, `{name}`" for key, name in pushed.named.items() if key.startswith("model."))
    return [
        ["checkpoint", f"{pushed.checkpoint}, after {pushed.step} steps"],
        ["base model", f"[{base}](https://huggingface.co/{base})" if base else local or "none"],
        ["data", ", ".join(f"`{path}`" for path in _paths(pushed.settings.get("data")))],
        ["licence", options.licence or "not stated"],
    ]


def _metrics(folder: Path) -> list[list[str]]:
    """Return the rows of the test metrics or, if the run was not tested, of the last validation metrics."""
    metrics: Mapping[str, float] = {}
    if (folder / "test_metrics.csv").is_file():
        metrics = read_test_metrics(folder / "test_metrics.csv")
    elif (folder / "metrics.csv").is_file():
        curves = read_curves(folder / "metrics.csv")
        metrics = {name: curve[max(curve)] for name, curve in curves.items() if name.startswith("val/") and curve}
    return [[f"{name}{arrow(name)}", f"{value:.4g}"] for name, value in metrics.items() if math.isfinite(value)]


def _measured_claims(method: Method | None) -> list[list[str]]:
    """Return the rows of the claims about a method, with the measured values if the documentation is installed."""
    paths = {str(config.path) for config in method.configs} if method else set()
    return [
        [row["paper"], row["metric"], _mean(row, "method"), _mean(row, "baseline"), row["verdict"]]
        for row in read_csv(PROJECT / "docs" / "claims.csv")
        if row["method"] in paths
    ]


def _mean(row: Mapping[str, str], side: str) -> str:
    return mean_and_std(float(row[f"{side}_mean"]), math.nan) if row[f"{side}_mean"] else "-"


def _class_name(folder: Path, network: str) -> str:
    """Return the name of the diffusers class of a network in the pipeline."""
    named = read_json_object(folder / "pipeline" / network / "config.json").get("_class_name")
    if not isinstance(named, str) or not named.isidentifier():
        raise ValueError(f"pipeline/{network}/config.json names no class of diffusers, got {named!r}")
    return named


def _format_settings(settings: Mapping[str, Any]) -> str:
    """Format the settings of model, data and training that are not null."""
    kept = {key: settings[key] for key in ("seed_everything", "model", "data") if key in settings}
    trainer = settings.get("trainer")
    kept["trainer"] = {key: trainer.get(key) for key in SHOWN} if isinstance(trainer, dict) else None
    return yaml.safe_dump(_given_values(kept), sort_keys=False, allow_unicode=True, width=120)


def _given_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _given_values(inner) for key, inner in value.items() if inner is not None}
    return [_given_values(inner) for inner in value] if isinstance(value, list) else value
