"""Measure how accuracy and robustness of a mixture of two classifiers depend on the weight of the robust classifier."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.attacks.block_files import BlockFiles
from datamodules.arguments import at_least
from datamodules.files.whole_files import save_figure, write_csv
from datamodules.randomness.generators import bits_of
from lightning_modules.interfaces import MixedClassifier, require
from lightning_modules.robustness.attacks.ascent import Attack, require_gradients
from lightning_modules.training.logging import log_same
from lightning_modules.training.results_directory import results_directory
from lightning_modules.training.tested_images import TestedImages, require_testing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("accuracy", "robust_accuracy", "mean_alpha", "mean_alpha_attacked")


class AlphaCurve(Callback):
    """Attack a mixture of two classifiers at several fixed values of the weight alpha.

    If alpha is learned, the mixture is also attacked with the alpha predicted for each image.

    The callback writes `alpha_curve.csv`, with one row for each alpha, and `figures/alpha_curve.png`. For each block of
    images, the sums from which the rows are computed are written to the folder `alpha_curve_rows`. Blocks are sharded
    over ranks. If an interrupted evaluation is repeated with the same weights and settings, it resumes after its last
    finished block. All ranks must have access to the same run directory.

    If alpha is learned, `test/accuracy_of_fixed_alpha` is the clean accuracy of the fixed alpha whose robust accuracy
    equals that of the learned alpha (see `accuracy_at_equal_robustness`). This metric can be compared with
    `test/accuracy` if all images are attacked.

    Args:
        attack: attack on the mixture at each alpha, from `lightning_modules.robustness.attacks`.
        alphas: weights of the robust classifier, in [0, 1]. The weights 0 and 1 select one of the two classifiers.
        batch_size: number of images attacked at once on each rank.
        skip: step between attacked images: every `skip`-th image of the test set is attacked.
        max: attack only images before this position of the test set; None attacks all images.
        seed: random seed of the attacks. The random starts are the same for every alpha.
    """

    def __init__(
        self,
        attack: Attack,
        alphas: Sequence[float] = (0.0, 0.2, 0.4, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
        batch_size: int = 500,
        skip: int = 1,
        max: int | None = None,
        seed: int = 0,
    ) -> None:
        if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
            raise ValueError(f"alphas must be one or more numbers in [0, 1], got {list(alphas)}")
        at_least(1, batch_size=batch_size, skip=skip, max=max)
        at_least(0, seed=seed)
        self.attack = attack
        self.alphas = sorted(set(alphas))
        self.batch_size = batch_size
        self.skip = skip
        self.max = max
        self.seed = seed
        self.of_fixed: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "test":
            require(pl_module, MixedClassifier, "AlphaCurve")
            require_testing(trainer, "AlphaCurve")
            require_gradients(str(trainer.precision), "AlphaCurve")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        alphas: list[float | None] = [*self.alphas, *([None] if module.chooses_alpha else [])]
        images = TestedImages(trainer, "AlphaCurve")
        positions = images.chosen(self.skip, self.max)
        settings = {
            "attack": {self.attack.title: self.attack.settings()},
            "alphas": alphas,
            "seed": self.seed,
            "skip": self.skip,
            **images.settings(pl_module, positions),
        }

        def attack_block(number: int, block: range) -> pd.DataFrame:
            read = [images[position] for position in block]
            image = torch.stack([one.image for one in read])
            label = torch.tensor([one.label for one in read], device=image.device)
            sums = []
            for alpha in alphas:
                torch.manual_seed(bits_of(self.seed, number) % 2**32)
                sums.append(self._attack(trainer, module, image, label, alpha))
            return pd.DataFrame(torch.stack(sums).cpu().numpy(), columns=list(COLUMNS))

        with (
            results_directory(trainer) as directory,
            BlockFiles(trainer, directory / "alpha_curve_rows", settings, positions, self.batch_size) as files,
        ):
            table = files.evaluate(attack_block).groupby(level=0).sum() / len(positions)
            table.insert(0, "alpha", ["learned" if alpha is None else f"{alpha:g}" for alpha in alphas])

            def write() -> None:
                write_csv(directory / "alpha_curve.csv", table)
                save_figure(draw_alpha_curve(table, self._attack_in_words), directory / "figures" / "alpha_curve.png")

            files.peers.on_first_rank(write)
        self.of_fixed = accuracy_at_equal_robustness(table) if module.chooses_alpha else None

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.of_fixed is not None:
            log_same(pl_module, "test/accuracy_of_fixed_alpha", self.of_fixed)

    @property
    def _attack_in_words(self) -> str:
        attack = self.attack
        return attack.name or f"{type(attack).__name__} attack ({attack.norm}, {attack.epsilon:.4g})"

    def _attack(
        self, trainer: Trainer, module: MixedClassifier, image: Tensor, label: Tensor, alpha: float | None
    ) -> Tensor:
        """Evaluate a block of images. For each column of the table, return the sum over these images."""

        def network(given: Tensor) -> Any:
            mixed = module.mix(trainer.precision_plugin.convert_input(given), alpha)
            return mixed if self.attack.of_mixture else mixed.log_probability

        def judged(given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mixed = module.mix(trainer.precision_plugin.convert_input(given), alpha)
            log_p = mixed.log_probability
            return log_p.argmax(dim=1) == label, mixed.alpha.double().sum(), log_p

        right, mean_alpha, of_clean = judged(image)
        attacked = self.attack.perturb(network, image, label, logits=of_clean).to(image.dtype)
        withstood, mean_alpha_attacked, _ = judged(attacked)
        return torch.stack([right.sum().double(), (right & withstood).sum().double(), mean_alpha, mean_alpha_attacked])


def accuracy_at_equal_robustness(table: pd.DataFrame) -> float:
    """Interpolate the clean accuracy of the fixed alpha whose robust accuracy is that of the learned alpha.

    Interpolation is linear between neighbouring alphas. Outside the range of the fixed alphas, the accuracy of the
    nearest alpha is returned.

    Args:
        table: table with columns `alpha` (a number, or `learned` in one row), `accuracy` and `robust_accuracy`.
    """
    learned = table["alpha"] == "learned"
    fixed = table[~learned].sort_values("robust_accuracy", kind="stable")
    robust = table.loc[learned, "robust_accuracy"].item()
    return float(np.interp(robust, fixed["robust_accuracy"], fixed["accuracy"]))


def draw_alpha_curve(table: pd.DataFrame, attack: str) -> "Figure":
    """Plot accuracies against alpha, and robust accuracy against clean accuracy.

    Args:
        table: table with columns `alpha` (a number, or `learned`), `accuracy` and `robust_accuracy`.
        attack: name of the attack.
    """
    from matplotlib.figure import Figure

    learned, fixed = table[table["alpha"] == "learned"], table[table["alpha"] != "learned"]
    alpha = fixed["alpha"].astype(float)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for column, name, colour in (("accuracy", "clean images", "C0"), ("robust_accuracy", f"under {attack}", "C3")):
        left.plot(alpha, fixed[column], "o-", color=colour, label=f"{name}, fixed alpha", markersize=4)
        for value in learned[column]:
            left.axhline(value, color=colour, linestyle=":", label=f"{name}, learned alpha")
    left.axvline(0.5, color="0.5", linewidth=1)
    left.annotate("alpha = 1/2", (0.5, 0.72), xytext=(-4, 0), textcoords="offset points", ha="right", color="0.4")
    left.set(xlabel="alpha, weight of the robust classifier", ylabel="accuracy", xlim=(-0.02, 1.02), ylim=(0, 1.02))
    left.legend(loc="center left", fontsize=8)
    right.plot(fixed["accuracy"], fixed["robust_accuracy"], "o-", color="C0", markersize=4, label="fixed alpha")
    for value, x, y in zip(alpha, fixed["accuracy"], fixed["robust_accuracy"], strict=True):
        if value in (alpha.min(), alpha.max()) or value > 0.5:
            right.annotate(f"{value:g}", (x, y), xytext=(5, 3), textcoords="offset points", fontsize=8)
    if math.isclose(alpha.min(), 0) and math.isclose(alpha.max(), 1):
        ends = fixed.iloc[[alpha.argmin(), alpha.argmax()]]
        right.plot(ends["accuracy"], ends["robust_accuracy"], "--", color="0.5", linewidth=1, label="between the two")
    right.plot(learned["accuracy"], learned["robust_accuracy"], "*", color="C1", markersize=13, label="learned alpha")
    right.set(xlabel="accuracy on clean images", ylabel=f"accuracy under {attack}")
    right.margins(0.08)
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure
