"""Certified accuracy against radius: logs of certificates, of this project or of others, read, summarised and drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lightning_modules.robustness.smoothing import (
    ABSTAIN,
    accuracy_with_high_probability,
    average_certified_radius,
    certified_accuracy,
)
from lightning_modules.whole_files import save_figure


def read_log(path: Path) -> pd.DataFrame:
    """Reads rows of certificates.

    Whether a prediction is right is found anew, as some projects write a running count into that column; further
    columns are kept, and times are not interpreted.

    Args:
        path: a run directory, our `certification.csv`, or a log in the published columns, separated by tabs.

    Returns:
        At least the columns `idx`, `label`, `predict`, `radius` (pixel units) and `correct` (boolean), a row for each
        image.

    Raises:
        FileNotFoundError: if there is no such log.
        ValueError: if it lacks a column or has no row.
    """
    if path.is_dir():
        named = [path / name for name in ("certification.csv", "certification.tsv") if (path / name).is_file()]
        if not named:
            raise FileNotFoundError(f"{path} has no certification.csv: its certification is not complete")
        path = named[0]
    if not path.is_file():
        raise FileNotFoundError(f"there is no log {path}")
    log = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t")
    log.columns = [str(column).strip() for column in log.columns]
    if missing := [name for name in ("idx", "label", "predict", "radius") if name not in log.columns]:
        raise ValueError(f"{path} is no log of certificates: it lacks the column {', '.join(missing)}")
    for name in ("idx", "label", "predict", "radius"):
        log[name] = pd.to_numeric(log[name], errors="coerce")
    log = log.dropna(subset=["idx", "label", "predict", "radius"])  # an interrupted log ends within a line
    if log.empty:
        raise ValueError(f"{path} has no row")
    log["correct"] = (log["predict"] == log["label"]) & (log["predict"] != ABSTAIN)
    return log.reset_index(drop=True)


def summary(log: pd.DataFrame, radii: Sequence[float]) -> dict[str, float]:
    """The numbers that a certification is known by, under their metrics' names.

    Args:
        log: of `read_log`.
        radii: at which certified accuracy is given, in pixel units.

    Returns:
        `acr` in pixel units, `certified_accuracy_<radius>` and, of our own logs, `abstained`, the share of images of
        which nothing is claimed although their class was not known to be wrong, and `mean_draws` of all images and of
        those whose selected class is right.
    """
    numbers = {"acr": average_certified_radius(log["correct"], log["radius"])}
    accuracies = certified_accuracy(log["correct"], log["radius"], radii)
    for r, accuracy in zip(radii, accuracies, strict=True):
        numbers["certified_accuracy_" + (f"{r:.2f}" if round(r, 2) == r else f"{r:g}")] = float(accuracy)
    if "draws" in log.columns:
        numbers["abstained"] = float(((log["predict"] == ABSTAIN) & (log["outcome"] != "wrong class")).mean())
        numbers["mean_draws"] = float(log["draws"].mean())
        right = log[log["selected"] == log["label"]]
        if len(right):
            numbers["mean_draws_correct"] = float(right["draws"].mean())
    return numbers


def accuracy_table(
    logs: Mapping[str, pd.DataFrame], radii: Sequence[float], alphas: Mapping[str, float]
) -> pd.DataFrame:
    """Certified accuracy of each log at each radius.

    Args:
        logs: by name.
        radii: in pixel units.
        alphas: of the logs' certificates, by the same names.

    Returns:
        Columns `log`, `radius`, `certified_accuracy` and `with_high_probability`, the bound that allows for wrong
        certificates. Of several logs also the rows `envelope`, without that bound, which does not hold for a choice
        among logs.
    """
    tables = []
    for name, log in logs.items():
        accuracy = certified_accuracy(log["correct"], log["radius"], radii)
        bound = accuracy_with_high_probability(accuracy, alphas[name], len(log))
        tables.append(
            pd.DataFrame({"log": name, "radius": radii, "certified_accuracy": accuracy, "with_high_probability": bound})
        )
    if len(logs) > 1:
        best = np.max([table["certified_accuracy"] for table in tables], axis=0)
        tables.append(pd.DataFrame({"log": "envelope", "radius": radii, "certified_accuracy": best}))
    return pd.concat(tables, ignore_index=True)


def draw_curves(logs: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Draws certified accuracy against radius, a curve for each log.

    Args:
        logs: by name, as the legend shows it.
        path: of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot(xlabel="l2 radius (pixel units)", ylabel="certified accuracy")
    furthest = max(float(log["radius"].max()) for log in logs.values())
    for name, log in logs.items():
        steps = np.unique(np.append(log["radius"][log["correct"]], [0.0, 1.05 * furthest]))
        acr = average_certified_radius(log["correct"], log["radius"])
        accuracy = certified_accuracy(log["correct"], log["radius"], steps)
        axes.step(steps, accuracy, where="pre", label=f"{name} (mean radius {acr:.3f}, {len(log):,} images)")
    axes.set_xlim(0, 1.05 * furthest or 1)
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
