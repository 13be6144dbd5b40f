"""Write tables and figures of a detector's results on out-of-distribution and adversarial inputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer
from sklearn.metrics import roc_curve

from datamodules.arguments import at_least
from datamodules.files.whole_files import save_figure, write_csv
from lightning_modules.interfaces import Detector, require
from lightning_modules.metrics.detection import DetectionResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class DetectionReport(Callback):
    """Write the results of a `Detector` to the run directory after testing.

    `detection.csv` has a row for each dataset and method. Its columns are the metrics (AUROC, TNR at 95 % TPR, AUPR
    with either kind of input as positives, and detection accuracy), the magnitude of input pre-processing in pixel
    units, and the number of inputs of each kind. For methods that use neighbours, a further column contains the number
    of neighbours. `detection_scores.csv` contains the confidence of each method for each input; the confidence should
    be higher for in-distribution inputs. A column of this table marks inputs that may have been used for tuning. For
    each dataset, `figures/detection.png` shows histograms of the detector's confidence and the ROC curves of all
    methods.

    Args:
        most_bins: maximum number of bins of a histogram.
    """

    def __init__(self, most_bins: int = 40) -> None:
        at_least(2, most_bins=most_bins)
        self.most_bins = most_bins

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "test":
            require(pl_module, Detector, "DetectionReport")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir  # a broadcast, so every rank must read it
        if directory is None or not trainer.is_global_zero:
            return
        detector = require(pl_module, Detector, "DetectionReport")
        detections = detector.detections
        if not detections:
            return
        write_csv(Path(directory, "detection.csv"), metrics_table(detections))
        write_csv(Path(directory, "detection_scores.csv"), scores_table(detections))
        figure = draw_detection(detections, detector.score, self.most_bins)
        save_figure(figure, Path(directory, "figures", "detection.png"))


def metrics_table(detections: Sequence[DetectionResult]) -> pd.DataFrame:
    """Tabulate the metrics, with a row for each dataset and method."""
    rows = []
    for detection in detections:
        for method in detection.confidence:
            in_distribution, other = detection.parts(method)
            rows.append(
                {
                    "set": detection.target,
                    "method": method,
                    "epsilon": detection.epsilon.get(method, np.nan),
                    "num_neighbours": detection.num_neighbours.get(method, np.nan),
                    **detection.metrics(method),
                    "num_in_distribution": len(in_distribution),
                    "num_other": len(other),
                }
            )
    return pd.DataFrame(rows)


def scores_table(detections: Sequence[DetectionResult]) -> pd.DataFrame:
    """Tabulate the confidences of all methods, with one row for each input of each dataset."""
    tables = [
        pd.DataFrame(
            {
                "set": detection.target,
                "index": detection.index.numpy(),
                "is_target": detection.is_target.numpy(),
                "is_validation": detection.is_validation.numpy(),
                **{method: value.numpy() for method, value in detection.confidence.items()},
            }
        )
        for detection in detections
    ]
    return pd.concat(tables, ignore_index=True)


def draw_detection(detections: Sequence[DetectionResult], score: str, most_bins: int = 40) -> "Figure":
    """Draw two panels for each dataset: histograms of one method's confidence, and ROC curves of all methods.

    Args:
        detections: detection results, one per dataset.
        score: name of the method whose confidence the histograms show. For a dataset without results of this method,
            they show the first method.
        most_bins: maximum number of bins of a histogram.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.0 * len(detections) + 0.6), layout="constrained")
    panels = figure.subplots(len(detections), 2, squeeze=False)
    for (left, right), detection in zip(panels, detections, strict=True):
        shown = score if score in detection.confidence else next(iter(detection.confidence))
        _histograms(left, detection, shown, most_bins)
        for method in detection.confidence:
            in_distribution, other = (part.numpy() for part in detection.parts(method))
            target = np.concatenate([np.ones(len(in_distribution)), np.zeros(len(other))])
            false_positive, true_positive, _ = roc_curve(target, np.concatenate([in_distribution, other]))
            style = {"linewidth": 2.2, "zorder": 3} if method == shown else {"linewidth": 1.0, "alpha": 0.8}
            auroc = detection.metrics(method)["auroc"]
            right.plot(false_positive, true_positive, label=f"{_in_words(method)} ({auroc:.3f})", **style)
        right.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle=":")
        right.set(xlabel="others accepted", ylabel="in-distribution accepted")
        right.set_title(f"{_in_words(detection.target)}: ROC (AUROC)")
        right.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        for panel in (left, right):
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
    return figure


def _histograms(panel: "Axes", detection: DetectionResult, method: str, most_bins: int) -> None:
    """Draw histograms of the confidence. Values beyond the outermost bins are counted in these bins."""
    in_distribution, other = (part.numpy() for part in detection.parts(method))
    low, high = np.quantile(np.concatenate([in_distribution, other]), [0.0, 1.0])
    spread = np.quantile(in_distribution, 0.99) - np.quantile(in_distribution, 0.01)
    low = max(low, np.quantile(in_distribution, 0.01) - 4 * spread)
    if not low < high:
        low, high = low - 0.5, low + 0.5
    bins = np.linspace(low, high, most_bins + 1).tolist()
    target = _in_words(detection.target)
    for values, label in ((in_distribution, "in-distribution"), (other, target)):
        weights = np.full(len(values), 1 / len(values))
        panel.hist(values.clip(low, high), bins=bins, weights=weights, alpha=0.6, label=f"{label} ({len(values)})")
    panel.set(title=f"{target}: confidence of {_in_words(method)}", xlabel="confidence", ylabel="fraction")
    panel.legend(fontsize=8, frameon=False)


def _in_words(name: str) -> str:
    return name.replace("_", " ")
