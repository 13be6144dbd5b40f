"""Accuracy of any classifier under attack."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.attacks.block_files import BlockFiles
from callbacks.drawing.image_grid import draw_image_grid
from datamodules.files.whole_files import save_figure, whole_file, write_text
from lightning_modules.interfaces import Classifier, ImageColumn, MixedClassifier, SmoothedClassifier, require
from lightning_modules.random_numbers import seed_of
from lightning_modules.resumable.other_processes import in_first_process
from lightning_modules.resumable.results_directory import results_directory
from lightning_modules.resumable.tested_images import TestedImages, require_testing
from lightning_modules.robustness.attacks.ascent import PGD, Attack, Network, require_gradients, size
from lightning_modules.robustness.attacks.auto_attack import AutoAttack, with_fixed_draws
from lightning_modules.robustness.certificates.votes import GaussianSmoothing
from lightning_modules.robustness.mean_prediction import log_mean_softmax

PICTURE = "adversarial.png"
SAME = ["checkpoint", "attack", "norm", "epsilon", "steps", "restarts", "sigma", "num_images"]
"""Columns of the table that say what was attacked and how."""
CLEAN, PERTURBING, PERTURBED = 0, 1, 2  # what a block's random numbers are for


class Draw(Protocol):
    """One evaluation of the classifier."""

    def __call__(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Maps images to the logits `[S, B, K]` of S votes, of which most classifiers have one.

        Args:
            image: `[B, C, H, W]`.
            noise: `[B, C, H, W]`, standard normal, for a smoothed classifier; None draws it.
        """
        ...


