"""Audit the label of every training image by cross-validation, or merge the label reports of all folds.

    python train.py label_report configs/own_data/classes.yaml --folds 5 --output runs/audit \\
        -- --data.images.data_dir my_images
    python train.py fit --config configs/own_data/classes.yaml --config runs/audit/cleaned_labels.yaml \\
        --data.images.data_dir my_images

Each label is judged by a network that was not trained on it. The images are divided into folds, stratified by given
label and determined by --seed. Each fold is held out by one run, and the runs are those of `compare`: they are started
by the same launchers, and a repeated command keeps finished runs and resumes the others. Arguments after `--` override
settings of the configuration. Images that belong together, such as those of one patient, video or near-duplicates, may
be in different folds. A network may then have seen a false label on a copy of the image, and does not suspect it. If
the configuration chooses a checkpoint by validation metrics, it chooses it on the held-out fold;
`--checkpoint.test_checkpoint last` avoids this.

The output directory contains `label_report.csv`, with the most suspicious label first and the same columns as the
reports of the runs. Its column `row` identifies an image, whereas its column `index` is the position of the image
within a fold. `label_probabilities.npy` contains the out-of-fold class probabilities, `[N, K]`, in the order of `row`.
If cleanlab is installed, its filter is applied to them, as the column `suspected_by_cleanlab`. `cleaned_labels.csv`
lists `keep`, `relabel` or `drop` for each label, with file and class names. If you have corrected this file by hand, it
is never overwritten. `cleaned_labels.yaml` is a layer that trains on these labels.

Runs that you have started yourself, with `data.split.folds` and `configs/callbacks/label_report.yaml`, are merged by

    python train.py label_report runs/folds

into the given folder, or into the folder --output, which is required for several folders.

`--html` also writes `label_report.html`, a page of thumbnails with the labels of the dataset and the proposed labels,
with the most suspicious labels first. The page can be opened in any browser, without a network. For a single run that
has a report, the command writes only this page:

    python train.py label_report runs/labels --html

The command prints the estimated fraction of wrong labels, with a 95 % bootstrap interval over images.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.arguments import ArgumentParser, positive_number, seed
from experiments.claims.arms import arm
from experiments.compare import plan_runs
from experiments.config_files import locate_config
from experiments.launching.launchers import add_arguments, launcher
from experiments.launching.preflight import preflight
from experiments.launching.run_queue import TRAIN, lock, print_failures, run_all
from experiments.results import table as text_table
from experiments.results import terminal
from experiments.run_request import Run, load_experiments
from experiments.sweeps.variations import Variation, vary_experiments

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


WORST = 10
"""Number of labels in the table that is printed."""
LARGEST = 5000
"""Maximum number of images on a page. A page with so many images has about 20 MB."""


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", help="a configuration, with --folds; or run directories, or one folder with all of them"
    )
    parser.add_argument("--folds", type=positive_number, help="number of folds to train and test")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the folds and of all runs; default: 0")
    parser.add_argument(
        "--output", type=Path, help="folder of the report; default: runs/label_report/<config>, or the given folder"
    )
    parser.add_argument("--html", action="store_true", help="write a page of thumbnails, label_report.html")
    parser.add_argument(
        "--most", type=positive_number, default=500, help=f"images on the page, at most {LARGEST}; default: 500"
    )
    add_arguments(parser)
    parser.takes_overrides = True


def plan_folds(options: Namespace) -> list[Run]:
    """Plan one run for each fold of the training images of a configuration."""
    layer = locate_config(Path("configs/callbacks/label_report.yaml"))
    overrides = ["--config", str(layer), "--trainer.callbacks.probabilities", "true"]
    overrides += ["--data.split.folds", str(options.folds), "--data.split.validation_fraction", "0"]
    overrides += ["--data.split.test_fraction", "0", *options.overrides]
    folds = Variation("*", "data.split.fold", tuple(map(str, range(options.folds))))
    experiments = vary_experiments(load_experiments([arm(options.runs[0])], overrides), [folds], overrides)
    return plan_runs(experiments, [options.seed], options.output)


def train_folds(options: Namespace, runs: Sequence[Run], run_command: Sequence[str]) -> int:
    """Train and test all folds that are not finished, and return the exit status."""
    console = terminal()
    engine = launcher(options, [run.experiment for run in runs], options.output / "slurm")
    if run_command is TRAIN:
        preflight(runs, engine=engine)
    with lock([options.output]) as locks:
        failures = run_all(runs, launcher=engine, console=console, locks=locks, run_command=run_command)
    print_failures(failures, console)
    if failures:
        print(f"{len(failures)} of {len(runs)} folds failed: repeat the command to continue", file=sys.stderr)
    return 1 if failures else 0


def write_html(table: "pd.DataFrame", run: Path, path: Path, most: int) -> None:
    """Write a page with the most suspicious labels of a report, and with the images from the run's dataset."""
    import torch

    from callbacks.labels.merge import describe_missing
    from callbacks.labels.report_page import suspicious_rows, write_page
    from experiments.load_run import load_run
    from lightning_modules.interfaces import TrainingImageSource, require

    _, data = load_run(run)
    data.prepare_data()
    data.setup("fit")
    images: Any = require(data, TrainingImageSource, "label_report --html").training_images_dataloader().dataset
    source = images.source
    if table["row"].max() >= len(source.label):
        raise ValueError(f"{run} has {len(source.label)} images, but its report refers to row {table['row'].max()}")
    worst = suspicious_rows(table, most)

    def thumbnails() -> "Iterator[NDArray[np.uint8]]":
        for rows in torch.tensor(worst["row"].to_numpy(int)).split(64):
            stored = source.fetch(rows, None)
            if stored.ndim != 4:
                raise ValueError(f"--html needs images, but a sample of {run} has the shape {list(stored.shape[1:])}")
            yield from (stored.float() * (255 / source.data_range)).round().byte().numpy()

    write_page(path, worst, thumbnails(), len(table))
    print(f"written: {path}, {len(worst)} of {len(table)} images")
    if left := describe_missing(len(table), source):
        print(left)


