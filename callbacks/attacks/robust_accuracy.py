"""Measure the accuracy of any classifier under attack."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.attacks.attacked_classifier import AttackedClassifier, mixture_function, noisy_classifier
from callbacks.attacks.block_files import BlockFiles
from callbacks.drawing.image_grid import draw_image_grid
from datamodules.arguments import at_least
from datamodules.files.whole_files import save_figure, whole_file, write_csv
from datamodules.randomness.generators import seed_of
from lightning_modules.interfaces import (
    AttackableMixture,
    Classifier,
    ImageColumn,
    MixedClassifier,
    SmoothedClassifier,
    class_names,
    require,
)
from lightning_modules.robustness.attacks.ascent import Attack, different_titles, require_gradients, size
from lightning_modules.robustness.attacks.auto_attack import AutoAttack
from lightning_modules.training.logging import log_same
from lightning_modules.training.results_directory import results_directory
from lightning_modules.training.tested_images import TestedImages, require_testing

PICTURE = "adversarial.png"
SAME = ["checkpoint", "attack", "norm", "epsilon", "steps", "restarts", "sigma", "num_images"]
"""Columns of the table that identify the checkpoint, the attack and its settings."""
CLEAN, PERTURBING, PERTURBED = 0, 1, 2  # separate random streams of a block


class RobustAccuracy(Callback):
    """Attack a classifier on the test set, on any number of ranks, before the other test metrics are computed.

    An image counts as robust to an attack if its predicted class is correct both before and after the attack. The
    callback logs `test/robust_accuracy_<attack>`, and writes to the run directory:

    * `robust_accuracy.csv`, with a row for each attack and tested checkpoint;
    * `figures/adversarial_<checkpoint>.png`, such as `adversarial_last.png` (`adversarial.png` without a checkpoint);
    * `robust_accuracy_rows`, with the predictions for each image.

    Rows of earlier evaluations stay in the table, with two exceptions. If the weights of the checkpoint have changed,
    all earlier rows with the checkpoint's name are removed. If checkpoint, attack and settings are unchanged, the new
    row replaces the earlier row.

    Images are attacked in blocks of `batch_size`. Random numbers depend only on (seed, block, attack), so perturbations
    are the same for any number of ranks. With the same weights and settings, an interrupted evaluation resumes after
    its last finished block. All ranks must have access to the same run directory.

    Args:
        attacks: attacks to run one after another: `lightning_modules.robustness.attacks.PGD` or `AutoAttack`, or
            `lightning_modules.robustness.adaptive_smoothing.AdaptiveAttack` for a mixture.
        batch_size: number of images in a block; a rank attacks the images of a block as one batch. If there are few
            images, a smaller value distributes them over more ranks.
        skip: distance between attacked images in the test set: every `skip`-th image is attacked.
        max: attack only images before this position of the test set; None attacks all images.
        sigma: standard deviation of the Gaussian noise, in pixel units. If it is positive, the smoothed classifier is
            attacked; if it is 0, the module itself is attacked. In a `SmoothedClassifier`, all its votes count, as in
            certification. The attacks use the gradient of the logarithm of the mean probabilities.
        num_draws: number of forward passes per image; their majority vote is the predicted class. Use 1 for a
            deterministic classifier.
        seed: random seed of attacks and noise.
        num_shown: number of images in the figure.
    """

    def __init__(
        self,
        attacks: list[Attack],
        batch_size: int = 100,
        skip: int = 1,
        max: int | None = None,
        sigma: float = 0.0,
        num_draws: int = 1,
        seed: int = 0,
        num_shown: int = 8,
    ) -> None:
        if not attacks:
            raise ValueError("attacks must contain at least one attack, got []")
        different_titles(attacks)
        at_least(1, batch_size=batch_size, skip=skip, max=max, num_draws=num_draws, num_shown=num_shown)
        at_least(0, seed=seed, sigma=sigma)
        self._require_draws(sigma, num_draws, attacks)
        self.attacks = attacks
        self.batch_size = batch_size
        self.skip = skip
        self.max = max
        self.sigma = sigma
        self.num_draws = num_draws
        self.seed = seed
        self.num_shown = num_shown
        self.results: dict[str, float] = {}

    @staticmethod
    def _require_draws(sigma: float, num_draws: int, attacks: Sequence[Attack]) -> None:
        if sigma > 0 and num_draws == 1:
            raise ValueError(f"num_draws must be at least 2 with sigma {sigma}: a smoothed class is a majority vote")
        for attack in attacks:
            if sigma > 0 and getattr(attack, "num_draws", 2) == 1:
                raise ValueError(f"{attack.title}: num_draws must be at least 2 with sigma {sigma}, got 1")
            if sigma == 0 and num_draws > 1 and isinstance(attack, AutoAttack):
                raise ValueError(
                    f"{attack.title}: AutoAttack needs a deterministic classifier, but num_draws {num_draws} without "
                    f"sigma means that the classifier is stochastic: use PGD instead of AutoAttack"
                )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "test":
            return
        if not (self.sigma > 0 and isinstance(pl_module, SmoothedClassifier)):
            require(pl_module, Classifier, "RobustAccuracy")
        if self.sigma > 0 and isinstance(pl_module, MixedClassifier):
            raise ValueError(
                f"sigma must be 0 for {type(pl_module).__name__}, got {self.sigma}: under noise, only its robust "
                f"classifier votes, so the result would not be the mixture's robust accuracy"
            )
        for attack in self.attacks:
            if attack.of_mixture:
                require(pl_module, AttackableMixture, f"RobustAccuracy with {type(attack).__name__}")
        require_testing(trainer, "RobustAccuracy")
        require_gradients(str(trainer.precision), "RobustAccuracy")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        images = TestedImages(trainer, "RobustAccuracy")
        positions = images.chosen(self.skip, self.max)
        settings = self._settings(pl_module, images, positions)
        with (
            results_directory(trainer) as directory,
            BlockFiles(trainer, directory / "robust_accuracy_rows", settings, positions, self.batch_size) as files,
        ):
            draw = noisy_classifier(trainer, pl_module, self.sigma)
            classifier = AttackedClassifier(draw, self.sigma > 0, self.num_draws, mixture_function(trainer, pl_module))
            rows = files.evaluate(
                lambda number, block: self._attack_block(classifier, images, number, block, files.folder, trainer),
                text_columns=["attack"],
            )
            table = self._table(rows).assign(weights=settings["weights"])
            self.results = dict(zip(table["attack"], table["robust_accuracy"], strict=True))
            checkpoint = Path(str(trainer.ckpt_path or "")).stem
            files.peers.on_first_rank(lambda: _write_results(table, files.folder, checkpoint, directory))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, value in self.results.items():
            log_same(pl_module, f"test/robust_accuracy_{name}", value)

    def _settings(self, pl_module: LightningModule, images: TestedImages, positions: range) -> dict[str, Any]:
        return {
            "attacks": {attack.title: attack.settings() for attack in self.attacks},
            "sigma": self.sigma,
            "num_draws": self.num_draws,
            "seed": self.seed,
            "skip": self.skip,
            **images.settings(pl_module, positions),
        }

    def _attack_block(
        self,
        classifier: AttackedClassifier,
        images: TestedImages,
        number: int,
        positions: range,
        folder: Path,
        trainer: Trainer,
    ) -> pd.DataFrame:
        """Attack one block of images, and return the block's table rows. For the first block, also draw the figure."""
        block = [images[position] for position in positions]
        image = torch.stack([one.image for one in block])
        label = torch.tensor([one.label for one in block], device=image.device)
        self._seed(number, 0, CLEAN)
        prediction, logits = classifier.predict(image, positions)
        right = (prediction == label).nonzero()[:, 0]
        shown = right[: self.num_shown]
        frames, grid = [], {"clean": self._column(trainer, image[shown], prediction[shown], prediction[shown])}
        for place, attack in enumerate(self.attacks):
            adversarial, attacked_prediction = image.clone(), prediction.clone()
            if len(right):
                self._seed(number, place, PERTURBING)
                of_clean = None if logits is None else logits[right]
                attacked = classifier.perturb(attack, image[right], label[right], of_clean)
                adversarial[right] = attacked.to(image.dtype)
                self._seed(number, place, PERTURBED)
                attacked_prediction[right] = classifier.predict(adversarial[right], positions).prediction
            columns = {
                "index": list(positions),
                "label": label.tolist(),
                "prediction": prediction.tolist(),
                "attack": attack.title,
                "prediction_under_attack": attacked_prediction.tolist(),
                "perturbation": size(adversarial - image, attack.norm).tolist(),
            }
            frames.append(pd.DataFrame(columns))
            grid[attack.title] = self._column(
                trainer, adversarial[shown], attacked_prediction[shown], prediction[shown]
            )
            grid[f"change by\n{attack.title}"] = ImageColumn(adversarial[shown] - image[shown], difference=True)
        if number == 0:
            title = "" if len(shown) else "no image of the first block is classified correctly"
            save_figure(draw_image_grid(grid, title=title), folder / PICTURE)
        return pd.concat(frames)

    @staticmethod
    def _column(trainer: Trainer, image: Tensor, prediction: Tensor, unattacked: Tensor) -> ImageColumn:
        """Build a column of images. Each caption is the predicted class, which is red if the attack changed it."""
        names = class_names(trainer)
        captions = [str(k) if names is None else names[k] for k in prediction.tolist()]
        return ImageColumn(image, captions, (prediction != unattacked).tolist())

    def _seed(self, block: int, attack: int, purpose: int) -> None:
        torch.manual_seed(seed_of(self.seed, block, attack, purpose))

    def _table(self, rows: pd.DataFrame) -> pd.DataFrame:
        table = []
        for attack in self.attacks:
            of_attack = rows[rows["attack"] == attack.title]
            clean = of_attack["prediction"] == of_attack["label"]
            withstood = of_attack["prediction_under_attack"] == of_attack["label"]
            table.append(
                {
                    "attack": attack.title,
                    "norm": attack.norm,
                    "epsilon": float(attack.epsilon),
                    "steps": attack.steps,
                    "restarts": attack.restarts,
                    "sigma": float(self.sigma),
                    "num_images": len(of_attack),
                    "clean_accuracy": clean.mean(),
                    "robust_accuracy": (clean & withstood).mean(),
                    "largest_perturbation": of_attack["perturbation"].max(),
                }
            )
        return pd.DataFrame(table)


def _write_results(table: pd.DataFrame, folder: Path, checkpoint: str, directory: Path) -> None:
    """Add rows to the table in the run directory; `RobustAccuracy` describes which earlier rows are replaced.

    The checkpoint's figure is also copied, from `folder` to the run directory.
    """
    path, picture = directory / "robust_accuracy.csv", directory / "figures" / PICTURE
    table.insert(0, "checkpoint", checkpoint or "none")
    if path.is_file():
        table = table.astype(str)  # checkpoint or attack names may parse as numbers
        earlier = pd.read_csv(path, dtype=str, keep_default_na=False).reindex(columns=table.columns)
        of_checkpoint = earlier["checkpoint"] == table["checkpoint"].iloc[0]
        stale = of_checkpoint & (earlier["weights"] != table["weights"].iloc[0])
        table = pd.concat([earlier[~stale], table]).drop_duplicates(SAME, keep="last")
    write_csv(path, table)
    if checkpoint:
        picture = picture.with_stem(f"{picture.stem}_{checkpoint}")
    with whole_file(picture) as partial:
        shutil.copyfile(folder / PICTURE, partial)
