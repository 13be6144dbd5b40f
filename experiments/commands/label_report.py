"""Merge the label reports of all folds of a training set.

    python train.py compare CONFIG --seeds 0 --vary data.split.fold=0,1,2,3,4 --output runs/folds -- \\
        --config configs/callbacks/label_report.yaml --data.split.folds 5
    python train.py label_report runs/folds

Each label is judged by a network that was not trained on it. The command writes two files to the given folder, or to
the folder --output, which is required for several folders. `label_report.csv` has the same columns as the reports of
the runs. Its column `row` identifies an image, whereas its column `index` is the position of the image within a fold.
`cleaned_labels.csv` lists `keep`, `relabel` or `drop` for each label. If you have corrected this file by hand, it is
never overwritten. `FromCSV` reads both files. To train on `cleaned_labels.csv`:

    --data.label_noise "{class_path: datamodules.corruptions.label_noise.FromCSV, init_args: {
        path: runs/folds/cleaned_labels.csv, partial: true, classes: number}}"

`--html` also writes `label_report.html`, a page of thumbnails with the labels of the dataset and the proposed labels,
with the most suspicious labels first. The page can be opened in any browser, without a network. For a single run that
has a report, the command writes only this page:

    python train.py label_report runs/labels --html

The command prints the estimated fraction of wrong labels, with a 95 % bootstrap interval over images.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.arguments import positive_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


LARGEST = 5000
"""Maximum number of images on a page. A page with so many images has about 20 MB."""


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or one folder with all of them")
    parser.add_argument("--output", type=Path, help="folder of the merged report; default: the given folder")
    parser.add_argument("--html", action="store_true", help="write a page of thumbnails, label_report.html")
    parser.add_argument(
        "--most", type=positive_number, default=500, help=f"images on the page, at most {LARGEST}; default: 500"
    )


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


def run(options: Namespace) -> int:
    if options.most > LARGEST:
        raise ValueError(f"--most must be at most {LARGEST}, got {options.most}")
    from callbacks.labels.cleaning import CLEANED, cleaned_labels, wrong_fraction
    from callbacks.labels.measures import report_metrics
    from callbacks.labels.merge import REPORT, is_corrected, merge_reports, read_report, write_report
    from callbacks.labels.report_page import PAGE
    from datamodules.batches import UNVERIFIED
    from datamodules.files.whole_files import ANOTHER, csv_text, owned_folder

    runs = options.runs
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
    if not reports:
        raise FileNotFoundError(f"{runs[0]} contains no {REPORT}: test with configs/callbacks/label_report.yaml")
    table = merge_reports(reports)
    with owned_folder(folder):
        if is_corrected(folder, csv_text(cleaned_labels(table))):
            raise FileExistsError(f"{folder / CLEANED} was corrected by hand: rename it, or {ANOTHER}")
        write_report(folder, table)
        if options.html:
            write_html(table, reports[0].parent, folder / PAGE, options.most)
    clean = table["clean_label"].fillna(UNVERIFIED).to_numpy(int) if "clean_label" in table else None
    given, suspected, score = (table[key].to_numpy() for key in ("given", "suspected", "score"))
    metrics = report_metrics(given, suspected == 1, score, clean) | wrong_fraction(table)
    for name, value in metrics.items():
        print(f"{name} {value:.4f}")
    print(f"written: {output} and {CLEANED}, {len(table)} images of {len(reports)} folds")
    return 0
