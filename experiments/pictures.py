"""Make the pictures in docs/images from runs, as the key `figure` of an entry of a claim file describes.

    figure:
      image: monna
      file: accuracy.csv
      lines: {MoNNA: method, averaging: baseline, clipping: {config: demo.yaml, model.rule: ...}}
      compare: --seeds 0
      axes: {round: communication round, accuracy: accuracy of the honest nodes}
      rows: {honest nodes: mean}
      see: The sentence below the picture.

`image` is the name of the file in docs/images, and `file` is a file in the directory of a run. Without `lines`, the
picture shows the arm `method` of the entry. `lines` names several arms: `method`, `baseline`, or a configuration with
overrides. `compare` has the arguments of `compare`; without it, each arm is run once with `fit` or `test`. In
overrides, DATA means the NOISEWORKS_DATA directory. An entry with the keys `method` and `figure` alone is no claim.

A table (.csv) is plotted with one colour per run, in the order of `lines`. `axes` lists the column of the horizontal
axis, and then one column per panel. If the display name of a column ends in `(log scale)`, its axis is logarithmic.
`rows` selects rows of the table. For `metrics.csv`, the columns are `epoch` and metrics. For `certification.csv`, they
are `radius` and `certified accuracy`. Figures (.png) of the runs are placed below or next to each other.
`rows: {height: 40 %}` keeps only the upper part of figures. For `table.png` and `comparison.png`, `axes` sets the
display names of keys and metrics, and `lines` those of methods.
"""

import itertools
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.files.whole_files import whole_file
from experiments.catalogue import Method
from experiments.claims.arms import Arm, stated_arm
from experiments.claims.statements import entries_of
from experiments.launching.run_queue import TRAIN
from experiments.results import choose_from

if TYPE_CHECKING:
    import pandas as pd

MAX_BYTES = 100_000
MANY_COLOURS = 20_000
"""Number of colours above which a picture is assumed to contain photographs. Drawings have fewer colours."""
KEYS = ("image", "file", "see", "lines", "compare", "axes", "rows")
LOG = " (log scale)"
STYLES = ("-", ":", "--", "-.")
FEW = 9
"""A line with at least this number of points is drawn without markers."""


@dataclass(frozen=True)
class Picture:
    """A picture in docs/images, and the settings from which it is made.

    Args:
        name: name of the file in docs/images, without suffix.
        arms: configurations with overrides, whose runs are shown.
        source: file in the run directory.
        compare: arguments of `compare` after the configurations. If empty, each arm is run once.
        lines: display names of the arms. If empty, a single arm is shown.
        axes: display names of columns, keys or metrics.
        rows: required value of each text column in the selected rows.
        see: sentence below the picture.
    """

    name: str
    arms: tuple[Arm, ...]
    source: str
    compare: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    axes: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=dict)
    see: str = ""

    @property
    def command(self) -> str:
        """Command that writes the file `source`."""
        if self.compare:
            given = [shlex.quote(str(each)) if each.overrides else str(each) for each in self.arms]
            return " ".join(["python train.py compare", *given, *self.compare])
        tested = {"fit": " --test_after_fit true", "test": ""}
        return " && ".join(
            f"python train.py {each.command} --config {each}{tested[each.command]}" for each in self.arms
        )


def pictures_of_methods(methods: Sequence[Method], project: Path) -> Iterator[Picture]:
    """Yield the pictures whose first arm is a configuration of the methods."""
    paths = [config.path for method in methods for config in method.configs]
    for folder in dict.fromkeys(path.parent for path in paths):
        if not (file := project / folder / "claim.yaml").is_file():
            continue
        for where, entry in entries_of(file):
            if "figure" in entry:
                picture = _picture(entry, folder, where, project)
                if picture.arms[0].config in paths:
                    yield picture


def _picture(entry: Mapping[str, Any], folder: Path, where: str, project: Path) -> Picture:
    figure = entry["figure"]
    if not isinstance(figure, Mapping):
        raise ValueError(f"{where}: figure must be a mapping with the keys {', '.join(KEYS)}, got {figure!r}")
    for key in (*figure, *KEYS[:3]):
        if key not in KEYS:
            raise ValueError(f"{where}: figure has the unknown key {key}{choose_from(str(key), KEYS, 'keys')}")
        if key not in figure:
            raise ValueError(f"{where}: figure lacks the key {key}")
    named = figure.get("lines", {"": "method"})
    arms = []
    for each in named.values():
        stated = entry.get(each) if each in ("method", "baseline") else each
        own = stated_arm(stated, project / folder, f"{where}: figure")
        arms.append(replace(own, config=own.config.relative_to(project)))
    axes, rows = ({str(key): str(value) for key, value in figure.get(name, {}).items()} for name in ("axes", "rows"))
    compare, lines = tuple(shlex.split(figure.get("compare", ""))), tuple(figure.get("lines", ()))
    return Picture(figure["image"], tuple(arms), figure["file"], compare, lines, axes, rows, figure["see"])


