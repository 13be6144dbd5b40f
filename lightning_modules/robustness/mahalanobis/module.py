"""The Mahalanobis detector: out-of-distribution and adversarial inputs from the features of a trained classifier.

For the features f_l of layer l, one Gaussian for each class with a shared covariance (`gaussians.py`) gives

    M_l(x) = max_c -d_c(f_l(x')) / 2,      d_c(f) = (f - mu_c)^T Sigma^+ (f - mu_c),
    x'     = x - epsilon sign(grad_x d_c^(f_l(x)) / 2),      c^ = argmin_c d_c(f_l(x)),

and a logistic regression on validation data weighs the layers (`ensemble.py`). Neither is the network changed, nor x'
clipped; sign(0) is +1. The paper has M_l without 1/2, and the published code has it, as here. Images are in [0, 1]
outside the network, so epsilon is in pixel units, and the code's division by the deviation of its normalised channels
falls away.

What the regression and epsilon are tuned on is the score's name:

* `tuned_on_target`: the first `num_validation` images of the test set and as many of the out-of-distribution set, half
  of them for the weights, half to choose epsilon by TNR at 95 % TPR. For an attack: a tenth of the images, by AUROC.
* `tuned_on_attack`: the same test images and their adversarial copies by the first of `attacks`; nothing of the
  out-of-distribution set.
* `mean`: nothing. The mean of the layers, each standardised by the rank of its covariance, with epsilon 0.
* `last`: nothing. The last layer, with epsilon 0.

The first `num_validation` images of either kind are left out of all metrics, whatever the score. An adversarial set has
clean images and noisy copies as its in-distribution inputs, as many of each, and holds the images that are classified
rightly, noisy or not, and wrongly under attack. The code takes the first tenth of those, and here it is those among the
first tenth of the test images, which are the same for all attacks. The baseline `lid` (`local_dimension.py`) is of
adversarial sets alone. Its weights and number of neighbours are tuned as weights and epsilon are, and its mini-batches
are of images in the set, in their order.

Source: Lee, Lee, Lee and Shin, A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks, NeurIPS 2018, arXiv 1807.03888.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from datamodules.batches import LabelledImageBatch, global_size, share
from lightning_modules.full_precision import in_full_precision
from lightning_modules.metrics.detection import METRICS, Detection
from lightning_modules.random_numbers import drawn_like, generator_of
from lightning_modules.robustness.attacks.ascent import Attack
from lightning_modules.robustness.attacks.minimal import MinimalAttack
from lightning_modules.robustness.mahalanobis.collected import Collected
from lightning_modules.robustness.mahalanobis.ensemble import FEWEST
from lightning_modules.robustness.mahalanobis.evaluation import (
    RIGHT,
    RIGHT_BY_DISTANCE,
    Measured,
    against_attacks,
    against_set,
    tuned_on_attack,
)
from lightning_modules.robustness.mahalanobis.gaussians import ClassGaussians
from lightning_modules.robustness.mahalanobis.layers import layer_features, named_layers, num_features
from lightning_modules.robustness.mahalanobis.preprocessing import layer_confidence
from lightning_modules.robustness.mahalanobis.scores import energy_confidence, odin_confidence, softmax_confidence
from lightning_modules.training.classifier import ClassifierSteps, accuracies

Score = Literal["tuned_on_target", "tuned_on_attack", "mean", "last", "softmax", "energy", "odin", "lid"]
SCORES = ("tuned_on_target", "tuned_on_attack", "mean", "last", "softmax", "energy", "odin", "lid")
NOISE, START = 0, 1  # what an image's random numbers are for


class Mahalanobis(ClassifierSteps, LightningModule):
    """Attaches a detector to a trained classifier: `fit` gathers statistics, `test` scores and measures.

    `fit` is one pass over the training images (one epoch; more change nothing) and trains nothing: the network is in
    evaluation mode, and the statistics are buffers of the checkpoint. They are best taken of images without
    augmentation. `train/cross_entropy` shows whether the network has the weights that it should have.

    `test` takes a DataModule with out-of-distribution sets, `OutOfDistribution`, or any
    one if there are `attacks`. For each set it logs of the chosen `score` `test/auroc_<set>`, `test/tnr95_<set>`,
    `test/aupr_in_<set>`, `test/aupr_out_<set>` and `test/detection_accuracy_<set>`, and without a set's name their
    means over the out-of-distribution sets; of all scores `test/auroc_<score>_<set>`.
    Noise and random starts of an attack are those of an image, whichever batch and process it falls to.
    `test/accuracy` is the network's, `test/accuracy_by_distance` that of the closest class mean in the last layer. The
    callback `DetectionReport` writes tables and figures of the same.

    Args:
        network: the trained classifier; maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`.
        num_classes: number of classes, K.
        layers: names of the modules whose outputs are the features, inside a `Normalized` network if it is one; the
            last one should be the one before the classifier.
        image_shape: C, H, W.
        score: the one that metrics without a score's name are of. `softmax`, `energy`, `odin` and `lid` are baselines,
            and `lid` has no metrics of out-of-distribution sets.
        epsilons: sizes of the input pre-processing to choose from, in pixel units; with 0.
        num_validation: images of the test set, and of each out-of-distribution set, that tuning may use.
        shrinkage: how far the covariance is moved towards a multiple of the identity, in [0, 1]; 0 is the paper's.
        attacks: what adversarial images are made by, to be detected; `lightning_modules.robustness.attacks.PGD` with
            one step and without a random start is FGSM; `lightning_modules.robustness.attacks.minimal` has DeepFool and
            that of Carlini and Wagner.
        noise_std: standard deviation of the noisy copies that count as in-distribution beside adversarial images, in
            pixel units: one for all attacks, or one for each by its name. Noise that is longer than an attack's
            perturbation hides it.
        odin: measure ODIN too, with the published grid of 44 settings; it takes 41 forward passes.
        lid: measure the local intrinsic dimension too. It keeps the features of the images that an attack fools, three
            times 4 D bytes each for layers of D features together.
        clip_noise: clip noisy copies to [0, 1], as the published code does.
        channels_last: names of those layers whose outputs are `[B, H, W, d]`, as in timm's Swin Transformers, instead
            of `[B, d, H, W]`. A wrong order is refused where images are square, unless d equals H and W.

    Raises:
        ValueError: if an argument is out of range, or a layer is not the network's.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        layers: list[str],
        image_shape: tuple[int, int, int],
        score: Score = "tuned_on_target",
        epsilons: list[float] = [0.0, 0.0005, 0.001, 0.0014, 0.002, 0.005, 0.01],  # noqa: B006 - shown by --help
        num_validation: int = 1000,
        shrinkage: float = 0.0,
        attacks: list[Attack | MinimalAttack] | None = None,
        noise_std: float | dict[str, float] = 0.0125,
        odin: bool = False,
        lid: bool = False,
        clip_noise: bool = False,
        channels_last: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.attacks = list(attacks or [])
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        if score == "tuned_on_attack" and not self.attacks:
            raise ValueError("score tuned_on_attack needs attacks, and there are none")
        if score == "odin" and not odin:
            raise ValueError("score odin needs odin: true")
        if lid and not self.attacks:
            raise ValueError("lid needs attacks, and there are none")
        if score == "lid" and not lid:
            raise ValueError("score lid needs lid: true")
        if 0 not in epsilons or min(epsilons) < 0 or len(set(epsilons)) < len(epsilons):
            raise ValueError(f"epsilons must be different numbers, at least 0 and with 0 among them, got {epsilons}")
        if num_validation < 2 * FEWEST:
            raise ValueError(f"num_validation must be at least {2 * FEWEST}, got {num_validation}")
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage must be in [0, 1], got {shrinkage}")
        titles = [attack.title for attack in self.attacks]
        if twice := sorted({title for title in titles if titles.count(title) > 1}):
            raise ValueError(f"attacks must have different names, got {', '.join(twice)} twice: set `name`")
        if isinstance(noise_std, dict) and set(noise_std) != set(titles):
            raise ValueError(f"noise_std must name each of the attacks {titles}, got {list(noise_std)}")
        of_attacks = noise_std if isinstance(noise_std, dict) else dict.fromkeys(titles, noise_std)
        if not all(std >= 0 for std in (of_attacks.values() if isinstance(noise_std, dict) else [noise_std])):
            raise ValueError(f"noise_std must be at least 0, got {noise_std}")
        # No step changes a parameter; that they could change keeps DistributedDataParallel content.
        for parameter in network.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        self.network = network.eval()
        self.num_classes = num_classes
        self.layers = named_layers(network, layers, channels_last or [])
        self.gaussians = ClassGaussians(num_classes, num_features(network, self.layers, image_shape))
        self.score = score
        self.epsilons = list(epsilons)
        self.num_validation = num_validation
        self.shrinkage = shrinkage
        self.noise_std = of_attacks
        self.odin = odin
        self.lid = lid
        self.clip_noise = clip_noise
        self.metrics = accuracies(num_classes)
        self.detections: list[Detection] = []

    @property
    def encoder(self) -> nn.Module:
        """The network, as what `Pretraining` may give its weights to."""
        return self.network

    def train(self, mode: bool = True) -> "Mahalanobis":
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def setup(self, stage: str) -> None:
        if stage == "fit" and str(self.trainer.precision) == "16-mixed":
            raise ValueError("trainer.precision 16-mixed scales losses, and there is none: use 32-true or bf16-mixed")

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        with torch.no_grad(), in_full_precision(self.device):
            logits, features = layer_features(self.network, self.layers, batch["image"])
            self.gaussians.update(features, batch["label"])
            loss = share(batch) * F.cross_entropy(logits, batch["label"])
        size = global_size(batch)
        self.log("train/cross_entropy", loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        optimizer: Any = self.optimizers()
        optimizer.step()
        return {"loss": loss, "logits": logits}

    def configure_optimizers(self):
        """An optimizer that finds no gradient: without steps Lightning saves no checkpoint."""
        return torch.optim.SGD(self.network.parameters(), lr=0.0)

    # testing

    def on_test_start(self) -> None:
        if not bool(self.gaussians.count.sum() > 0):
            raise ValueError("the class statistics are empty: run fit before, or test a checkpoint of such a run")
        loaders: Any = self.trainer.test_dataloaders
        loaders = list(loaders) if isinstance(loaders, list | tuple) else [loaders]
        names = list(getattr(self.trainer.datamodule, "origin_names", []))  # type: ignore[attr-defined]
        self._names = names if len(names) == len(loaders) else [f"set_{place}" for place in range(len(loaders))]
        if len(loaders) == 1 and not self.attacks:
            raise ValueError("there is nothing to detect: give data of OutOfDistribution, or attacks")
        limit = self.trainer.limit_test_batches
        self._limited = isinstance(limit, int) or limit < 1  # an integer counts batches: 1 is one, and 1.0 are all
        if len(loaders) > 1 and not self._limited:
            for name, loader in zip(self._names, loaders, strict=True):
                size = len(loader.dataset)
                if size <= self.num_validation:
                    raise ValueError(
                        f"num_validation {self.num_validation} leaves none of the {size} images of {name} to measure by"
                    )
        count = len(self.gaussians.num_features)
        with torch.inference_mode(False):  # as `test_step` differentiates through them
            self._whitened = [self.gaussians.whitened(layer, self.shrinkage) for layer in range(count)]
        self._collected = [Collected() for _ in loaders]
        self._attacked = [Collected() for _ in self.attacks]
        self._features = [Collected() for _ in self.attacks]

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        label, index = batch["label"], batch["index"]
        # Testing takes place in inference mode, whose tensors have no gradients.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            in_full_precision(self.device),
        ):
            image, label = batch["image"].clone(), label.clone()
            scores = self._scores(image, label)
            self._collected[dataloader_idx].update(index, scores)
            if dataloader_idx > 0 or not self.attacks:
                return
            positions = index.tolist()
            noise = drawn_like(image, torch.randn, [generator_of(position, NOISE) for position in positions])
            copies = {std: self._with_noise(image, std * noise) for std in self.noise_std.values()}
            noisy_scores = {std: self._scores(noisy, label) for std, noisy in copies.items()}
            for place, attack in enumerate(self.attacks):
                std = self.noise_std[attack.title]
                if isinstance(attack, MinimalAttack):
                    perturbed = attack.perturb(self.network, image, label)
                else:
                    starts = [generator_of(position, START) for position in positions]
                    perturbed = attack.perturb(self.network, image, label, starts)
                noisy, adversarial = noisy_scores[std], self._scores(perturbed, label)
                usable = scores[:, RIGHT] * noisy[:, RIGHT] * (1 - adversarial[:, RIGHT])
                self._attacked[place].update(index, torch.cat([usable[:, None], noisy, adversarial], dim=1))
                if self.lid:
                    self._keep_features(place, index, usable > 0, [image, copies[std], perturbed])

    def _with_noise(self, image: Tensor, noise: Tensor) -> Tensor:
        noisy = image + noise
        return noisy.clamp(0, 1) if self.clip_noise else noisy

    @torch.no_grad()
    def _keep_features(self, place: int, index: Tensor, usable: Tensor, copies: list[Tensor]) -> None:
        """Features of clean, noisy and adversarial copies of the images that an attack fools, `[rows, 3 D]`."""
        features = [torch.cat(layer_features(self.network, self.layers, copy)[1], dim=1) for copy in copies]
        self._features[place].update(index[usable], torch.cat(features, dim=1)[usable])

    def _scores(self, image: Tensor, label: Tensor) -> Tensor:
        """Everything that is known of a batch, `[B, columns]`: see `evaluation.py`."""
        logits, distances, layers = layer_confidence(self.network, self.layers, self._whitened, image, self.epsilons)
        nearest = self._whitened[-1].classes[distances[-1].argmin(dim=1)]
        columns = [softmax_confidence(logits), energy_confidence(logits)]
        columns += [(logits.argmax(dim=1) == label).double(), (nearest == label).double()]
        parts = [torch.stack(columns, dim=1), layers.flatten(1)]
        if self.odin:
            parts.append(odin_confidence(self.network, image).flatten(1))
        return torch.cat(parts, dim=1)

    def on_test_epoch_end(self) -> None:
        collected = [one.compute() for one in self._collected]
        attacked = {attack.title: one.compute()[1] for attack, one in zip(self.attacks, self._attacked, strict=True)}
        index, in_distribution = collected[0]
        self._log("accuracy", in_distribution[:, RIGHT].mean())
        self._log("accuracy_by_distance", in_distribution[:, RIGHT_BY_DISTANCE].mean())
        rank = [whitened.rank for whitened in self._whitened]
        for name, rank_of_layer, width in zip(self.layers, rank, self.gaussians.num_features, strict=True):
            if rank_of_layer < width:
                rank_zero_warn(
                    f"layer {name}: the covariance of {width} features has rank {rank_of_layer}; the distances ignore "
                    f"the other directions (shrinkage would use them)"
                )
        needed = None if self._limited else self.score
        measured = Measured(list(self.layers), torch.tensor(rank), self.epsilons, self.odin, needed)
        smallest = min(len(rows) for rows, _ in collected)
        V = min(self.num_validation, smallest // 2) if self._limited else self.num_validation
        by_attack = tuned_on_attack(measured, in_distribution, attacked, V) if attacked and len(collected) > 1 else None
        of_sets = [
            against_set(measured, name, (index, in_distribution), other, V, by_attack)
            for name, other in zip(self._names[1:], collected[1:], strict=True)
        ]
        features = dict(zip(attacked, self._features, strict=True)) if self.lid else {}
        of_attacks = against_attacks(measured, index, in_distribution, attacked, features, self.gaussians.num_features)
        self.detections = of_sets + of_attacks
        self._log_detections(num_averaged=len(of_sets) or len(of_attacks))

    def _log_detections(self, num_averaged: int) -> None:
        """Logs metrics of each set, and the means of the chosen score's over the first ones."""
        means: dict[str, list[float]] = {metric: [] for metric in METRICS}
        for place, detection in enumerate(self.detections):
            for method in detection.confidence:
                values = detection.metrics(method)
                if method in SCORES:
                    self._log(f"auroc_{method}_{detection.target}", values["auroc"])
                if method == self.score:
                    for metric, value in values.items():
                        self._log(f"{metric}_{detection.target}", value)
                        if place < num_averaged:
                            means[metric].append(value)
        for metric, of_sets in means.items():
            if of_sets:
                self._log(metric, sum(of_sets) / len(of_sets))

    def _log(self, name: str, value: Tensor | float) -> None:
        """All processes have the same value, and a maximum leaves it."""
        self.log(f"test/{name}", value, reduce_fx="max", sync_dist=True)
