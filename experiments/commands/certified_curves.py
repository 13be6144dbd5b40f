"""Compare certification logs of this project or of other projects in one figure and one table.

    python train.py certified_curves runs/drs/cifar10/*/ [official.tsv ...] --output comparison

The command plots the certified accuracy of each log as a function of the radius, and writes a table of the accuracy on
a grid of radii. An additional row, the envelope, contains the highest accuracy of all logs at each radius, computed on
the images that all logs have in common. Published tables over several sigmas contain such a row.

The output directory contains certified_accuracy.png and certified_accuracy.csv.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from experiments.arguments import add_figure_format

OUTPUT = Path("runs", "certified_curves")


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("logs", nargs="+", type=Path, help="run directories, or logs with the published columns")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT}")
    parser.add_argument(
        "--grid", type=float, default=0.25, help="step of the table's radii, in pixel units; default: 0.25"
    )
    alpha_help = "failure probability of the certificates in logs outside run directories; default: 0.001"
    parser.add_argument("--alpha", type=float, default=0.001, help=alpha_help)
    add_figure_format(parser)


def run(options: Namespace) -> int:
    from callbacks.certification.compare import overlay
    from datamodules.files.whole_files import owned_path

    with owned_path(options.output):
        table = overlay(options.logs, options.output, options.grid, options.alpha, options.figure_format)
    loose = table["tight"].eq(False)
    table["shown"] = [
        f"{'>= ' * low}{share:.3f}" for share, low in zip(table["certified_accuracy"], loose, strict=True)
    ]
    reason = " (>=: only a lower bound, because the mode of the log used fewer samples at this radius)"
    print("certified accuracy" + reason * bool(loose.any()))
    print(table.pivot(index="log", columns="radius", values="shown").to_string())
    print("lower bound with high probability, allowing for wrong certificates")
    bounds = table.pivot(index="log", columns="radius", values="with_high_probability")
    print(bounds.drop("envelope", errors="ignore").round(3).to_string(na_rep="no guarantee"))
    print(f"written: {options.output / 'certified_accuracy.png'}, {options.output / 'certified_accuracy.csv'}")
    return 0