def make_picture(picture: Picture, runs: Path, project: Path) -> None:
    """Make a picture from its runs in a folder, and start the runs if they do not exist."""
    # relative, as a user would write it, so that existing runs are found
    arms = [replace(each, config=Path(os.path.relpath(project / each.config))) for each in picture.arms]
    folders = [runs / each.config.parent.name / each.directory for each in arms]
    run = folders[0]
    source = run / picture.source
    if picture.compare:
        arguments = [*map(str, arms), "--output", str(run), *picture.compare]
        subprocess.run([*TRAIN, "compare", *arguments], check=True)
        if picture.axes or picture.lines:
            source = _draw(picture, arguments, run)
    else:
        data = os.environ.get("NOISEWORKS_DATA", "DATA")
        for each, own in zip(arms, folders, strict=True):
            if not (own / "test_metrics.csv").is_file():
                given = [text.replace("DATA/", f"{data}/") for text in each.arguments]
                more = ["--test_after_fit", "true"] if each.command == "fit" else []
                subprocess.run([*TRAIN, each.command, *given, "--run_directory", str(own), *more], check=True)
        files = dict(zip(picture.lines or [""], ([own / picture.source] for own in folders), strict=True))
        if source.suffix == ".csv":
            source = _draw_tables(files, picture, run / "picture.png")
        elif picture.lines or picture.rows:
            source = _put_together(files, picture, run / "picture.png")
    shrink(source, project / f"docs/images/{picture.name}.png")


def _draw(picture: Picture, arguments: Sequence[str], output: Path) -> Path:
    """Draw a picture of all runs of a comparison."""
    from experiments.commands import parse
    from experiments.compare import collect, plan_runs
    from experiments.figures import draw_comparison
    from experiments.method_table import swept_keys
    from experiments.results import chosen
    from experiments.run_request import load_experiments
    from experiments.sweeps.figures import draw_heat_maps, draw_lines
    from experiments.sweeps.variations import variation, vary_experiments

    options = parse("compare", arguments)
    experiments = load_experiments(options.configs, options.overrides)
    experiments = vary_experiments(experiments, [variation(text) for text in options.vary], options.overrides)
    planned = plan_runs(experiments, options.seeds, output)
    path = output / "picture.png"
    if picture.source in ("table.png", "comparison.png"):
        labels = dict.fromkeys(each.label for each in experiments)
        words = {**picture.axes, **dict(zip(labels, picture.lines, strict=False))}
        results = chosen(collect(planned, options.metrics), options.metrics)
        if picture.source == "comparison.png":
            draw_comparison(results, path, words)
        else:
            draw = draw_lines if len(swept_keys(experiments)) == 1 else draw_heat_maps
            draw(results, experiments, path, words)
        return path
    files: dict[str, list[Path]] = {}
    for run in planned:
        files.setdefault(run.experiment.title, []).append(run.directory / picture.source)
    if picture.lines:
        if len(picture.lines) != len(files):
            raise ValueError(f"{picture.name} names {len(picture.lines)} lines, but {len(files)} are drawn")
        files = dict(zip(picture.lines, files.values(), strict=True))
    return (_draw_tables if picture.source.endswith(".csv") else _put_together)(files, picture, path)


