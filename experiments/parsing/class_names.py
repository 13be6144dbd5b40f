"""Resolve short, misspelt and renamed class names in arguments and configurations."""

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
    """Replace short class names after options such as `--model.help` and `--data.help` with class paths.

    Raises:
        ValueError: if several classes have the same short name.
    """
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


RENAMED = {
    "callbacks.BakedWeights": "ExportEffectiveWeights",
    "callbacks.Contracts": "SanityChecks",
    "callbacks.ImageQuality": "ImageMetricsTable",
    "callbacks.Measurements": "SaveTables",
    "callbacks.SpeechQuality": "SpeechMetricsTable",
    "datamodules.classification.ForeignImages": "OpenSetLabelNoise",
    "datamodules.corruptions.operators.BlockMean": "AverageDownsampling",
    "datamodules.corruptions.operators.ChannelMean": "Grayscale",
    "datamodules.corruptions.operators.FourierMagnitude": "PhaseRetrieval",
    "datamodules.corruptions.operators.Mask": "Inpainting",
    "datamodules.corruptions.value_noise.Gaussian": "GaussianValues",
    "datamodules.restoration.raw_pairs.ELD": "ELDPairs",
    "datamodules.tables.noised_points.Wine": "StandardisedWine",
    "lightning_modules.diffusion.PixelModelTraining": "DDPM",
    "lightning_modules.optimization.monna.Attack": "ByzantineAttack",
    "lightning_modules.optimization.optimistic_omd.OnlineLearning": "OnlineConvexOptimization",
    "lightning_modules.probabilistic.meco.UniformNoise": "UniformDistribution",
    "lightning_modules.probabilistic.meco.UnnormalizedModel": "MECO",
    "lightning_modules.probabilistic.scale_mixture_nngp.Fixed": "FixedScale",
    "lightning_modules.robustness.certificates.Fixed": "FixedSampling",
}
"""Map from package and class name in version 0.1 to class name in version 0.2."""
RENAMED_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "augmentation": ("patches.augmentation", "windows.augmentation"),
    "brightest": ("data_range",),
    "fixed_noise": ("noise_samples",),
    "rate": ("sample_rate",),
    "shifted_tests": ("ood_test_sets",),
    "lora_rank": ("adapters.rank",),
    "lora_targets": ("adapters.targets",),
    "lora_alpha": ("adapters.alpha",),
    "lora_dropout": ("adapters.dropout",),
    "patch_size": ("patches.size", "windows.size"),
    "patches_per_image": ("patches.per_image",),
    "second_noisy": ("noise_samples",),
    "use_rslora": ("adapters.rslora",),
    "use_dora": ("adapters.dora",),
    "windows_per_clip": ("windows.per_clip",),
    **{
        key: (f"{group}.{key}",)
        for group, keys in {
            "loading": ("evaluation_batch_size", "num_workers", "passes_per_epoch", "prefetch_factor", "seed"),
            "split": ("fold", "folds", "test_fraction", "validation_fraction"),
            "weights": ("config", "dtype", "local_files_only", "quantization", "variant"),
            "windows": ("mirrored", "num_frames"),
        }.items()
        for key in keys
    },
}
"""Map from constructor arguments of version 0.1 to their names in version 0.2, which may differ between classes."""


def did_you_mean(path: str) -> str:
    """Suggest a class or function for an unknown class path.

    The suggestion is the new name of a renamed class, or otherwise a similar name.
    """
    module, _, name = path.rpartition(".")
    for old, new in RENAMED.items():
        package, _, was = old.rpartition(".")
        if name == was and path.startswith(f"{package}."):
            return f"; since version 0.2 it is {dict(project_classes())[new]}"
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
