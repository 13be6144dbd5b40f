"""Read certification logs of any project, summarise certified accuracy, and plot it as a function of the radius."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.files.limits import sentence
from datamodules.files.whole_files import save_in_format
from lightning_modules.robustness.certificates.statistics import (
    ABSTAIN,
    accuracy_with_high_probability,
    average_certified_radius,
    certified_accuracy,
)

NO_GUARANTEE = "not a guarantee"
"""Text in the `certificate` of a `SmoothedClassifier` whose radii come from a formula without a proof."""
NUMBERS = ["idx", "label", "predict", "radius"]
"""Columns that every certification log has."""
LARGEST_RADIUS = 100_000.0
"""Upper bound of the radii in a log, in pixel units: no two RGB images of 3e9 pixels are further apart."""
MOST_NUMBER = 2**31 - 1
Settings = Mapping[str, Any]
"""Settings common to all rows, from `certification_settings.json`; for logs of other projects, at least `alpha`."""


def read_log(path: Path) -> pd.DataFrame:
    """Read a certification log.

    The column `correct` is recomputed, because some projects write a running count into this column. In logs of other
    projects, radius 0 counts as an abstention: some of these projects write the selected class even if the classifier
    abstains. Additional columns are kept, and times are not parsed. An incomplete last line, which can remain after an
    interruption, is ignored.

    Args:
        path: a run directory, a `certification.csv` of this project, or a tab-separated log with the published columns.

    Returns:
        A table with one row for each image and at least the columns `idx`, `label`, `predict`, `radius` (in pixel
        units) and `correct` (boolean).

    Raises:
        FileNotFoundError: if there is no log at `path`.
        ValueError: if the log lacks a column, has no rows or a damaged line, or has two rows for one image.
    """
    if path.is_dir():
        path = path / "certification.csv"
        if not path.is_file():
            begun = (path.parent / "certification_settings.json").is_file()
            why = "its certification is incomplete" if begun else "test with configs/callbacks/certification.yaml first"
            raise FileNotFoundError(f"{path.parent} has no certification.csv: {why}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no log or run directory {path}")
    separator = "," if path.suffix == ".csv" else "\t"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # an unterminated last line is incomplete
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a certification log: it is not UTF-8 text ({error})") from error
    columns = [column.strip() for column in lines[0].split(separator)] if lines else []
    if missing := [name for name in NUMBERS if name not in columns]:
        raise ValueError(f"{path} is not a certification log: it lacks the column {', '.join(missing)}")
    if len(lines) == 1:
        raise ValueError(f"{path} has no rows")
    for number, line in enumerate(lines, start=1):
        if line.count(separator) != lines[0].count(separator):
            raise ValueError(f"line {number} of {path} is damaged: remove it to leave its image out")
    try:
        log = pd.read_csv(io.StringIO("\n".join(lines)), sep=separator, names=columns, header=0)
        log[NUMBERS] = log[NUMBERS].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    except Exception as error:  # pandas raises many types of exceptions
        raise ValueError(f"{path} is not a certification log ({sentence(error)})") from error
    if (damaged := ~_possible(log)).any():
        raise ValueError(f"line {damaged.argmax() + 2} of {path} is damaged: remove it to leave its image out")
    if log["idx"].duplicated().any():
        raise ValueError(f"{path} has several rows for image {log['idx'][log['idx'].duplicated()].iloc[0]:g}")
    ours = "outcome" in log.columns or path.with_name("certification_settings.json").is_file()
    if not ours:
        log.loc[log["radius"] == 0, "predict"] = ABSTAIN
    log["correct"] = (log["predict"] == log["label"]) & (log["predict"] != ABSTAIN)
    return log


def _possible(log: pd.DataFrame) -> pd.Series:
    """Check each row: position and classes must be whole numbers, and the radius must be possible for images."""
    whole, radius = log[["idx", "label", "predict"]], log["radius"]
    fits = (whole == np.floor(whole)) & (whole >= ABSTAIN) & (whole <= MOST_NUMBER)
    return fits.all(axis=1) & (radius >= 0) & (radius <= LARGEST_RADIUS)


def certification_summary(log: pd.DataFrame, radii: Sequence[float]) -> dict[str, float]:
    """Compute the summary metrics of a certification, by name.

    Args:
        log: a log from `read_log`.
        radii: radii of the certified accuracies, in pixel units.

    Returns:
        `acr` in pixel units and `certified_accuracy_<radius>`. Logs of this project also give `abstained`, the fraction
        of images on which the classifier abstains although the selected class is not known to be wrong; `mean_draws`,
        the mean number of noise samples per image; and `mean_draws_correct`, the same mean over the images whose
        selected class is correct.
    """
    numbers = {"acr": average_certified_radius(log["correct"], log["radius"])}
    accuracies = certified_accuracy(log["correct"], log["radius"], radii)
    numbers |= {accuracy_name(r): float(accuracy) for r, accuracy in zip(radii, accuracies, strict=True)}
    if "draws" in log.columns:
        numbers["abstained"] = float(((log["predict"] == ABSTAIN) & (log["outcome"] != "wrong class")).mean())
        numbers["mean_draws"] = float(log["draws"].mean())
        right = log[log["selected"] == log["label"]]
        if len(right):
            numbers["mean_draws_correct"] = float(right["draws"].mean())
    return numbers


def accuracy_name(radius: float) -> str:
    """Return the name of the metric for the certified accuracy at a radius."""
    return "certified_accuracy_" + (f"{radius:.2f}" if round(radius, 2) == radius else f"{radius:g}")


def is_tight(settings: Settings, radius: float | None) -> bool:
    """Return whether a log's certified accuracy is close to the value that infinitely many noise samples would give.

    If it is not, the certified accuracy is only a lower bound.

    See `adaptive_sampling.py`.

    Args:
        settings: settings recorded for the log.
        radius: radius in pixel units; None checks the average certified radius instead of a certified accuracy.
    """
    if "grid" in settings:
        return radius is not None and math.isclose(radius, settings["grid"] * round(radius / settings["grid"]))
    if settings.get("radius") is not None:
        return radius is not None and math.isclose(radius, settings["radius"])
    return settings.get("largest_radius", math.inf) >= (math.inf if radius is None else radius)


def is_guarantee(settings: Settings) -> bool:
    """Return whether the radii of a log are certified; false means that their formula has no proof."""
    return NO_GUARANTEE not in settings.get("certificate", "")


def accuracy_table(
    logs: Mapping[str, pd.DataFrame], radii: Sequence[float], settings: Mapping[str, Settings]
) -> pd.DataFrame:
    """Tabulate the certified accuracy of each log at each radius.

    Args:
        logs: certification logs by name.
        radii: radii to tabulate, in pixel units.
        settings: settings of the logs, by the same names.

    Returns:
        Table with columns `log`, `certificate`, `num_images`, `radius`, `certified_accuracy`, `tight` (see `is_tight`)
        and `with_high_probability`. The last column is a lower bound that allows for wrong certificates; it is NaN for
        radii without a guarantee. With several logs, the rows `envelope` contain the highest accuracy of all logs at
        each radius, computed on the images common to all logs. An `envelope` row is tight if all logs are tight at its
        radius. Its `with_high_probability` is empty, because the bound does not hold if the best log is selected at
        each radius.
    """
    tables = []
    for name, log in logs.items():
        accuracy = certified_accuracy(log["correct"], log["radius"], radii)
        bound = accuracy_with_high_probability(accuracy, settings[name]["alpha"], len(log))
        row = {
            "log": name,
            "certificate": settings[name].get("certificate", ""),
            "num_images": len(log),
            "radius": radii,
            "certified_accuracy": accuracy,
            "tight": [is_tight(settings[name], radius) for radius in radii],
            "with_high_probability": bound if is_guarantee(settings[name]) else math.nan,
        }
        tables.append(pd.DataFrame(row))
    common = common_images(logs)
    if len(logs) > 1 and common:
        on_common = [log[[pair in common for pair in _images(log)]] for log in logs.values()]
        best = np.max([certified_accuracy(log["correct"], log["radius"], radii) for log in on_common], axis=0)
        certificates = sorted({one.get("certificate", "") for one in settings.values()} - {""})
        columns = {"certificate": "; ".join(certificates), "num_images": len(common), "radius": radii}
        tight = [all(is_tight(one, radius) for one in settings.values()) for radius in radii]
        tables.append(pd.DataFrame({"log": "envelope", **columns, "certified_accuracy": best, "tight": tight}))
    return pd.concat(tables, ignore_index=True)


def _images(log: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(log["idx"].astype(int), log["label"].astype(int), strict=True))


def common_images(logs: Mapping[str, pd.DataFrame]) -> set[tuple[int, int]]:
    """Return the position and the label of each image that is in all logs."""
    return set.intersection(*(set(_images(log)) for log in logs.values()))


def draw_certified_curves(logs: Mapping[str, pd.DataFrame], path: Path, settings: Mapping[str, Settings]) -> None:
    """Plot certified accuracy as a function of the radius, with one curve per log.

    Args:
        logs: certification logs by name. The legend shows the names.
        path: image file to write.
        settings: settings of the logs, by the same names.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot(xlabel="l2 radius (pixel units)", ylabel="certified accuracy")
    furthest = max(float(log["radius"].max()) for log in logs.values())
    for name, log in logs.items():
        steps = np.unique(np.append(log["radius"][log["correct"]], [0.0, 1.05 * furthest]))
        acr = average_certified_radius(log["correct"], log["radius"])
        accuracy = certified_accuracy(log["correct"], log["radius"], steps)
        axes.step(steps, accuracy, where="pre", label=_legend(name, acr, len(log), settings[name]))
    axes.set_xlim(0, 1.05 * furthest or 1)
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
    save_in_format(figure, path)


def _legend(name: str, acr: float, num_images: int, settings: Settings) -> str:
    sigma = f"sigma {settings['sigma']:g}" if "sigma" in settings else ""
    heading = ", ".join(part for part in (name, sigma if sigma not in name else "", settings.get("mode", "")) if part)
    bound = "" if is_tight(settings, None) else ">= "
    certificate = f"\n{settings['certificate']}" if "certificate" in settings else ""
    return f"{heading} (mean radius {bound}{acr:.3f}, {num_images:,} images){certificate}"
