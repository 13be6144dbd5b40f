"""Compare certification logs of this project or of other projects in one figure and one table."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.arguments import within
from datamodules.files.whole_files import write_csv

if TYPE_CHECKING:
    import pandas as pd

MOST_STEPS = 1_000_000
"""Maximum number of rows of the table that may belong to one log."""


def overlay(
    paths: Sequence[Path], output: Path, grid: float = 0.25, alpha: float = 0.001, figure_format: str = "png"
) -> "pd.DataFrame":
    """Write `certified_accuracy.<figure_format>` and `certified_accuracy.csv` for several logs to a directory.

    Args:
        paths: run directories or logs, see `read_log`. A log is named by its path, without the leading and trailing
            parts that all paths have in common.
        output: directory to write to.
        grid: spacing of the radii in the table, in pixel units.
        alpha: failure probability of each certificate. It is used for logs outside run directories; run directories
            record their own value.
        figure_format: png, or pdf or svg in the width of a column, see `datamodules.files.whole_files`.

    Returns:
        The table, see `accuracy_table`.

    Raises:
        FileNotFoundError: if there is no log at a path.
        ValueError: if an argument is out of range or a log is damaged.
    """
    from callbacks.certification.curves import accuracy_table, common_images, draw_certified_curves, read_log

    within(0, math.inf, "()", grid=grid)
    within(0, 1, "()", alpha=alpha)
    names = _short_names(paths)
    logs = dict(zip(names, (read_log(path) for path in paths), strict=True))
    settings = {name: _own_settings(path, alpha) for name, path in zip(names, paths, strict=True)}
    if any(len(log) > len(common_images(logs)) for log in logs.values()):
        counts = ", ".join(f"{name} {len(log):,}" for name, log in logs.items())
        print(
            f"warning: the logs cover different images ({counts}; {len(common_images(logs)):,} in all of them): "
            f"their curves cannot be compared, and the envelope covers only the common images, if there are any",
            file=sys.stderr,
        )
    furthest = max(float(log["radius"].max()) for log in logs.values())
    if furthest / grid > MOST_STEPS:
        raise ValueError(
            f"grid {grid:g} gives more than {MOST_STEPS} radii up to {furthest:g}, the largest radius; increase grid"
        )
    steps = range(int(furthest / grid) + 2)  # +2 because 0.3 / 0.1 is below 3 in floating point
    radii = [radius for step in steps if (radius := round(grid * step, 10)) <= furthest]
    table = accuracy_table(logs, radii, settings)
    draw_certified_curves(logs, output / f"certified_accuracy.{figure_format}", settings)
    write_csv(output / "certified_accuracy.csv", table)
    return table


def _own_settings(path: Path, alpha: float) -> dict[str, Any]:
    """Read the settings of a run directory, or of a log inside one. For other logs, return only the given alpha."""
    if path.stem == "certification":
        path = path.parent
    settings = path / "certification_settings.json"
    return {"alpha": alpha, **(_check(settings) if settings.is_file() else {})}


def _check(path: Path) -> dict[str, Any]:
    """Read the settings of a log, and reject values that the figure or its legend cannot show."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must contain the settings of a certification, got a {type(found).__name__}")
    for key in ("certificate", "mode"):
        if not isinstance(found.get(key, ""), str):
            raise ValueError(f"{path}: {key} must be text, got {str(found[key])[:40]}")
    for key in ("alpha", "grid", "radius", "largest_radius", "sigma"):
        value = found.get(key)
        if key in found and not (value is None and key == "radius") and not _positive(value):
            raise ValueError(f"{path}: {key} must be a positive number, got {str(value)[:40]}")
    within(0, 1, "()", **{f"{path}: alpha": found.get("alpha")})
    return found


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return the paths without those leading and trailing parts that are common to all paths."""
    whole = [path.absolute() for path in paths]  # because "." has no parts
    parts = [list((path.with_suffix("") if path.suffix in (".csv", ".tsv") else path).parts) for path in whole]
    if len(parts) == 1:
        return [parts[0][-1]]
    for end in (0, -1):
        while all(len(part) > 1 for part in parts) and len({part[end] for part in parts}) == 1:
            for part in parts:
                part.pop(end)
    names = ["/".join(part) for part in parts]
    return names if len(set(names)) == len(names) else [f"{name} ({number})" for number, name in enumerate(names, 1)]