def _put_together(files: Mapping[str, Sequence[Path]], picture: Picture, path: Path) -> Path:
    """Arrange the named figures of the runs with the first seed in a column, or in a row if the figures are tall."""
    from matplotlib.font_manager import findfont
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    figures = {line: Image.open(_existing(own[0], picture)).convert("RGB") for line, own in files.items()}
    if kept := picture.rows.get("height"):
        share = float(kept.rstrip(" %")) / 100
        figures = {line: each.crop((0, 0, each.width, round(share * each.height))) for line, each in figures.items()}
    width, height = next(iter(figures.values())).size
    below = width > 1.5 * height
    size = round(max(20, (width if below else len(figures) * width) / 50))
    font, bar = ImageFont.truetype(findfont("DejaVu Sans"), size), round(1.6 * size) * any(figures)
    scaled = [ImageOps.scale(each, width / each.width if below else height / each.height) for each in figures.values()]
    if below:
        total = (width, sum(bar + each.height for each in scaled))
    else:
        total = (sum(each.width for each in scaled), bar + height)
    whole, x, y = Image.new("RGB", total, "white"), 0, 0
    for line, each in zip(figures, scaled, strict=True):
        ImageDraw.Draw(whole).text((x + size // 2, y + bar // 5), line, fill="black", font=font)
        whole.paste(each, (x, y + bar))
        x, y = (0, y + bar + each.height) if below else (x + each.width, 0)
    whole.save(path)
    return path


def _draw_tables(files: Mapping[str, Sequence[Path]], picture: Picture, path: Path) -> Path:
    """Draw one panel per column of tables, with a colour per run and a line style per value of the text columns.

    If there are several seeds, mean ± std is drawn.
    """
    import pandas as pd

    from experiments.figures import draw_mean, legend_above, panels

    across, *columns = picture.axes
    figure, axes = panels(len(columns), width=3.9 if len(columns) > 1 else 5.4, height=2.9)
    styles: dict[str, str] = {}
    for number, (line, own) in enumerate(files.items()):
        by_text = list(_by_text([_table(file, picture) for file in own]))
        for text, seeds in by_text:
            style = styles.setdefault(text, STYLES[len(styles) % len(STYLES)])
            for column, ax in zip(columns, axes, strict=False):
                values = pd.concat([each.set_index(across)[column].dropna() for each in seeds], axis=1)
                # the first run (the method) is drawn as a thin line in front, so that an identical line behind it
                # remains visible
                front: dict[str, Any] = {"linewidth": 2.4 if number else 1.7, "zorder": 3 - 0.1 * number}
                front |= {"marker": "o", "markersize": 5} if len(values) < FEW else {}
                front["label"] = line if line and text == by_text[0][0] else None
                draw_mean(ax, values, linestyle=style, color=f"C{number}", **front)
    for column, ax in zip(columns, axes, strict=False):
        ax.set_xlabel(picture.axes[across].removesuffix(LOG), fontsize=10)
        ax.set_title(picture.axes[column].removesuffix(LOG), fontsize=10, loc="left")
        if picture.axes[across].endswith(LOG):
            ax.set_xscale("log")
        elif across == "epoch":
            ax.xaxis.get_major_locator().set_params(integer=True)
        bottom, top = ax.get_ylim()
        if picture.axes[column].endswith(LOG):
            ax.set_yscale("log")
        elif 0 < bottom < 0.4 * top:
            ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
        ax.margins(x=0.02)
    if len(styles) > 1:
        for text, style in styles.items():
            axes[0].plot([], [], style, color="0.3", label=text)
    if axes[0].get_legend_handles_labels()[1]:
        legend_above(figure, axes[0])
    figure.savefig(path, dpi=120)
    return path


def _by_text(tables: Sequence["pd.DataFrame"]) -> Iterator[tuple[str, list["pd.DataFrame"]]]:
    """Group the rows of several seeds' tables by the values of their text columns."""
    text = [name for name in tables[0] if name not in tables[0].select_dtypes("number")]
    if not text:
        yield "", list(tables)
        return
    keys = [table[text].astype(str).agg(", ".join, axis=1) for table in tables]
    for key in keys[0].unique():
        yield key, [table[own == key] for table, own in zip(tables, keys, strict=True)]


def _table(file: Path, picture: Picture) -> "pd.DataFrame":
    """Read the columns of the axes and the text columns from a table of a run."""
    import pandas as pd

    from experiments.results import read_curves

    _existing(file, picture)
    if file.name == "metrics.csv":
        table = pd.DataFrame(read_curves(file)).rename_axis("epoch").sort_index().reset_index()
        return table[list(picture.axes)]
    if file.name == "certification.csv":
        return _certify(file)
    table = pd.read_csv(file)
    for name, value in picture.rows.items():
        table = table[table[name].astype(str) == value].drop(columns=name)
    return table[[name for name in table if name in picture.axes or name not in table.select_dtypes("number")]]


def _existing(file: Path, picture: Picture) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; the picture {picture.name} needs it")
    return file


def _certify(file: Path) -> "pd.DataFrame":
    """Compute the certified accuracy at equally spaced radii from a certification log."""
    import numpy as np
    import pandas as pd

    log = pd.read_csv(file)
    radii = np.linspace(0, 1.05 * log["radius"].max(), 400)
    certified = log["correct"].to_numpy(bool) & (log["radius"].to_numpy() >= radii[:, None])
    return pd.DataFrame({"radius": radii, "certified accuracy": certified.mean(axis=1)})


def shrink(source: Path, target: Path) -> None:
    """Copy a picture with at most `MAX_BYTES`, at most 1,000 pixels in width, and as many colours as possible."""
    from PIL import Image

    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    photographs = picture.getcolors(MANY_COLOURS) is None
    for width, colours in itertools.product((1000, 800, 600, 400), (256, 64, 32)):
        picture.thumbnail((width, 10_000), Image.Resampling.LANCZOS)
        with whole_file(target) as partial:
            if photographs:
                few = picture.quantize(colours, Image.Quantize.MEDIANCUT)
            else:  # the method "maximum coverage" keeps the colours of thin lines
                few = picture.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            few.save(partial, optimize=True)
        if target.stat().st_size <= MAX_BYTES:
            return
    raise ValueError(f"{source} has more than {MAX_BYTES} bytes even at a width of 400 pixels with 32 colours")
