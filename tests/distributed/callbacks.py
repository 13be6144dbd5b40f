"""Comparisons of one process with two: a row per callback, prediction or kind of written file.

A row either continues from its base run, or trains a new run. `tests/distributed/test_callbacks.py` runs each row with
one process and with two, and compares all files. For callbacks that belong to a demo, `test_methods.py` also compares
the tables.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.distributed.methods import LEFT_OUT

SHARED = "the data refuse fewer samples than processes"


@dataclass(frozen=True)
class Watched:
    """One or several callbacks of one command.

    Args:
        base: name in `BASES` of the run that is tested, predicted, or trained again.
        command: fit, test or predict.
        layer: file in `configs/callbacks/`, without its suffix.
        uneven: settings that give the processes different numbers of items.
        empty: settings that give the second process no items, or the reason why this is impossible.
        files: patterns of the files that the row tests; they must exist.
        first_only: patterns of files that show items of the first process and therefore differ.
        nightly: whether the row takes too long for the default suite.
        accuracy: tolerance for numbers.
    """

    base: str
    command: str
    layer: str | None = None
    uneven: Mapping[str, Any] = field(default_factory=dict)
    empty: Mapping[str, Any] | str = SHARED
    files: Sequence[str] = ()
    first_only: Sequence[str] = ()
    nightly: bool = True
    accuracy: float = 1e-10


FEW = {"trainer.max_epochs": 1, "trainer.limit_train_batches": 2, "trainer.precision": "64-true"}
STEEP = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}
BASES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "classifier": (
        "cross_entropy",
        {"trainer.precision": "64-true", "trainer.callbacks": [], "model.init_args.optimizer": STEEP},
    ),
    "generator": ("score_sde", {**FEW, "trainer.callbacks": [], "data.init_args.split.validation_fraction": 0.1}),
    "texts": ("flow_finetuning_flux", FEW),
    "restorer": ("supervised_restoration", FEW),
    "segmenter": ("adele", FEW),
    "resolver": ("ediffsr", FEW),
    "clips": ("negvsr", FEW),
    "speech": ("sgmse", FEW),
    "guard": ("diffusionguard", FEW),
    "interpolator": ("noise_diffusion", {**FEW, "trainer.callbacks": []}),
    "normals": ("stable_normal", FEW),
    "sparse": ("nm_sparsity", FEW),
    "mixture": ("adaptive_smoothing", {**FEW, "trainer.callbacks.0": LEFT_OUT, "trainer.callbacks.1": LEFT_OUT}),
    "scores": ("ood_scores", FEW),
    "shifted": ("noise_mask", FEW),
}
"""The runs that the rows use: for each, the name of its row in `methods.py`, and changes to that row's settings."""


def listed(*classes: str) -> str:
    """Format callbacks as an argument of the command line."""
    return json.dumps([{"class_path": f"callbacks.{name}"} for name in classes])


PGD = {"class_path": "lightning_modules.robustness.attacks.PGD"}
ATTACKS = json.dumps(
    [
        {**PGD, "init_args": {"norm": "linf", "epsilon": 0.1, "steps": 3, "restarts": 2}},
        {**PGD, "init_args": {"norm": "l2", "epsilon": 0.5, "steps": 2, "restarts": 1}},
    ]
)
VOTES = {"sigma": 0.05, "mode.n0": 10, "mode.n": 100, "batch_size": 50, "channels_last": "false"}
FIVE, ONE = {**VOTES, "skip": 110}, {**VOTES, "skip": 1, "max": 1}  # the test set has 497 images
SEVENTY = {"extractor": "torch.nn.Flatten", "extractor_name": "pixels", "num_samples": 70, "batch_size": 30}
CATS = {"prompts": '["a cat", "a dog", "the 7", "8", "9"]', "num_seeds": 1, "every_n_steps": 2}
CERTIFICATES = ("certification.csv", "certified_accuracy.csv", "figures/*.png")


