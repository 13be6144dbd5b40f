"""Report the training labels that a classifier considers wrong, and estimate how reliable the report is."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from callbacks.labels.cleaning import CLEANED, with_actions, wrong_fraction
from callbacks.labels.measures import compare_with_labels, find_label_issues, report_metrics
from callbacks.labels.merge import describe_missing, write_probabilities, write_report
from callbacks.labels.report_figure import draw_worst_labels
from datamodules.arguments import at_least, within
from datamodules.files.whole_files import save_figure
from datamodules.loading.own_loaders import gives_positions
from lightning_modules.interfaces import (
    UNVERIFIED,
    Classifier,
    HeldOutImages,
    TrainingImageSource,
    class_names,
    require,
    require_data,
)
from lightning_modules.training.evaluation_mode import iterate_logits
from lightning_modules.training.logging import log_same

PER_SAMPLE = ("index", "given", "proposed", "probability_given", "probability_proposed", "score", "clean_label")


class LabelReport(Callback):
    """After testing, score the label of every training image by the classifier's prediction.

    The score is the normalised margin of `label_score`. A label is *suspected* if its score is below `threshold`. By
    default, the network was trained on the same labels, so false labels that it has memorised are not suspected, and
    the report is marked as *in-sample*. If a fold of the training images is held out (`data.split.folds`), the report
    contains only this fold, on which the network was not trained. `train.py label_report` merges the reports of all
    folds. If a Trainer was fitted with a DataLoader in Python code, the report covers the dataset of this DataLoader,
    and uses the images that this dataset returns.

    The callback writes to the run directory:

    * `label_report.csv`, worst label first: `index` (position in the reported set), `row` and `name` (position and file
      in the whole dataset, as in `labels.csv`) if the data have them, `given`, `proposed` (the most probable class),
      `given_name` and `proposed_name` if the classes have names, `probability_given`, `probability_proposed`, `score`,
      `suspected` (0 or 1), `in_sample` (1, or 0 for held-out images) and, if known, `clean_label`, which is empty for
      unverified images;
    * `cleaned_labels.csv`, in dataset order: an action (`keep`, `relabel` or `drop`) and a confidence for each label,
      by the rule of `callbacks.labels.cleaning.with_actions`. If you have corrected an earlier file of this name, it is
      unchanged. A correction changes both `label` and, if there are class names, `label_name`;
    * `cleaned_labels.yaml`, a second `--config` of a run that trains on the labels of this file;
    * `figures/label_report.png`, the images with the worst labels.

    The callback logs the fraction of suspected labels, `test/labels_suspected`, and the estimated fraction of wrong
    labels, `test/labels_wrong_estimate`. The 95 % interval of this estimate, from a bootstrap of the confident joint,
    extends from `test/labels_wrong_low` to `test/labels_wrong_high`. If true labels are known, the callback also logs
    `test/label_precision`, `test/label_recall` and `test/label_auroc` over verified images. The AUROC measures how well
    the score separates wrong from correct labels.

    Images are sharded over ranks. Only six numbers per image are kept in memory; with `compare_with_cleanlab`, rank 0
    also keeps all N K probabilities. If a run is tested twice (`checkpoint.also_test_best`), the files are from the
    first test, which uses the configured checkpoint.

    Args:
        threshold: threshold on the score, in (0, 1), below which a label is suspected. With 1/2, labels that are not
            the most probable class are suspected; a smaller threshold suspects fewer labels.
        num_images: number of images in the figure.
        compare_with_cleanlab: whether to find label issues by confident learning as well (Northcutt, Jiang and Chuang,
            JAIR 2021, arXiv 1911.00068), on the same predictions and with the defaults of cleanlab's
            `find_label_issues`. This adds a column `suspected_by_cleanlab` and the metrics
            `test/label_precision_cleanlab`, `test/label_recall_cleanlab` and `test/label_agreement_cleanlab`. The
            agreement is the fraction of labels for which both methods decide alike.
        probabilities: whether to write the class probabilities to `label_probabilities.npy`, `[N, K]`, in the order of
            `index`. Rank 0 then keeps all of them in memory.
    """

    def __init__(
        self,
        threshold: float = 0.5,
        num_images: int = 40,
        compare_with_cleanlab: bool = False,
        probabilities: bool = False,
    ) -> None:
        within(0, 1, "()", threshold=threshold)
        at_least(1, num_images=num_images)
        if compare_with_cleanlab and find_spec("cleanlab") is None:
            raise ImportError("compare_with_cleanlab needs cleanlab: pip install 'noiseworks[label-report]'")
        self.threshold = threshold
        self.num_images = num_images
        self.compare_with_cleanlab = compare_with_cleanlab
        self.probabilities = probabilities
        self.written = False
        self._own: TrainingImageSource | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not gives_positions(trainer.datamodule):  # type: ignore[attr-defined]
            self._own = require_data(
                trainer, TrainingImageSource, "LabelReport"
            )  # kept for the test, during which the training dataset is not accessible
        if stage != "test":
            return
        num_classes = require(pl_module, Classifier, "LabelReport").num_classes
        if num_classes < 2:
            raise ValueError(f"LabelReport needs at least 2 classes, but model.num_classes is {num_classes}")
        self._images(trainer)

    def _images(self, trainer: Trainer) -> TrainingImageSource:
        if self._own is not None and not gives_positions(trainer.datamodule):  # type: ignore[attr-defined]
            return self._own
        try:
            return require_data(trainer, TrainingImageSource, "LabelReport")
        except TypeError as error:
            raise TypeError(f"{error}; or fit the trainer with a DataLoader first, to report on its dataset") from error

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir  # a broadcast, so every rank must read it
        if directory is None:  # a fast_dev_run
            return
        images = self._images(trainer)
        held_out = images.held_out_dataloader() if isinstance(images, HeldOutImages) else None
        loader: Any = images.training_images_dataloader() if held_out is None else held_out
        # Results are gathered through files, because shards differ in length and not every backend has object
        # collectives.
        world = trainer.world_size
        parts = [Path(directory, f"label_report.rank_{rank}_of_{world}.npz") for rank in range(world)]
        parts[trainer.global_rank].parent.mkdir(parents=True, exist_ok=True)
        np.savez(parts[trainer.global_rank], **self._score_labels(trainer, pl_module, loader))  # type: ignore[arg-type]
        trainer.strategy.barrier("the labels are judged")
        metrics: dict[str, float] = {}
        if trainer.is_global_zero:
            scored = _merge(parts)
            for part in parts:
                part.unlink()
            table, metrics = self._report(scored, loader.dataset, class_names(trainer), in_sample=held_out is None)
            if held_out is None:
                rank_zero_info(
                    "The label report is in-sample: the network was trained on these labels, and does not suspect a "
                    "false label it has memorised. Set data.split.folds to report on held-out images."
                )
            if left := describe_missing(len(table), getattr(loader.dataset, "source", None)):
                rank_zero_info(left)
            if not self.written:
                self._write(Path(directory), table, trainer, loader)
            if not self.written and self.probabilities:
                write_probabilities(Path(directory), scored["probability"])
            rank_zero_info(in_words(table, metrics, Path(directory, CLEANED)))
        self.written = True
        for name, value in trainer.strategy.broadcast(metrics).items():
            log_same(pl_module, f"test/{name}", value)

    def _score_labels(self, trainer: Trainer, pl_module: LightningModule, loader: Any) -> dict[str, NDArray[Any]]:
        """Score the labels of this rank's images, in dataloader order, and return the arrays named in `PER_SAMPLE`."""
        batches: list[dict[str, Tensor]] = []
        for batch, logits in iterate_logits(trainer, pl_module, loader):
            # In double precision, because confident predictions may be equal in single precision.
            probability, given = logits.cpu().double().softmax(dim=1), batch["label"].cpu()
            columns = {"index": batch["index"].cpu(), **compare_with_labels(probability, given)}
            if "clean_label" in batch:
                columns["clean_label"] = batch["clean_label"].cpu()
            if self.compare_with_cleanlab or self.probabilities:
                columns["probability"] = probability.float()
            batches.append(columns)
        return {name: torch.cat([columns[name] for columns in batches]).numpy() for name in batches[0]}

    def _report(
        self, scored: dict[str, NDArray[Any]], dataset: Any, names: Sequence[str] | None, in_sample: bool
    ) -> tuple[pd.DataFrame, dict[str, float]]:
        """Return two values: the table, with the worst label first, and the metrics."""
        table = pd.DataFrame({name: scored[name] for name in PER_SAMPLE if name in scored})
        suspected = scored["score"] < self.threshold
        table.insert(table.columns.get_loc("score") + 1, "suspected", suspected.astype(int))
        table.insert(table.columns.get_loc("suspected") + 1, "in_sample", int(in_sample))
        metrics = report_metrics(scored["given"], suspected, scored["score"], scored.get("clean_label"))
        metrics |= wrong_fraction(table)
        if self.compare_with_cleanlab:
            issues = find_label_issues(scored["given"], scored["probability"])
            table["suspected_by_cleanlab"] = issues.astype(int)
            metrics["label_agreement_cleanlab"] = float((issues == suspected).mean())
            by_cleanlab = report_metrics(scored["given"], issues, scored["score"], scored.get("clean_label"))
            for name in ("label_precision", "label_recall"):
                if name in by_cleanlab:
                    metrics[f"{name}_cleanlab"] = by_cleanlab[name]
        if names is not None:
            for column in ("proposed", "given"):
                named = [names[category] for category in table[column]]
                table.insert(table.columns.get_loc("proposed") + 1, f"{column}_name", named)
        row = getattr(dataset, "row", None)
        if row is not None:
            table.insert(1, "row", row.numpy()[scored["index"]])
            if (files := getattr(dataset.source, "names", None)) is not None:
                table.insert(2, "name", [files[at] for at in table["row"]])
        return table.sort_values("score", kind="stable", ignore_index=True), metrics

    def _write(self, directory: Path, table: pd.DataFrame, trainer: Trainer, loader: Any) -> None:
        written = table.replace({"clean_label": {UNVERIFIED: ""}})
        if not write_report(directory, written):
            rank_zero_info(
                f"{directory / CLEANED} was corrected by hand, and is unchanged: rename it, and test again to have it "
                f"written"
            )
        worst = table.head(self.num_images)
        request = next(iter(loader.sampler))._replace(indices=torch.from_numpy(worst["index"].to_numpy(copy=True)))
        image = trainer.strategy.batch_to_device(loader.dataset[request])["image"]
        if image.ndim < 4:  # feature vectors, not images
            return
        num_suspected = int(table["suspected"].sum())
        figure = draw_worst_labels(image.float().cpu().numpy(), worst, len(table), num_suspected, class_names(trainer))
        save_figure(figure, directory / "figures" / "label_report.png")


