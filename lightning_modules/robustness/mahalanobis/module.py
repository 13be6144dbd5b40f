"""Statistics, scores and metrics of the Mahalanobis detector; the method is described in `__init__.py`."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, within
from datamodules.batches import LabelledImageBatch, global_batch_size, loss_weight
from datamodules.randomness.generators import generator_of, sample_like
from lightning_modules.full_precision import in_full_precision
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
from lightning_modules.robustness.mahalanobis.gaussians import ClassGaussians
from lightning_modules.robustness.mahalanobis.layers import layer_features, named_layers, num_features
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.logging import log_same

Score = Literal["tuned_on_target", "tuned_on_attack", "mean", "last", "softmax", "energy", "odin", "lid"]
SCORES = ("tuned_on_target", "tuned_on_attack", "mean", "last", "softmax", "energy", "odin", "lid")
NOISE, START = 0, 1  # what an image's random numbers are for


class Mahalanobis(ClassifierSteps, MethodModule):
    """Attaches a detector to a trained classifier: `fit` gathers statistics, `test` scores and measures.

    `fit` is one pass over the training images (one epoch; more change nothing) and trains nothing: the network is in
    evaluation mode, and the statistics are buffers of the checkpoint. They are best taken of images without
    augmentation. `train/cross_entropy` shows whether the network has the weights that it should have.

    `test` takes a DataModule with out-of-distribution sets, `OutOfDistribution`, or any one if there are `attacks`. For
    each set it logs of the chosen `score` `test/<metric>_<set>`, for `auroc`, `tnr95`, `aupr_in`, `aupr_out` and
    `detection_accuracy`, and without a set's name their means over the out-of-distribution sets; of all scores
    `test/auroc_<score>_<set>`. `test/accuracy` is the network's, `test/accuracy_by_distance` that of the closest class
    mean in the last layer. The callback `DetectionReport` writes tables and figures of the same. Noise and random
    starts of an attack are those of an image, whichever batch and process it falls to.

    Args:
        network: the trained classifier; maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`.
        num_classes: number of classes, K.
        layers: names of the modules whose outputs are the features, inside a `Normalized` network if it is one; the
            last one should be the one before the classifier.
        image_shape: shape of an image: channels, height, width.
        score: score of the metrics without a score's name. `softmax`, `energy`, `odin` and `lid` are baselines, and
            `lid` has no metrics of out-of-distribution sets.
        epsilons: sizes of the input pre-processing to choose from, in pixel units; with 0.
        num_validation: images of the test set, and of each out-of-distribution set, that tuning may use.
        shrinkage: how far the covariance is moved towards a multiple of the identity, in [0, 1]; 0 is the paper's.
        attacks: attacks whose adversarial images are to be detected: `PGD` (with one step and without a random start
            it is FGSM), `DeepFool` or `CarliniWagner` of `lightning_modules.robustness.attacks`.
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
        one_of(SCORES, score=score)
        for name, wanted in {"score tuned_on_attack": score == "tuned_on_attack", "lid": lid}.items():
            if wanted and not self.attacks:
                raise ValueError(f"{name} needs attacks, and there are none")
        for name, measured in {"odin": odin, "lid": lid}.items():
            if score == name and not measured:
                raise ValueError(f"score {name} needs {name}: true")
        if 0 not in epsilons or min(epsilons) < 0 or len(set(epsilons)) < len(epsilons):
            raise ValueError(f"epsilons must be different numbers, at least 0 and with 0 among them, got {epsilons}")
        at_least(2 * FEWEST, num_validation=num_validation)
        within(0, 1, shrinkage=shrinkage)
        titles = different_titles(self.attacks)
        if isinstance(noise_std, dict) and set(noise_std) != set(titles):
            raise ValueError(f"noise_std must name each of the attacks {titles}, got {list(noise_std)}")
        of_attacks = noise_std if isinstance(noise_std, dict) else dict.fromkeys(titles, noise_std)
        for std in of_attacks.values() if isinstance(noise_std, dict) else [noise_std]:
            at_least(0, noise_std=std)
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
        self.detections: list[DetectionResult] = []

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
        super().setup(stage)
        if stage == "fit" and str(self.trainer.precision) == "16-mixed":
            raise ValueError("trainer.precision 16-mixed scales losses, and there is none: use 32-true or bf16-mixed")

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        with torch.no_grad(), in_full_precision(self.device):
            logits, features = layer_features(self.network, self.layers, batch["image"])
            self.gaussians.update(features, batch["label"])
            loss = loss_weight(batch) * F.cross_entropy(logits, batch["label"])
        size = global_batch_size(batch)
        self.log("train/cross_entropy", loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        self.optimizers().step()  # type: ignore[union-attr]
        return {"loss": loss, "logits": logits}

    def configure_optimizers(self) -> Any:
        """Give an optimizer that finds no gradient: without steps Lightning saves no checkpoint."""
        return torch.optim.SGD(self.network.parameters(), lr=0.0)

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
            refuse_too_few(self._names, [len(loader.dataset) for loader in loaders], self.num_validation)
        with torch.inference_mode(False):  # as `test_step` differentiates through them
            whitened = [self.gaussians.whitened(layer, self.shrinkage) for layer in range(len(self.layers))]
        self._scorer = Scorer(self.network, self.layers, whitened, self.epsilons, self.odin)
        self._collected = [Collected() for _ in loaders]
        self._attacked = [Collected() for _ in self.attacks]
        self._features = [Collected() for _ in self.attacks]

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        label, index = batch["label"], batch["index"]
        # Testing takes place in inference mode, whose tensors have no gradients.
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
