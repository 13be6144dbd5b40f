"""Out-of-distribution scores from the package pytorch-ood, computed from the logits and features of a classifier.

The package implements about twenty published scores. Some scores use the logits (MaxSoftmax, EnergyBased, MaxLogit,
Entropy, GEN, KLMatching). Other scores use the features before the last linear layer (KNN, Mahalanobis, ViM, SHE, ...).
All scores are computed from the same forward pass.

Source: Kirchheim, Filax and Ortmeier, PyTorch-OOD: A Library for Out-of-Distribution Detection based on PyTorch, CVPR
Workshops 2022.
"""

import copy
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import LabelledImageBatch
from lightning_modules.backbones.layer_features import classifier_layer, logits_and_features, tap_layers
from lightning_modules.interfaces import TestOrigins, TrainingImageSource, data_with, require_data
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.collected import Collected
from lightning_modules.metrics.detection import DetectionResult, metrics_by_name
from lightning_modules.optim.optimizers import constant, optimizer_config, sgd, trainable_parameters
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.evaluation_mode import iterate_logits
from lightning_modules.training.logging import log_same, log_training


class OODScores(ClassifierSteps, MethodModule):
    """Train a classifier with cross-entropy, and test how well its outputs detect out-of-distribution images.

    Detectors use the logits and features of the classifier. `test` needs the DataModule `OutOfDistribution`. Before the
    test, detectors that need to be fitted are fitted to the whole training set, without augmentation. The forward
    passes are sharded over ranks, and all ranks compute the same scores.

    Args:
        network: classifier that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`. Its last layer must
            be linear.
        num_classes: number of classes, K.
        detectors: dict from the class names of detectors in `pytorch_ood.detector` to the arguments of these detectors.
            The metrics of the first detector are logged without the name of the detector.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        detectors: dict[str, dict[str, bool | int | float | str]] = {"EnergyBased": {}},  # noqa: B006 - shown by --help
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        for name, given in detectors.items():
            detector_of(name, given, classifier_layer(network))
        self.detectors = detectors
        self.score = next(iter(detectors))
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)
        self.detections: list[DetectionResult] = []

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["image"])
        loss = F.cross_entropy(logits, batch["label"])
        return {"loss": log_training(self, batch, loss), "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))

    def on_test_start(self) -> None:
        data = data_with(self.trainer, TestOrigins)
        self._names = [] if data is None else list(data.origin_names)
        if len(self._names) < 2:
            raise ValueError("OODScores needs out-of-distribution test images: set data to OutOfDistribution")
        self._seen = [Collected() for _ in self._names]
        head = copy.deepcopy(classifier_layer(self.network)).cpu().float()
        self.scorers = {name: detector_of(name, given, head) for name, given in self.detectors.items()}
        if fitted := [scorer for scorer in self.scorers.values() if scorer.requires_fit]:
            loader = require_data(self.trainer, TrainingImageSource, "OODScores").training_images_dataloader()
            seen = Collected()
            with tap_layers({"head": classifier_layer(self.network)}, inputs=True) as features:
                for batch, logits in iterate_logits(self.trainer, self, loader):
                    seen.update(batch["index"], concatenate_batches(logits, features["head"].pop(), batch["label"]))
            _, *parts, label = self._parts(seen)
            for scorer in fitted:
                scorer.fit_logits(parts[0], label) if of_logits(scorer) else scorer.fit_features(parts[1], label)

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        rows = concatenate_batches(*logits_and_features(self.network, batch["image"]), batch["label"])
        self._seen[dataloader_idx].update(batch["index"], rows)

    def on_test_epoch_end(self) -> None:
        (own, logits, features, label), *others = map(self._parts, self._seen)
        log_same(self, "test/accuracy", (logits.argmax(dim=1) == label).double().mean())
        self.detections = []
        for target, (index, *other, _) in zip(self._names[1:], others, strict=True):
            is_target = torch.arange(len(own) + len(index)) >= len(own)
            both = [torch.cat(pair) for pair in zip((logits, features), other, strict=True)]
            confidence = {
                name: -(each.predict_logits(both[0]) if of_logits(each) else each.predict_features(both[1])).double()
                for name, each in self.scorers.items()
            }
            none = torch.zeros_like(is_target)
            self.detections.append(DetectionResult(target, torch.cat([own, index]), is_target, none, confidence))
        named = metrics_by_name(self.detections, self.score, list(self.scorers), len(self.detections))
        for name, value in named.items():
            log_same(self, f"test/{name}", value)

    def _parts(self, seen: Collected) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the indices, logits, features and labels of the images on all ranks, in CPU memory."""
        index, rows = seen.compute()
        return index, rows[:, : self.num_classes].float(), rows[:, self.num_classes : -1].float(), rows[:, -1].long()


def concatenate_batches(logits: Tensor, features: Tensor, label: Tensor) -> Tensor:
    """Concatenate the logits, features and labels of a batch of images into one matrix, `[B, K + D + 1]`."""
    return torch.cat([logits.double(), features.double(), label[:, None].double()], dim=1)


def of_logits(detector: Any) -> bool:
    """Return true if the inputs of a detector are logits, and false if they are features."""
    return hasattr(detector, "predict_logits")


def detector_of(name: str, given: dict[str, bool | int | float | str], head: nn.Linear) -> Any:
    """Create a detector that works on logits or features. Of the network, it receives only the last linear layer.

    Args:
        name: name of the class in `pytorch_ood.detector`.
        given: arguments of the detector.
        head: last linear layer of the network.
    """
    try:
        from pytorch_ood import detector as package
        from pytorch_ood.api import FeaturesDetector, LogitsDetector
    except ImportError as error:
        raise ImportError("OODScores needs the package pytorch-ood: pip install 'noiseworks[ood]'") from error
    kinds = {key: kind for key, kind in vars(package).items() if inspect.isclass(kind)}
    usable = {key: kind for key, kind in kinds.items() if issubclass(kind, (LogitsDetector, FeaturesDetector))}
    if name not in usable:
        raise ValueError(f"detectors: {name} must work on logits or features; allowed: {', '.join(sorted(usable))}")
    known = {"model": None, "encoder": None, "head": head, "w": head.weight.detach(), "b": head.bias}
    every = inspect.signature(usable[name]).parameters.items()
    asked = {key: parameter for key, parameter in every if parameter.kind is not parameter.VAR_KEYWORD}
    wanted = {key for key, parameter in asked.items() if parameter.default is parameter.empty}
    if (unknown := given.keys() - asked.keys()) or (missing := wanted - given.keys() - known.keys()):
        own = ", ".join(key for key in asked if key not in known) or "none"
        wrong = f"has no argument {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
        raise ValueError(f"detectors: {name} {wrong}; its arguments are {own}")
    return usable[name](**{key: value for key, value in known.items() if key in asked}, **given)
