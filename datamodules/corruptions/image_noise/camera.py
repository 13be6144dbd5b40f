"""Noise parameters of cameras.

The parameters of several cameras are bundled. Other cameras can be calibrated by the user.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from datamodules.arguments import ascending, positive
from datamodules.files.text_files import read_text
from datamodules.files.whole_files import write_text

BUNDLED = Path(__file__).with_name("cameras.yaml")
Line = tuple[float, float, float]
"""Linear fit of a log scale to the log gain: slope, intercept and standard deviation of the residuals."""


@dataclass(frozen=True)
class Camera:
    """The noise parameters of a camera, in digital numbers above its black level.

    Args:
        gain: lowest and highest system gain K, in digital numbers per electron.
        read: scale of the read noise, which has a Tukey lambda distribution.
        row: standard deviation of the row noise.
        gaussian: standard deviation of the total noise in the dark, for the Gaussian noise model.
        tukey_lambda: shape parameters of the distribution of read noise, one per recording, ordered by gain.
        colour_bias: colour bias of R, G, B, G, with one row per recording, ordered by gain.
        levels: white level minus black level, in digital numbers. None if this difference is unknown.
    """

    gain: tuple[float, float]
    read: Line
    row: Line
    gaussian: Line
    tukey_lambda: tuple[float, ...]
    colour_bias: tuple[tuple[float, ...], ...]
    levels: float | None = None

    def __post_init__(self) -> None:
        ascending(0, math.inf, "()", gain=self.gain)
        positive(levels=self.levels)
        for name in ("read", "row", "gaussian"):
            line = getattr(self, name)
            if len(line) != 3 or line[2] < 0:
                raise ValueError(f"{name} must be slope, intercept and spread, with spread >= 0, got {list(line)}")
        if not self.tukey_lambda or len(self.tukey_lambda) != len(self.colour_bias):
            raise ValueError("tukey_lambda and colour_bias must have one entry per recording, and at least one entry")
        if min(self.tukey_lambda) <= -0.5 or any(len(row) != 4 for row in self.colour_bias):
            raise ValueError("tukey_lambda must be above -0.5, and colour_bias must have four numbers per row")

    def save(self, path: str | Path) -> None:
        """Write the parameters to a YAML file, which the function `camera` can read."""
        write_text(Path(path), yaml.safe_dump(_lists(asdict(self)), sort_keys=False, default_flow_style=None))


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(each) for key, each in value.items() if each is not None}
    return [_lists(each) for each in value] if isinstance(value, tuple | list) else float(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def camera(name: str) -> Camera:
    """Read the parameters of a camera.

    Args:
        name: name of a bundled camera, such as `SonyA7S2`, or path of a file written by `Camera.save`.
    """
    bundled = yaml.safe_load(BUNDLED.read_text())
    if name in bundled:
        values = bundled[name]
    elif Path(name).expanduser().is_file():
        try:
            values = yaml.safe_load(read_text(Path(name).expanduser()))
        except (yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"{name} is not a camera file ({' '.join(str(error).split())})") from error
    else:
        raise ValueError(f"camera must be one of {', '.join(bundled)}, or the path of your own camera file, got {name}")
    try:
        return Camera(**{key: _tuples(value) for key, value in values.items()})
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{name} is not a camera file ({error}); write one with Camera.save") from error
