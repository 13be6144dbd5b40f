"""What PLS-LSA and PLS-LSA+ refuse before anything is loaded."""

from collections.abc import Sequence
from typing import Any, get_args

from lightning.pytorch import Trainer

from lightning_modules.interfaces import TrainingImageSource, require
from lightning_modules.noisy_labels.lsa.detection import Detector
from lightning_modules.views.unaugmented import check_unaugmented


def check_settings(
    detectors: Sequence[Detector],
    threshold: float,
    warmup_epochs: int,
    gamma: float,
    guess_views: int,
    mixup_alpha: float,
    contrast_weight: float,
    temperature: float,
    projection_features: int,
    head_lr_factor: float,
) -> None:
    """Refuses arguments that are out of range, by name."""
    known = get_args(Detector)
    if not detectors or any(each not in known for each in detectors):
        raise ValueError(f"detectors must be a list of {' and '.join(known)}, got {list(detectors)}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be in (0, 1), got {threshold}")
    at_least: dict[str, tuple[float, float]] = {
        "warmup_epochs": (warmup_epochs, 1),
        "guess_views": (guess_views, 1),
        "projection_features": (projection_features, 1),
        "mixup_alpha": (mixup_alpha, 0),
        "contrast_weight": (contrast_weight, 0),
    }
    for key, (value, least) in at_least.items():
        if value < least:
            raise ValueError(f"{key} must be at least {least}, got {value}")
    for key, value in {"gamma": gamma, "temperature": temperature, "head_lr_factor": head_lr_factor}.items():
        if value <= 0:
            raise ValueError(f"{key} must be positive, got {value}")


def check_data(trainer: Trainer, module: Any) -> None:
    """Refuses a DataModule that augments images before the module draws its views, or has no images to sweep over.

    Raises:
        TypeError: if it is no `TrainingImageSource`.
        ValueError: if it cuts out parts of random sizes, pads or mirrors.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    name = type(module).__name__
    require(data, TrainingImageSource, name)
    check_unaugmented(data, name)