class RobustAccuracy(Callback):
    """Attacks the test set of any classifier, on any number of processes, before its other test metrics are computed.

    An image counts as robust to an attack if it is classified rightly before and after it. In the run directory this
    writes `robust_accuracy.csv`, with a row for each attack and tested checkpoint, `figures/adversarial_last.png`, or
    what the checkpoint is called (`adversarial.png` without one), and in `robust_accuracy_rows` the predictions of each
    image; it logs `test/robust_accuracy_<attack>`. Rows of earlier evaluations stay in the table, but for those under
    the same checkpoint's name that were of other weights, or of the same attack with the same settings.

    Images are attacked in blocks of `batch_size`, whose random numbers depend on (seed, block, attack) alone: any
    number of processes finds the same perturbations, and with the same weights and settings an interrupted evaluation
    goes on after its last finished block. The directory must be one that all processes share.

    Args:
        attacks: what the classifier is attacked with, one by one: `lightning_modules.robustness.attacks.PGD` or
            `AutoAttack`.
        batch_size: images that a process attacks at once. Processes share out blocks of so many images, so with few
            images a smaller one uses more processes.
        skip: every `skip`-th image of the set is attacked.
        max: positions from here on are left out; None leaves out none.
        sigma: standard deviation of Gaussian noise, in pixel units. If it is positive, the smoothed classifier is
            attacked, and 0 attacks the module as it is. Of a `SmoothedClassifier` all votes count, as in its
            certificate; gradients are those of the mean of their probabilities.
        num_draws: evaluations of each image whose votes decide its class; 1 for a deterministic classifier.
        seed: of all random numbers.
        num_shown: images in the figure.

    Raises:
        ValueError: if an argument is out of range, two attacks have one name, or `sigma` asks for more draws.
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
            raise ValueError("attacks must name at least one, got []")
        titles = [attack.title for attack in attacks]
        if twice := sorted({title for title in titles if titles.count(title) > 1}):
            raise ValueError(f"attacks must have different names, got {', '.join(twice)} twice: set `name`")
        for key, value, least in (
            ("batch_size", batch_size, 1),
            ("skip", skip, 1),
            ("max", max, 1),
            ("num_draws", num_draws, 1),
            ("seed", seed, 0),
            ("num_shown", num_shown, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{key} must be at least {least}, got {value}")
        if sigma < 0:
            raise ValueError(f"sigma must be at least 0, got {sigma}")
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
            raise ValueError(f"num_draws must be at least 2 with sigma {sigma}: a smoothed class is that of most votes")
        for attack in attacks:
            if sigma > 0 and getattr(attack, "num_draws", 2) == 1:
                raise ValueError(f"{attack.title}: num_draws must be at least 2 with sigma {sigma}, got 1")
            if sigma == 0 and num_draws > 1 and isinstance(attack, AutoAttack):
                raise ValueError(
                    f"{attack.title}: AutoAttack needs a deterministic classifier, and num_draws {num_draws} without "
                    f"sigma is for one with random numbers of its own: use PGD with num_draws"
                )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "test":
            return
        if not (self.sigma > 0 and isinstance(pl_module, SmoothedClassifier)):
            require(pl_module, Classifier, "RobustAccuracy")
        if self.sigma > 0 and isinstance(pl_module, MixedClassifier):
            raise ValueError(
                f"sigma must be 0 for {type(pl_module).__name__}, got {self.sigma}: under noise its robust classifier "
                f"votes alone, whose robust accuracy is not the mixture's"
            )
        require_testing(trainer, "RobustAccuracy")
        require_gradients(str(trainer.precision), "RobustAccuracy")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        images = TestedImages(trainer, "RobustAccuracy")
        positions = images.chosen(self.skip, self.max)
        with results_directory(trainer) as directory:
            settings = self._settings(pl_module, images, positions)
            files = BlockFiles(trainer, directory / "robust_accuracy_rows", settings, positions, self.batch_size)
            draw = self._draw(trainer, pl_module)
            rows = files.evaluate(
                lambda number, block: self._attack_block(draw, images, number, block, files.folder, trainer),
                text_columns=["attack"],
            )
            table = self._table(rows).assign(weights=settings["weights"])
            self.results = dict(zip(table["attack"], table["robust_accuracy"], strict=True))
            checkpoint = Path(str(trainer.ckpt_path or "")).stem
            in_first_process(trainer, lambda: _write_results(table, files.folder, checkpoint, directory))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, value in self.results.items():
            # All processes have the same value, and a maximum leaves it as it is.
            pl_module.log(f"test/robust_accuracy_{name}", value, reduce_fx="max", sync_dist=True, batch_size=1)

    def _settings(self, pl_module: LightningModule, images: TestedImages, positions: range) -> dict[str, Any]:
        return {
            "attacks": {attack.title: attack.settings() for attack in self.attacks},
            "sigma": self.sigma,
            "num_draws": self.num_draws,
            "seed": self.seed,
            "skip": self.skip,
            **images.settings(pl_module, positions),
        }

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> Draw:
        def network(image: Tensor) -> Tensor:
            return pl_module(trainer.precision_plugin.convert_input(image))

        if not self.sigma > 0:
            return lambda image, noise=None: network(image)[None]
        smoothed = pl_module if isinstance(pl_module, SmoothedClassifier) else GaussianSmoothing(network)

        def draw(image: Tensor, noise: Tensor | None = None) -> Tensor:
            return smoothed.smoothed_logits(image, torch.randn_like(image) if noise is None else noise, self.sigma)

        return draw

    def _attacked(self, draw: Draw) -> Network:
        """What attacks differentiate: images to logits `[B, K]`. Votes have no gradient, so of several votes it is the
        mean of their probabilities."""
        if not self.sigma > 0:
            return lambda image: draw(image)[0]
        return lambda image: log_mean_softmax(draw(image))

    def _perturb(self, draw: Draw, attack: Attack, image: Tensor, label: Tensor) -> Tensor:
        """Attacks images `[B, C, H, W]` with labels `[B]`. Only a deterministic classifier has AutoAttack.

        It returns an image as it was where fixed draws err on the image itself, or on no point that it tried. Votes may
        say otherwise of both, so these images are attacked by projected gradient ascent with new draws.
        """
        if not (self.sigma > 0 and isinstance(attack, AutoAttack)):
            return attack.perturb(self._attacked(draw), image, label)
        noise = torch.randn(attack.num_draws, *image.shape[1:], dtype=image.dtype, device=image.device)
        attacked = attack.perturb(with_fixed_draws(draw, noise), image, label)
        left = (attacked == image).flatten(1).all(dim=1)
        if left.any():
            ascent = PGD(attack.norm, attack.epsilon, attack.steps, num_draws=attack.num_draws)
            attacked[left] = ascent.perturb(self._attacked(draw), image[left], label[left])
        return attacked

    def _attack_block(
        self,
        draw: Draw,
        images: TestedImages,
        number: int,
        positions: range,
        folder: Path,
        trainer: Trainer,
    ) -> pd.DataFrame:
        """Attacks one block and returns its rows. With the first one goes the figure, into the folder."""
        block = [images[position] for position in positions]
        image = torch.stack([one.image for one in block])
        label = torch.tensor([one.label for one in block], device=image.device)
        self._seed(number, 0, CLEAN)
        prediction = self._predict(draw, image, positions)
        right = (prediction == label).nonzero()[:, 0]
        shown = right[: self.num_shown]
        frames, grid = [], {"clean": self._column(trainer, image[shown], prediction[shown], prediction[shown])}
        for place, attack in enumerate(self.attacks):
            adversarial, attacked_prediction = image.clone(), prediction.clone()
            if len(right):
                self._seed(number, place, PERTURBING)
                adversarial[right] = self._perturb(draw, attack, image[right], label[right]).to(image.dtype)
                self._seed(number, place, PERTURBED)
                attacked_prediction[right] = self._predict(draw, adversarial[right], positions)
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
            title = "" if len(shown) else "no image of the first block is classified rightly"
            save_figure(draw_image_grid(grid, title=title), folder / PICTURE)
        return pd.concat(frames)

    @staticmethod
    def _column(trainer: Trainer, image: Tensor, prediction: Tensor, unattacked: Tensor) -> ImageColumn:
        """Images with the predicted classes below them, in red where the attack changed them."""
        names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        captions = [str(k) if names is None else names[k] for k in prediction.tolist()]
        return ImageColumn(image, captions, (prediction != unattacked).tolist())

    def _seed(self, block: int, attack: int, purpose: int) -> None:
        torch.manual_seed(seed_of(self.seed, block, attack, purpose))

    def _predict(self, draw: Draw, image: Tensor, positions: range) -> Tensor:
        """The class of most votes in `num_draws` evaluations, `[B]`; ties go to the lowest.

        Raises:
            ValueError: if logits are NaN.
        """
        votes = torch.zeros((), dtype=torch.int64, device=image.device)
        broken = torch.zeros((), dtype=torch.bool, device=image.device)
        for _ in range(self.num_draws):
            logits = draw(image)
            votes = votes + torch.nn.functional.one_hot(logits.argmax(dim=2), logits.shape[2]).sum(dim=0)
            broken = broken | logits.isnan().any()
        if broken:  # the host looks once
            raise ValueError(
                f"the network's logits are NaN for images in {positions[0]}...{positions[-1]} of the test set"
            )
        return votes.argmax(dim=1)

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
    """Adds a table to that of the run, see `RobustAccuracy`, and copies the checkpoint's picture from the folder of its
    rows."""
    path, picture = directory / "robust_accuracy.csv", directory / "figures" / PICTURE
    table.insert(0, "checkpoint", checkpoint or "none")
    if path.is_file():
        table = table.astype(str)  # names may look like numbers
        earlier = pd.read_csv(path, dtype=str, keep_default_na=False).reindex(columns=table.columns)
        of_checkpoint = earlier["checkpoint"] == table["checkpoint"].iloc[0]
        stale = of_checkpoint & (earlier["weights"] != table["weights"].iloc[0])
        table = pd.concat([earlier[~stale], table]).drop_duplicates(SAME, keep="last")
    write_text(path, table.to_csv(index=False))
    if checkpoint:
        picture = picture.with_stem(f"{picture.stem}_{checkpoint}")
    with whole_file(picture) as partial:
        shutil.copyfile(folder / PICTURE, partial)
