"""The LightningModules PLSLSA (one network) and PLSLSAPlus (two networks).

The package docstring describes the methods, and `objective.py` contains the equations.
"""

import copy
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_modules.backbones.layer_features import classifier_layer, named_layer, without_head
from lightning_modules.method_module import MethodModule
from lightning_modules.noisy_labels.co_training import active_network, check_alternation
from lightning_modules.noisy_labels.lsa.correction_steps import CorrectionSteps
from lightning_modules.noisy_labels.lsa.detection import Detector, FlaggedImages, agreement
from lightning_modules.noisy_labels.lsa.objective import StepLoss, sharpened
from lightning_modules.noisy_labels.lsa.training_images import TrainingImages
from lightning_modules.optim.optimizers import constant, sgd
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies


class PLSLSA(CorrectionSteps, ClassifierSteps, MethodModule):
    """Train a classifier on a dataset with noisy labels and out-of-distribution images.

    Each sweep logs `train/noisy`, the fraction of flagged images. If the true labels are known, each sweep also logs
    `train/detection_precision`, `train/detection_recall`, `train/detection_auroc` and `train/clean_flagged`. The
    callback `EarlyLearning` needs the logits of every step. In epochs without guesses, these logits take an additional
    forward pass per step.

    Args:
        network: network f that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`. Its last linear layer
            must be the classifier. The linear detector needs features that were pre-trained without labels.
        num_classes: number C of classes.
        weak_view: weak augmentation of a batch. The guess is computed from a new random weak view.
        contrastive_view: augmentation for the contrastive term.
        strong_view: augmentation of noisy images; None uses the weak view, as for clean images.
        evaluation_view: transform of images in evaluation and sweeps; None applies no transform.
        feature_layer: name of the layer whose pooled outputs are the features of the linear detector.
        detectors: names of the detectors: `linear`, `loss` or both. Two detectors alternate by epoch.
        threshold: probability above which the small-loss detector flags an image, in (0, 1).
        warmup_epochs: number of epochs of plain mixup, at least 1.
        gamma: exponent gamma that sharpens the guesses.
        guess_views: number of weak views over which the predictions are averaged for a guess.
        mixup_alpha: parameter alpha of the distribution Beta(alpha, alpha) of mixup weights; 0 disables mixup.
        penalty: whether to add the penalty pen, which pulls the mean prediction towards uniform.
        contrast_weight: weight of the contrastive term.
        temperature: temperature mu of the contrastive term.
        confidence_contrast: whether to use the contrastive term of PLS, in which an image with an unreliable guess has
            only itself as a positive.
        projection_features: number of output features of the projection head.
        head_lr_factor: learning rate of the classifier and the projection head, as a multiple of the learning rate of
            the other layers.
        optimizer: optimizer of the trainable parameters of the network and the projection head.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        weak_view: nn.Module,
        contrastive_view: nn.Module,
        strong_view: nn.Module | None = None,
        evaluation_view: nn.Module | None = None,
        feature_layer: str = "layer2",
        detectors: list[Detector] = ["linear", "loss"],  # noqa: B006
        threshold: float = 0.95,
        warmup_epochs: int = 1,
        gamma: float = 2.0,
        guess_views: int = 1,
        mixup_alpha: float = 1.0,
        penalty: bool = False,
        contrast_weight: float = 1.0,
        temperature: float = 0.2,
        confidence_contrast: bool = False,
        projection_features: int = 128,
        head_lr_factor: float = 1.0,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.network = network
        self.projections = nn.ModuleList([nn.Linear(classifier_layer(network).in_features, projection_features)])
        self.num_classes = num_classes
        self.weak_view = weak_view
        self.contrastive_view = contrastive_view
        self.strong_view = strong_view
        self.evaluation_view = evaluation_view or nn.Identity()
        self.feature_layer = feature_layer
        self.detectors = detectors
        self.threshold = threshold
        self.warmup_epochs = warmup_epochs
        self.gamma = gamma
        self.guess_views = guess_views
        self.mixup_alpha = mixup_alpha
        self.head_lr_factor = head_lr_factor
        self.step_loss = StepLoss(penalty, contrast_weight, temperature, confidence_contrast)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)
        self.images = TrainingImages(num_classes, num_networks=1)
        named_layer(network, feature_layer)
        self.check_arguments(projection_features=projection_features, guess_views=guess_views)

    @property
    def encoder(self) -> nn.Module:
        """The part that pre-training trains: the network without its last linear layer.

        The encoder shares the parameters of the network.
        """
        tensors = [*self.network.parameters(), *self.network.buffers()]
        return without_head(copy.deepcopy(self.network, {id(tensor): tensor for tensor in tensors}))

    def networks(self) -> list[nn.Module]:
        return [self.network]

    @torch.no_grad()
    def guess(self, image: Tensor, weak: Tensor, which: int) -> tuple[Tensor, Tensor]:
        views = [weak, *(self.weak_view(image) for _ in range(self.guess_views - 1))]
        if self.guess_views == 1:  # in LSA, guess and training use different views
            views = [self.weak_view(image)]
        logits = [self.network(view).to(self.images.weight.dtype) for view in views]
        probability = torch.stack([each.softmax(dim=1) for each in logits]).mean(dim=0)
        return sharpened(probability, self.gamma), logits[0]


class PLSLSAPlus(PLSLSA, MethodModule):
    """Train two networks on a dataset with noisy labels and out-of-distribution images.

    The module needs `data.loading.passes_per_epoch: 2`. Because each step trains only one network, DDP needs the
    strategy `ddp_find_unused_parameters_true`. The logged metrics have the same names as for `PLSLSA`, and are computed
    from the images that both networks flag.

    Args:
        network: network f_1 that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`. Its last linear
            layer must be the classifier. The linear detector needs features that were pre-trained without labels.
        second_network: network f_2 with the same inputs and outputs as f_1. The classifier of f_2 is re-initialised.
        arguments: arguments of `PLSLSA`, except `guess_views` and `confidence_contrast`.
    """

    passes_per_epoch = 2

    def __init__(self, network: nn.Module, second_network: nn.Module, **arguments: Any) -> None:
        classifier_layer(second_network).reset_parameters()  # copies of one pre-trained network must differ
        super().__init__(network, guess_views=1, confidence_contrast=False, **arguments)
        self.second_network = second_network
        named_layer(second_network, self.feature_layer)
        first: Any = self.projections[0]
        self.projections.append(nn.Linear(classifier_layer(second_network).in_features, first.out_features))
        self.images = TrainingImages(self.num_classes, num_networks=2)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            check_alternation(self.trainer, self)

    def networks(self) -> list[nn.Module]:
        return [self.network, self.second_network]

    def trained(self, batch_idx: int) -> int:
        return active_network(batch_idx, self.trainer.num_training_batches)

    @torch.no_grad()
    def guess(self, image: Tensor, weak: Tensor, which: int) -> tuple[Tensor, Tensor]:
        view = self.weak_view(image)
        corrects = self.trainer.current_epoch >= self.warmup_epochs
        networks = self.networks() if corrects else [self.networks()[which]]
        logits = torch.stack([network(view).to(self.images.weight.dtype) for network in networks])
        return sharpened(logits.softmax(dim=2).mean(dim=0), self.gamma), logits.mean(dim=0)

    def agreed(self, *found: FlaggedImages) -> FlaggedImages:
        return agreement(*found)
