"""Certified accuracy against radius, from logs of this project or of others.

    python train.py certified_curves runs/drs/cifar10/*/ [official.tsv ...] --output comparison

draws all logs into one picture and writes their certified accuracy at the radii of a grid, with the upper envelope:
at each radius the best of the logs, which is how tables over several sigmas are made.
"""

import argparse
import json
import math
import sys
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


def overlay(paths: Sequence[Path], output: Path, grid: float = 0.25, alpha: float = 0.001) -> pd.DataFrame:
    """Compares logs: `certified_accuracy.png` and `certified_accuracy.csv` in a directory.

    Args:
        paths: see `read_log`; named by their paths from where they part.
        output: directory to write to.
        grid: distance of the radii in the table, in pixel units.
        alpha: of the certificates of logs that are in no run directory; others say theirs.

    Returns:
        The table, see `accuracy_table`.

    Raises:
        FileNotFoundError: see `read_log`.
        ValueError: if an argument is out of range; see also `read_log`.
    """
    if not 0 < grid < math.inf:
        raise ValueError(f"grid must be positive, got {grid:g}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha:g}")
    names = _short_names(paths)
    logs = dict(zip(names, (read_log(path) for path in paths), strict=True))
    alphas = {name: _own_alpha(path, alpha) for name, path in zip(names, paths, strict=True)}
    furthest = max(float(log["radius"].max()) for log in logs.values())
    radii = [round(grid * step, 10) for step in range(int(furthest / grid) + 1)]
    table = accuracy_table(logs, radii, alphas)
    draw_curves(logs, output / "certified_accuracy.png")
    table.to_csv(output / "certified_accuracy.csv", index=False)
    return table


def _own_alpha(path: Path, otherwise: float) -> float:
    """What the settings say that are in a run directory, or beside a log in one."""
    if path.stem == "certification":
        path = path.parent
    settings = path / "certification_settings.json"
    return json.loads(settings.read_text()).get("alpha", otherwise) if settings.is_file() else otherwise


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Paths without the parts that all of them begin and end with."""
    parts = [list((path.with_suffix("") if path.suffix in (".csv", ".tsv") else path).parts) for path in paths]
    while len(paths) > 1 and all(len(part) > 1 for part in parts) and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    while len(paths) > 1 and all(len(part) > 1 for part in parts) and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    names = ["/".join(part) for part in parts] if len(paths) > 1 else [parts[0][-1]]
    return names if len(set(names)) == len(names) else [f"{name} ({number})" for number, name in enumerate(names, 1)]


def main(args: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="train.py certified_curves", description=__doc__.split("\n")[0])
    parser.add_argument("logs", nargs="+", type=Path, help="run directories, or logs in the published columns")
    parser.add_argument("--output", type=Path, default=Path("."), help="directory for the picture and the table")
    parser.add_argument("--grid", type=float, default=0.25, help="distance of the radii in the table, in pixel units")
    alpha_help = "failure probability of the certificates, of logs that are in no run directory"
    parser.add_argument("--alpha", type=float, default=0.001, help=alpha_help)
    options = parser.parse_args(args)
    try:
        table = overlay(options.logs, options.output, options.grid, options.alpha)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table.pivot(index="log", columns="radius", values="certified_accuracy").round(3).to_string())
    print(f"written: {options.output / 'certified_accuracy.png'}, {options.output / 'certified_accuracy.csv'}")
    return 0
