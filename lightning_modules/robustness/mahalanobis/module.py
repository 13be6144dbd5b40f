"""LightningModule of the Mahalanobis detector; the package docstring describes the method."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of
from datamodules.batches import LabelledImageBatch, global_batch_size, loss_weight
from datamodules.randomness.generators import generator_of, sample_like
from lightning_modules.full_precision import in_full_precision
from lightning_modules.interfaces import TestOrigins, data_with
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.collected import Collected
from lightning_modules.metrics.detection import DetectionResult, metrics_by_name
from lightning_modules.robustness.attacks.ascent import Attack, different_titles
from lightning_modules.robustness.attacks.minimal import MinimalAttack
from lightning_modules.robustness.mahalanobis.ensemble import FEWEST
from lightning_modules.robustness.mahalanobis.evaluation import (
    RIGHT,
    RIGHT_BY_DISTANCE,
    MeasuredScores,
    Scorer,
    against_attacks,
    against_set,
    refuse_too_few,
    tuned_on_attack,
    warn_of_ignored_directions,
)
from lightning_modules.robustness.mahalanobis.frozen_network import StreamsStatistics, frozen_for_statistics
from lightning_modules.robustness.mahalanobis.gaussians import ClassGaussians
from lightning_modules.robustness.mahalanobis.layers import named_layers, num_features
from lightning_modules.robustness.mahalanobis.preprocessing import ImageScores
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.logging import log_same

Score = Literal["tuned_on_target", "tuned_on_attack", "mean", "last", "softmax", "energy", "odin", "lid"]
SCORES = ("tuned_on_target", "tuned_on_attack", "mean", "last", "softmax", "energy", "odin", "lid")
NOISE, START = 0, 1  # keys that separate the random numbers of an image by purpose


@dataclass(frozen=True)
class CopyNoise:
    """Noise of the noisy copies of clean images; adversarial images must be told from both.

    Args:
        std: standard deviation, in pixel units: one number, or a dict with one number per attack name. If the noise is
            larger than the perturbation of an attack, the attack cannot be detected.
        clip: whether to clip noisy copies to [0, 1], as in the published code.
    """

    std: float | dict[str, float] = 0.0125
    clip: bool = False

    def __post_init__(self) -> None:
        for std in self.std.values() if isinstance(self.std, dict) else [self.std]:
            at_least(0, **{"noise.std": std})

    def by_attack(self, titles: list[str]) -> dict[str, float]:
        """Return the standard deviation for each attack, given by its name in tables."""
        if not isinstance(self.std, dict):
            return dict.fromkeys(titles, self.std)
        if set(self.std) != set(titles):
            raise ValueError(f"noise.std must name each of the attacks {titles}, got {list(self.std)}")
        return self.std


class Mahalanobis(ImageScores, StreamsStatistics, ClassifierSteps, MethodModule):
    """Detect out-of-distribution and adversarial inputs of a trained classifier by Mahalanobis distances.

    `fit` trains no parameters: it computes the statistics of the classes in one pass over the training images, and
    further epochs have no effect. Use images without augmentation. The network stays in evaluation mode. The checkpoint
    stores the statistics as buffers. The logged `train/cross_entropy` shows whether the network is a trained one.

    `test` evaluates the detection. It needs the DataModule `OutOfDistribution`, or, with `attacks`, any DataModule of
    labelled images. For the main score `score` and each set, `test` logs `test/<metric>_<set>` with the metrics
    `auroc`, `tnr95`, `aupr_in`, `aupr_out` and `detection_accuracy`. `test/<metric>` is the mean over
    out-of-distribution sets. For every score, `test` logs `test/auroc_<score>_<set>`. `test/accuracy` is the accuracy
    of the network, and `test/accuracy_by_distance` is the accuracy of predicting the class with the nearest mean in the
    last layer. The callback `DetectionReport` writes the corresponding tables and figures. Noise and random starts of
    attacks are seeded per image, so that they do not depend on the batch or the rank.

    Args:
        network: trained classifier that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`.
        num_classes: number of classes, K.
        layers: names of the modules whose outputs provide the features. The last name should be the module before the
            linear classifier. If the network is wrapped in `Normalized`, names are relative to the inner network.
        image_shape: numbers of channels, rows and columns of an image.
        score: name of the main score, whose metrics are logged as `test/<metric>_<set>`. `softmax`, `energy`, `odin`
            and `lid` are baselines. `lid` has no metrics for out-of-distribution sets.
        epsilons: candidate step sizes of the input pre-processing, in pixel units; must include 0.
        num_validation: number of images that are used for tuning, in the test set and in each out-of-distribution set.
        attacks: attacks whose adversarial images are to be detected: objects of the classes `PGD`, `DeepFool` or
            `CarliniWagner` from `lightning_modules.robustness.attacks`. For FGSM, use `PGD` with one step and without a
            random start.
        noise: noise of the noisy copies with which adversarial images are compared.
        odin: whether to evaluate ODIN with the published grid of 44 settings, which needs 41 forward passes.
        lid: whether to evaluate the local intrinsic dimension. With D features in total over all layers, the module
            stores 3 x 4 D bytes of features for each image in an adversarial set.
        channels_last: names of the layers whose outputs have the shape `[B, H, W, d]` instead of `[B, d, H, W]`, as in
            timm's Swin Transformers. For square images, a layer with the wrong layout is rejected, unless d = H = W.

    Examples:
        >>> from datamodules.classification.digits import Digits
        >>> from lightning_modules.networks.convnet import ConvNet
        >>> digits = Digits().training()
        >>> images, model = digits.image / 16, Mahalanobis(ConvNet(1, [4, 4], 10), 10, ["relu2"], (1, 8, 8))
        >>> _ = model.observe(images, digits.label)
        >>> bool(model.score_images(images).mean() > model.score_images(1 - images).mean())
        True
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
        attacks: list[Attack | MinimalAttack] | None = None,
        noise: CopyNoise = CopyNoise(),
        odin: bool = False,
        lid: bool = False,
        channels_last: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.attacks = list(attacks or [])
        one_of(SCORES, score=score)
        for name, wanted in {"score tuned_on_attack": score == "tuned_on_attack", "lid": lid}.items():
            if wanted and not self.attacks:
                raise ValueError(f"{name} needs attacks, but none are given")
        for name, measured in {"odin": odin, "lid": lid}.items():
            if score == name and not measured:
                raise ValueError(f"score {name} needs {name}: true")
        if 0 not in epsilons or min(epsilons) < 0 or len(set(epsilons)) < len(epsilons):
            raise ValueError(f"epsilons must be distinct, non-negative and include 0, got {epsilons}")
        at_least(2 * FEWEST, num_validation=num_validation)
        self.noise_std = noise.by_attack(different_titles(self.attacks))
        self.clip_noise = noise.clip
        self.network = frozen_for_statistics(network)
        self.num_classes = num_classes
        self.layers = named_layers(network, layers, channels_last or [])
        self.gaussians = ClassGaussians(num_classes, num_features(network, self.layers, image_shape))
        self.score = score
        self.epsilons = list(epsilons)
        self.num_validation = num_validation
        self.odin = odin
        self.lid = lid
        self.metrics = accuracies(num_classes)
        self.detections: list[DetectionResult] = []

    @property
    def encoder(self) -> nn.Module:
        return self.network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        logits = self.observe(batch["image"], batch["label"])
        loss = loss_weight(batch) * F.cross_entropy(logits, batch["label"])
        size = global_batch_size(batch)
        self.log("train/cross_entropy", loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        self.optimizers().step()  # type: ignore[union-attr]
        return {"loss": loss, "logits": logits}

    def on_test_start(self) -> None:
        if not bool(self.gaussians.count.sum() > 0):
            raise ValueError("the class statistics are empty: run fit first, or test a checkpoint of a fit run")
        loaders: Any = self.trainer.test_dataloaders
        loaders = list(loaders) if isinstance(loaders, list | tuple) else [loaders]
        data = data_with(self.trainer, TestOrigins)
        names = [] if data is None else list(data.origin_names)
        self._names = names if len(names) == len(loaders) else [f"set_{place}" for place in range(len(loaders))]
        if len(loaders) == 1 and not self.attacks:
            raise ValueError("there is nothing to detect: use the data OutOfDistribution, or set model.attacks")
        limit = self.trainer.limit_test_batches
        self._limited = isinstance(limit, int) or limit < 1  # int: number of batches; 1.0: all batches
        if len(loaders) > 1 and not self._limited:
            refuse_too_few(self._names, [len(loader.dataset) for loader in loaders], self.num_validation)
        with torch.inference_mode(False):  # `test_step` needs gradients through these tensors
            whitened = self.gaussians.whitenings()
        self._scorer = Scorer(self.network, self.layers, whitened, self.epsilons, self.odin)
        self._collected = [Collected() for _ in loaders]
        self._attacked = [Collected() for _ in self.attacks]
        self._features = [Collected() for _ in self.attacks]

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        label, index = batch["label"], batch["index"]
        # Lightning runs tests in inference mode, which does not compute gradients.
        with torch.inference_mode(False), torch.enable_grad(), in_full_precision(self.device):
            image, label = batch["image"].clone(), label.clone()
            scores = self._scorer.scores(image, label)
            self._collected[dataloader_idx].update(index, scores)
            if dataloader_idx > 0 or not self.attacks:
                return
            positions = index.tolist()
            noise = sample_like(image, torch.randn, [generator_of(position, NOISE) for position in positions])
            copies = {std: image + std * noise for std in self.noise_std.values()}
            if self.clip_noise:
                copies = {std: noisy.clamp(0, 1) for std, noisy in copies.items()}
            noisy_scores = {std: self._scorer.scores(noisy, label) for std, noisy in copies.items()}
            for place, attack in enumerate(self.attacks):
                std = self.noise_std[attack.title]
                if isinstance(attack, MinimalAttack):
                    perturbed = attack.perturb(self.network, image, label)
                else:
                    starts = [generator_of(position, START) for position in positions]
                    perturbed = attack.perturb(self.network, image, label, starts)
                noisy, adversarial = noisy_scores[std], self._scorer.scores(perturbed, label)
                usable = scores[:, RIGHT] * noisy[:, RIGHT] * (1 - adversarial[:, RIGHT])
                self._attacked[place].update(index, torch.cat([usable[:, None], noisy, adversarial], dim=1))
                if self.lid:
                    features = self._scorer.features([image, copies[std], perturbed])
                    self._features[place].update(index[usable > 0], features[usable > 0])

    def on_test_epoch_end(self) -> None:
        collected = [one.compute() for one in self._collected]
        attacked = {attack.title: one.compute()[1] for attack, one in zip(self.attacks, self._attacked, strict=True)}
        index, in_distribution = collected[0]
        log_same(self, "test/accuracy", in_distribution[:, RIGHT].mean())
        log_same(self, "test/accuracy_by_distance", in_distribution[:, RIGHT_BY_DISTANCE].mean())
        rank = [whitened.rank for whitened in self._scorer.whitened]
        warn_of_ignored_directions(list(self.layers), rank, self.gaussians.num_features)
        needed = None if self._limited else self.score
        measured = MeasuredScores(list(self.layers), torch.tensor(rank), self.epsilons, self.odin, needed)
        half = min(len(rows) for rows, _ in collected) // 2
        V = min(self.num_validation, half) if self._limited else self.num_validation
        by_attack = tuned_on_attack(measured, in_distribution, attacked, V) if attacked and len(collected) > 1 else None
        of_sets = [
            against_set(measured, name, (index, in_distribution), other, V, by_attack)
            for name, other in zip(self._names[1:], collected[1:], strict=True)
        ]
        features = dict(zip(attacked, self._features, strict=True)) if self.lid else {}
        of_attacks = against_attacks(measured, index, in_distribution, attacked, features, self.gaussians.num_features)
        self.detections = of_sets + of_attacks
        averaged = len(of_sets) or len(of_attacks)
        for name, value in metrics_by_name(self.detections, self.score, SCORES, averaged).items():
            log_same(self, f"test/{name}", value)