def in_words(table: pd.DataFrame, metrics: dict[str, float], cleaned: Path) -> str:
    """State the estimated fraction of wrong labels, and warn if the cleaned labels change more than its upper bound.

    Args:
        table: label report.
        metrics: metrics of `callbacks.labels.cleaning.wrong_fraction`.
        cleaned: path of the cleaned labels.
    """
    changed = float((with_actions(table)["action"] != "keep").mean())
    told = (
        f"An estimated {metrics['labels_wrong_estimate']:.1%} of the labels are wrong (95 % bootstrap interval "
        f"{metrics['labels_wrong_low']:.1%} to {metrics['labels_wrong_high']:.1%}, if the network is right where it is "
        f"confident); labels to train on: {cleaned}, which relabels or drops {changed:.1%}"
    )
    if changed > metrics["labels_wrong_high"]:
        told += (
            ". These are more than the estimated wrong labels: correct labels are dropped, too. Compare training on "
            "the given and on the cleaned labels with a test set whose labels you trust"
        )
    return told


def _merge(parts: list[Path]) -> dict[str, NDArray[Any]]:
    """Merge the results of all ranks, in the order of the training set."""
    for part in parts:
        if not part.is_file():
            raise FileNotFoundError(f"{part} is missing: every rank must write its part there; is the folder shared?")
    shares = [dict(np.load(part)) for part in parts]
    merged = {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}
    order = np.argsort(merged["index"], kind="stable")
    return {name: values[order] for name, values in merged.items()}