def of_callback(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Set arguments of the last callback."""
    return {f"trainer.callbacks.{key}": value for key, value in settings.items()}


ROWS: dict[str, Watched] = {
    "certification": Watched(
        *("classifier", "test", "certification"),
        uneven=of_callback(FIVE),
        empty=of_callback(ONE),
        files=CERTIFICATES,
        nightly=False,
    ),
    "certification_shares_draws": Watched(
        *("classifier", "test", "certification"),
        uneven=of_callback({**FIVE, "mode.n": 300, "share": "draws"}),  # three blocks of 100
        empty=of_callback({**ONE, "share": "draws"}),
        files=CERTIFICATES,
    ),
    "robust_accuracy": Watched(
        *("classifier", "test", "robust_accuracy"),
        uneven=of_callback({"attacks": ATTACKS, "batch_size": 20, "max": 50}),  # 20, 20 and 10
        empty=of_callback({"attacks": ATTACKS, "batch_size": 20, "max": 20}),
        files=("robust_accuracy.csv", "figures/adversarial*.png", "robust_accuracy_rows/*/block_*.csv"),
        nightly=False,
    ),
    "label_report": Watched(
        *("classifier", "test", "label_report"),
        files=("label_report.csv", "figures/label_report.png"),
        nightly=False,
    ),
    "curvature": Watched(
        *("classifier", "fit", "curvature"),
        uneven=of_callback({"samples": 101, "steps": 5}),
        empty=of_callback({"samples": 2, "steps": 2, "images_at_once": 2}),
        files=("curvature.csv", "curvature_density.csv", "figures/curvature*.png"),
        accuracy=1e-8,
    ),
    "fid": Watched(
        *("generator", "test", "fid"),
        uneven=of_callback(SEVENTY),  # 30, 30 and 10
        empty=of_callback({**SEVENTY, "num_samples": 30}),
        files=("fid.csv", "generated_statistics.npz", "figures/samples_*.png"),
        nightly=False,
        accuracy=1e-5,  # features are in single precision
    ),
    "fid_in_validation": Watched(
        *("generator", "fit", "fid"),
        uneven=of_callback({**SEVENTY, "validation_samples": 50}),
        empty=of_callback({**SEVENTY, "validation_samples": 30}),
        files=("fid.csv", "figures/samples_val_epoch_000.png"),
        accuracy=1e-5,
    ),
    "prompt_grid": Watched(
        *("texts", "fit", "prompt_grid"),
        uneven=of_callback({**CATS, "batch_size": 2}),  # 2, 2 and 1
        empty=of_callback({**CATS, "batch_size": 5}),
        files=("figures/prompts/step_000000.png", "figures/prompts/step_000002.png"),
    ),
    "scores_of_classes": Watched(
        *("classifier", "test"),
        uneven={"trainer.callbacks": listed("macro_scores.MacroScores", "labels.Memorization")},
        nightly=False,
    ),
    "predictions": Watched(*("classifier", "predict"), files=("predictions.parquet",), nightly=False),
    "predicted_masks": Watched("segmenter", "predict", files=("predictions/*.png",)),
    "restored": Watched("restorer", "predict", files=("restored/*.png",)),
    "image_quality": Watched(
        *("restorer", "test"),
        uneven={"trainer.callbacks+": listed("image_quality.Sharpness")},
        files=("image_quality.csv", "spectrum.csv", "figures/spectrum.png", "figures/images.png"),
        first_only=("figures/images.png",),
        nightly=False,
    ),
    "super_resolution": Watched("resolver", "predict", files=("restored/*.png",)),
    "clips": Watched("clips", "predict", files=("restored/**/*.png",)),
    "speech": Watched("speech", "predict", files=("enhanced/**/*.wav",)),
    "speech_quality": Watched(
        *("speech", "test"),
        files=("speech_quality.csv", "speech_quality_summary.csv"),
        first_only=("figures/spectrograms.png", "recordings/*.wav"),
    ),
    "protected": Watched("guard", "predict", files=("protected/*.png",)),
    "interpolated": Watched("interpolator", "predict", files=("interpolated/**/*.png",)),
    "normals": Watched("normals", "predict", files=("normals/*.png",)),
    "effective_weights": Watched(
        "sparse", "test", files=("effective_weights/model.safetensors", "effective_weights/model.json")
    ),
    "mixture": Watched(
        *("mixture", "test"),
        uneven=of_callback({"batch_size": 20, "max": 50}),
        empty=of_callback({"batch_size": 20, "max": 20}),
        files=("alpha_curve.csv", "robust_accuracy.csv"),
    ),
    "detection": Watched("scores", "test", files=("detection.csv", "detection_scores.csv", "figures/detection.png")),
    "shifted": Watched("shifted", "test"),
}

ELSEWHERE = {
    "ClassAccuracy": "every rank generates and classifies the same images",
    "Divergence": "tests/callbacks/guards/test_divergence.py: processes end together, and nothing else is written",
    "NoReferenceMetrics": "rank 0 alone computes, see tests/callbacks/image_quality/test_no_reference.py",
    "PruneTrial": "the command tune adds it; the ranks decide together, see tests/callbacks/test_trials.py",
    "Pretraining": "it refuses several processes, see tests/callbacks/test_pretraining.py",
    "TopOneAccuracy": "tests/callbacks/image_quality/test_top_one_accuracy.py: two processes with uneven shares",
}
"""Callbacks that are not in a row, a method's demo or every run, and where they are tested with two processes."""
