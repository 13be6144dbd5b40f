"""Compares logs of certificates, of this project or of others, in one picture and one table.

    python train.py certified_curves runs/drs/cifar10/*/ [official.tsv ...] --output comparison

draws certified accuracy against radius of all logs and writes it at the radii of a grid, with the upper envelope: at
each radius the best of the logs, which is how tables over several sigmas are made.

Written to the output directory: certified_accuracy.png, certified_accuracy.csv.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from callbacks.certified_curves import accuracy_table, draw_curves, read_log
from experiments.arguments import ArgumentParser
from experiments.results import write_text

OUTPUT = Path("runs", "certified_curves")


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
    write_text(output / "certified_accuracy.csv", table.to_csv(index=False))
    return table


def _own_alpha(path: Path, otherwise: float) -> float:
    """What the settings say that are in a run directory, or beside a log in one."""
    if path.stem == "certification":
        path = path.parent
    settings = path / "certification_settings.json"
    return json.loads(settings.read_text()).get("alpha", otherwise) if settings.is_file() else otherwise


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Paths without the parts that all of them begin and end with."""
    whole = [path.absolute() for path in paths]  # "." has no parts
    parts = [list((path.with_suffix("") if path.suffix in (".csv", ".tsv") else path).parts) for path in whole]
    while len(paths) > 1 and all(len(part) > 1 for part in parts) and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    while len(paths) > 1 and all(len(part) > 1 for part in parts) and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    names = ["/".join(part) for part in parts] if len(paths) > 1 else [parts[0][-1]]
    return names if len(set(names)) == len(names) else [f"{name} ({number})" for number, name in enumerate(names, 1)]


def main(argv: Sequence[str]) -> int:
    """The subcommand.

    Args:
        argv: what follows `train.py certified_curves`.

    Returns:
        Exit status: 0, or 2 for bad input.
    """
    parser = ArgumentParser(prog="train.py certified_curves", description=__doc__)
    parser.add_argument("logs", nargs="+", type=Path, help="run directories, or logs in the published columns")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT}")
    parser.add_argument("--grid", type=float, default=0.25, help="distance of the radii in the table, in pixel units")
    alpha_help = "failure probability of the certificates, of logs that are in no run directory"
    parser.add_argument("--alpha", type=float, default=0.001, help=alpha_help)
    try:
        options = parser.parse_args(argv)
        table = overlay(options.logs, options.output, options.grid, options.alpha)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table.pivot(index="log", columns="radius", values="certified_accuracy").round(3).to_string())
    print(f"written: {options.output / 'certified_accuracy.png'}, {options.output / 'certified_accuracy.csv'}")
    return 0
