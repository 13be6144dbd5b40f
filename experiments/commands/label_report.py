"""Merge the label reports of all folds of a training set.

    python train.py compare CONFIG --seeds 0 --vary data.fold=0,1,2,3,4 --output runs/folds -- \\
        --config configs/callbacks/label_report.yaml --data.folds 5
    python train.py label_report runs/folds

Each label is judged by a network that was not trained on it. The command writes two files to the first directory.
`label_report.csv` has the same columns as the reports of the runs. The column `row` identifies the image, and `index`
counts within a fold. `cleaned_labels.csv` has `keep`, `relabel` or `drop` for each label. `FromCSV` reads both files.
To train on `cleaned_labels.csv`:

    --data.label_noise "{class_path: datamodules.corruptions.label_noise.FromCSV, init_args: {
        path: runs/folds/cleaned_labels.csv, partial: true, classes: number}}"

The command prints the estimated fraction of wrong labels and its 95 % interval from a bootstrap over images.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or one folder with all of them")


def run(options: Namespace) -> int:
    from callbacks.labels.cleaning import CLEANED, cleaned_labels, wrong_fraction
    from callbacks.labels.measures import report_metrics
    from callbacks.labels.merge import REPORT, merged
    from datamodules.batches import UNVERIFIED
    from datamodules.files.whole_files import write_text

    runs = options.runs
    output = runs[0] / REPORT
    reports = [path for run in runs for path in sorted(run.rglob(REPORT)) if path != output or len(runs) > 1]
    if not reports:
        raise FileNotFoundError(f"{runs[0]} contains no {REPORT}: test with configs/callbacks/label_report.yaml")
    if len(runs) > 1:
        output = Path(REPORT)
    table = merged(reports)
    write_text(output, table.to_csv(index=False))
    write_text(output.with_name(CLEANED), cleaned_labels(table).to_csv(index=False))
    clean = table["clean_label"].fillna(UNVERIFIED).to_numpy(int) if "clean_label" in table else None
    given, suspected, score = (table[key].to_numpy() for key in ("given", "suspected", "score"))
    metrics = report_metrics(given, suspected == 1, score, clean) | wrong_fraction(table)
    for name, value in metrics.items():
        print(f"{name} {value:.4f}")
    print(f"written: {output} and {CLEANED}, {len(table)} images of {len(reports)} folds")
    return 0