def run(options: Namespace, run_command: Sequence[str] = TRAIN) -> int:
    """Write the report, after training all folds if `--folds` is given.

    Args:
        options: parsed arguments.
        run_command: command that runs `train.py`, to which `fit ...` is appended.
    """
    if options.most > LARGEST:
        raise ValueError(f"--most must be at most {LARGEST}, got {options.most}")
    if options.folds is None:
        if options.overrides:
            raise ValueError(f"{options.overrides[0]} after `--` needs --folds, which trains with these settings")
        return merge(options, [Path(run) for run in options.runs])
    if len(options.runs) != 1:
        raise ValueError(f"--folds needs one configuration, got {len(options.runs)}")
    if options.folds < 2:
        raise ValueError(f"--folds must be at least 2, got {options.folds}")
    config = arm(options.runs[0]).config
    options.output = options.output or Path("runs/label_report", config.parent.name, config.stem)
    runs = plan_folds(options)
    status = train_folds(options, runs, run_command)
    return status or merge(options, [run.directory for run in runs])


def merge(options: Namespace, runs: Sequence[Path]) -> int:
    """Merge the reports of runs, or write the page of the report of one run."""
    from callbacks.labels.cleaning import CLEANED, cleaned_labels, wrong_fraction
    from callbacks.labels.measures import find_label_issues, report_metrics
    from callbacks.labels.merge import (
        REPORT,
        is_corrected,
        merge_probabilities,
        merge_reports,
        read_report,
        write_probabilities,
        write_report,
    )
    from callbacks.labels.report_page import PAGE
    from datamodules.batches import UNVERIFIED
    from datamodules.files.whole_files import ANOTHER, csv_text, owned_folder

    if len(runs) > 1 and options.output is None:
        raise ValueError(f"{len(runs)} folders are merged: give --output FOLDER, where to write their report")
    folder = options.output or runs[0]
    output = folder / REPORT
    own = runs[0] / REPORT
    if options.html and len(runs) == 1 and own.is_file() and (runs[0] / "config.yaml").is_file():
        with owned_folder(folder):
            write_html(read_report(own), runs[0], folder / PAGE, options.most)
        return 0
    merging = [path for run in runs for path in sorted(run.rglob(REPORT))]
    reports = [path for path in merging if path.resolve() != output.resolve()]
    if not reports and output.is_file():
        raise ValueError(
            f"{runs[0]} is one run, whose report is {output}: add --html to write a page of this report, or "
            f"give the folder of all folds to merge their reports"
        )
    if not reports and runs[0].is_file():
        raise ValueError(f"{runs[0]} is a file: add --folds 5 to audit the labels of this configuration")
    if not reports:
        raise FileNotFoundError(f"{runs[0]} contains no {REPORT}: test with configs/callbacks/label_report.yaml")
    table = merge_reports(reports, every_fold=options.folds is not None)
    clean = table["clean_label"].fillna(UNVERIFIED).to_numpy(int) if "clean_label" in table else None
    given, suspected, score = (table[key].to_numpy() for key in ("given", "suspected", "score"))
    metrics = report_metrics(given, suspected == 1, score, clean) | wrong_fraction(table)
    probability = merge_probabilities(reports)
    if probability is not None and find_spec("cleanlab"):
        in_order = table.sort_values("row")
        issues = find_label_issues(in_order["given"].to_numpy(), probability)
        table["suspected_by_cleanlab"] = issues[in_order.index.argsort()].astype(int)
        found = report_metrics(given, table["suspected_by_cleanlab"].to_numpy() == 1, score, clean)
        metrics |= {f"{name}_cleanlab": value for name, value in found.items() if name != "label_auroc"}
    with owned_folder(folder):
        if is_corrected(folder, csv_text(cleaned_labels(table))):
            raise FileExistsError(f"{folder / CLEANED} was corrected by hand: rename it, or {ANOTHER}")
        write_report(folder, table)
        if probability is not None:
            write_probabilities(folder, probability)
        if options.html:
            write_html(table, reports[0].parent, folder / PAGE, options.most)
    shown = [name for name in ("row", "name", "given_name", "proposed_name", "given", "proposed") if name in table]
    shown = [name for name in shown if f"{name}_name" not in table]
    cells = [*(table[name].astype(str) for name in shown), table["score"].map("{:.3g}".format)]
    worst = list(zip(*(column.head(WORST) for column in cells), strict=True))
    terminal().print(text_table("most suspicious labels", [*shown, "score"], worst))
    for name, value in metrics.items():
        print(f"{name} {value:.4f}")
    print(f"written: {output} and {CLEANED}, {len(table)} images of {len(reports)} folds")
    print(f"to train on the cleaned labels: fit --config CONFIG --config {(folder / CLEANED).with_suffix('.yaml')}")
    return 0
