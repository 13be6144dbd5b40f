"""Find what a configuration needs and this machine lacks: extras, data, weights and GPUs. Nothing is trained."""

import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from experiments.calls.build import complete_settings
from experiments.calls.parse import Parsed, parse
from experiments.catalogue import needs
from experiments.config_files import locate_config, text_of
from experiments.diagnosis.machine import EXTRAS, MISSING, NOTE, OK, Row, lacks, requirements
from experiments.launching.devices import gpu_memory
from experiments.parsing.data_before_model import data_of
from experiments.parsing.readable_errors import readable

SECONDS = 10.0
"""Longest time for building a model, and for reading data. What is missing is found much earlier."""
NAMES = ("pipeline", "name_or_path", "tokenizer")
"""Arguments that are folders of models, or their names on the Hugging Face Hub."""
DESCRIPTIONS = ("model_index.json", "config.json", "tokenizer.json", "tokenizer_config.json")


class TooLong(BaseException):
    """Raised at the end of a time limit. Readers, which turn other exceptions into sentences, do not catch it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TooLong` after some seconds. Only the main thread can use this context manager."""

    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check_configuration(config: Path, overrides: Sequence[str], suffixes: tuple[str, ...]) -> Iterator[Row]:
    """Yield a row for each kind of need of a configuration.

    Args:
        config: configuration file.
        overrides: arguments of `fit` after the configuration.
        suffixes: suffixes of files of weights.
    """
    name = str(config)
    try:
        parsed = parse(["fit", "--config", name, *overrides])
    except Exception as error:
        yield Row(name, "settings", readable(error), MISSING)
        return
    text = text_of(locate_config(config))
    needed, tests = needs(text), re.search(r"train\.py (test|predict|generate) --config", text)
    yield Row(name, "needs", needed or "-")
    yield from _extras(name, needed)
    yield from _gpus(name, needed, parsed.settings.trainer)
    weights = dict(_weights({key: parsed.settings.get(key) for key in ("model", "data")}, suffixes))
    for said, there in weights.items():
        yield Row(name, "weights", said, OK if there else MISSING)
    yield _attempt(name, "data", lambda: _read_data(parsed, ("test",) if tests else ("fit", "test")))
    if all(weights.values()):
        yield _attempt(name, "model", lambda: _build_model(parsed))


def _attempt(config: str, what: str, function: Callable[[], str]) -> Row:
    try:
        with time_limit(SECONDS):
            return Row(config, what, function())
    except TooLong:
        return Row(config, what, f"no fault in {SECONDS:g} s of reading; the rest was not read")
    except Exception as error:
        return Row(config, what, readable(error), MISSING)


def _read_data(parsed: Parsed, stages: Sequence[str]) -> str:
    """Read the data of these stages, without downloading anything."""
    complete_settings(parsed, runs=False)
    if not parsed.settings.data:
        return "-"
    data = data_of(parsed.settings)
    for stage in stages:
        data.setup(stage)
    return f"{type(data).__name__} was read"


def _build_model(parsed: Parsed) -> str:
    """Build the model and the callbacks; weights are not read."""
    settings = parsed.config.clone()
    own = settings[parsed.subcommand]
    own.trainer = Namespace(callbacks=own.trainer.callbacks)
    with torch.device("meta"):
        built = parsed.grammar.parser.instantiate(settings)[parsed.subcommand]
    return f"{type(built.model).__name__} was built"


def _extras(config: str, needed: str) -> Iterator[Row]:
    """Yield the missing packages of the extras that the line `needs` names."""
    named = {word for text in re.findall(r"noiseworks\[([\w,-]+)\]", needed) for word in text.split(",")}
    for text in re.findall(r"the ([\w, -]+?) extras?\b", needed):
        named |= {*re.split(r" and |, ", text)}
    for extra in sorted(named & EXTRAS.keys()):
        for fault in filter(None, map(lacks, requirements()[1][extra])):
            yield Row(config, f"extra {extra}", f"{fault}: pip install 'noiseworks[{extra}]'", MISSING)


def _gpus(config: str, needed: str, trainer: Any) -> Iterator[Row]:
    """Compare the GPUs of this machine with those that the trainer asks for, and with those of the line `needs`."""
    if trainer.accelerator == "cpu":
        return
    seen, devices = torch.cuda.device_count(), trainer.devices
    wanted = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdecimal() else 1
    if wanted > seen and (seen or trainer.accelerator in ("gpu", "cuda")):
        found = f"trainer.devices {devices} needs {wanted}, but this machine has {seen}: set --trainer.devices, or run "
        yield Row(config, "GPUs", found + "doctor where the run will be (srun python train.py doctor)", MISSING)
    elif not seen and "GPU" in needed and "CPU" not in needed:
        yield Row(config, "GPUs", "this machine has none, and on CPUs the run would take very long", NOTE)
    memory = max((total for _, total, _ in gpu_memory()), default=0.0)
    asked = [float(number) for number in re.findall(r"GPU with (?:about )?([\d.]+) GB", needed)]
    if seen and asked and memory < asked[0]:
        yield Row(config, "GPUs", f"{memory:.0f} GiB of memory, about {asked[0]:g} GB are needed", NOTE)


def _weights(settings: Any, suffixes: tuple[str, ...], key: str = "") -> Iterator[tuple[str, bool]]:
    """Yield the weights that settings name, and whether they are on this machine."""
    if isinstance(settings, Namespace | dict):
        settings = settings.as_dict() if isinstance(settings, Namespace) else settings
        if settings.get("pretrained") is True and isinstance(name := settings.get("name"), str):
            yield from _timm_weights(name)
        for inner, value in settings.items():
            yield from _weights(value, suffixes, inner)
    elif isinstance(settings, list):
        for value in settings:
            yield from _weights(value, suffixes, key)
    elif isinstance(settings, str) and settings.endswith(suffixes):
        there = os.path.isfile(Path(settings).expanduser())
        yield settings if there else f"{key}: {settings} does not exist: copy it there, or correct the path", there
    elif isinstance(settings, str) and key in NAMES and "/" in settings and not os.path.isdir(settings):
        yield _on_hub(settings, DESCRIPTIONS)


def _timm_weights(name: str) -> Iterator[tuple[str, bool]]:
    import timm

    config = timm.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    if config is not None and config.hf_hub_id:
        yield _on_hub(config.hf_hub_id, ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin"))


def _on_hub(name: str, files: Sequence[str]) -> tuple[str, bool]:
    from huggingface_hub import try_to_load_from_cache

    there = any(isinstance(try_to_load_from_cache(name, file), str) for file in files)
    return f"{name} is {'' if there else 'not '}in the Hugging Face cache" + (
        "" if there else f": run `hf download {name}` where there is a network"
    ), there
