"""Resolve short and misspelt class names in arguments and configurations."""

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

from experiments.config_files import PROJECT

PACKAGES = ("lightning_modules", "datamodules", "callbacks")
ROOMS = {"model": "lightning_modules", "data": "datamodules"}
"""Maps the first part of an argument's dotted name to the package with the argument's classes."""
ELSEWHERE = ("torch.optim", "torch.optim.lr_scheduler", "lightning.pytorch.callbacks", "lightning.pytorch.loggers")
"""Modules in other packages whose classes appear in configurations."""


def with_full_names(args: Sequence[str]) -> list[str]:
    """Replace short class names after options such as `--model.help` and `--data.help` with class paths."""
    full = list(args)
    for place, flag in enumerate(args):
        option, equals, value = flag.partition("=")
        if not (option.startswith("--") and option.endswith(".help")):
            continue
        if not equals:
            value = args[place + 1] if place + 1 < len(args) else ""
        room = ROOMS.get(option[2:].partition(".")[0], "")
        found = [path for name, path in project_classes() if name == value and path.startswith(room)]
        if len(found) > 1:
            raise ValueError(f"{option}: several classes are called {value}; name one of {', '.join(sorted(found))}")
        if found:
            full[place + (not equals)] = f"{option}={found[0]}" if equals else found[0]
    return full


def project_classes() -> Iterator[tuple[str, str]]:
    """Yield the name and the class path of each class in this project, without importing the classes."""
    return _project_names("class")


def _project_names(kinds: str) -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for file in sorted((PROJECT / package).rglob("*.py")):
            folder = ".".join(file.parent.relative_to(PROJECT).parts)
            exported = (file.parent / "__init__.py").read_text(encoding="utf-8")
            for name in re.findall(rf"^(?:{kinds}) (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
                yield name, f"{folder}.{name}" if f'"{name}"' in exported else f"{folder}.{file.stem}.{name}"


SINGLE_ARGUMENTS = {
    "attack_steps": "attack.steps",
    "average_decay": "averages.decay",
    "brightest": "data_range",
    "clip_after": "clipping.after",
    "clip_noise": "noise.clip",
    "confidence_contrast": "loss.confidence",
    "corrector_steps": "corrector.steps",
    "cycle_weight": "weights.cycle",
    "every_attack": "attack.every_kind",
    "fixed_noise": "noise_samples",
    "gradient_clip": "clipping.norm",
    "head_lr_factor": "heads.lr_factor",
    "input_pyramid": "pyramid",
    "learnable_property": "templates",
    "lora_alpha": "adapters.alpha",
    "lora_dropout": "adapters.dropout",
    "lora_rank": "adapters.rank",
    "lora_targets": "adapters.targets",
    "mask_cycle_weight": "weights.mask_cycle",
    "noise_std": "noise.std",
    "num_inference_steps": "sampling.steps",
    "output_pyramid": "pyramid",
    "patches_per_image": "patches.per_image",
    "rate": "sample_rate",
    "second_noisy": "noise_samples",
    "shape_weight": "weights.shape",
    "shifted_tests": "ood_test_sets",
    "use_dora": "adapters.dora",
    "use_rslora": "adapters.rslora",
    "windows_per_clip": "windows.per_clip",
    **{f"{name}_weight": f"weights.{name}" for name in ("cleaning", "perception", "adversarial")},
}
GROUPED_ARGUMENTS = {
    "attack": ("norm", "epsilon", "num_targets", "step_size", "iterations", "gradient_repeats"),
    "averages": ("steepness",),
    "blocks": ("num_layers", "num_single_layers", "gradient_checkpointing"),
    "correction": ("warmup_epochs", "gamma", "guess_views"),
    "corrector": ("snr",),
    "defence": ("objective", "augmentation", "timestep"),
    "detection": ("detectors", "threshold", "feature_layer"),
    "evaluation": ("gamma_scale", "gamma_bias", "alpha_scale", "alpha_bias"),
    "fitting": ("steps", "samples", "chunk", "average", "restart_above", "learning_rate"),
    "flow": ("way", "decay_rate", "gradient", "dense_epochs", "fine_tune_epochs"),
    "heads": ("projection_features",),
    "loading": ("evaluation_batch_size", "num_workers", "passes_per_epoch", "prefetch_factor", "seed"),
    "loss": ("mixup_alpha", "penalty", "contrast_weight", "temperature"),
    "mask": ("grid", "kernel", "sigma", "mean"),
    "mixing": ("boundary", "gamma", "signal", "injection"),
    "partition": ("fill", "layout"),
    "patches": ("augmentation", "size"),
    "pattern": ("n", "m", "along", "own"),
    "rates": ("eta", "beta", "tau", "tau_v", "radius", "alpha", "gamma"),
    "sampling": ("guidance_scale",),
    "schedule": ("s", "mu", "mu_factor", "warm_iterations", "iterations", "look_every", "learning_rate"),
    "split": ("fold", "folds", "test_fraction", "validation_fraction"),
    "stages": (
        *("vae_epochs", "translation_epochs", "warm_up_epochs", "rounds", "round_epochs", "stop_early"),
        "constant_fraction",
    ),
    "weights": ("config", "dtype", "local_files_only", "quantization", "variant", "vae_beta"),
    "windows": ("augmentation", "mirrored", "num_frames", "size"),
}
"""Arguments of version 0.1 that stand in a group in version 0.2, by group."""


def new_names(argument: str) -> list[str]:
    """List the names that an argument of version 0.1 has in version 0.2, which differ between classes."""
    single = [SINGLE_ARGUMENTS[argument]] if argument in SINGLE_ARGUMENTS else []
    own = "size" if argument == "patch_size" else argument
    return [*single, *(f"{group}.{own}" for group, names in GROUPED_ARGUMENTS.items() if own in names)]


def did_you_mean(path: str) -> str:
    """Suggest a class or function of a similar name for an unknown class path."""
    module, _, name = path.rpartition(".")
    moved = [other for each, other in _project_names("class|def") if each == name and path.startswith(PACKAGES)]
    if len(moved) == 1:
        return f"; did you mean {moved[0]}?"
    close = _like(module, sys.modules, 0.8) if module and module not in sys.modules else module
    like = _like(name, _classes_in(close)) if close in sys.modules else ""  # a misspelt module is never imported
    if like:
        return f"; did you mean {close}.{like}?"
    known = {each: f"{other}.{each}" for other in ELSEWHERE if other in sys.modules for each in _classes_in(other)}
    known |= dict(project_classes())
    like = _like(name, known)
    return f"; did you mean {known[like]}?" if like else "; give a full class path, as callbacks.labels.Memorization"


def _classes_in(module: str) -> list[str]:
    names = getattr(sys.modules[module], "__all__", None) or dir(sys.modules[module])
    return [name for name in names if isinstance(getattr(sys.modules[module], name, None), type)]


def _like(name: str, known: Iterable[str], least: float | None = None) -> str:
    """Return the most similar known name, or an empty string if no name is similar enough.

    The similarity threshold is lower for short names.
    """
    least = least or (0.65 if len(name) < 6 else 0.75)
    return next(iter(difflib.get_close_matches(name, list(known), 1, least)), "")
