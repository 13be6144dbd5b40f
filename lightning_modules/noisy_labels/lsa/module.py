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
from lightning_modules.noisy_labels.lsa.correction_steps import Correction, CorrectionSteps, Heads
from lightning_modules.noisy_labels.lsa.detection import Detection, FlaggedImages, agreement
from lightning_modules.noisy_labels.lsa.objective import StepLoss, sharpen
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
        detection: how noisy images are detected.
        correction: when and how labels are guessed.
        loss: mixup and terms of the loss.
        heads: size and learning rate of the heads.
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
        detection: Detection = Detection(),  # noqa: B008 - immutable
        correction: Correction = Correction(),  # noqa: B008 - immutable
        loss: StepLoss = StepLoss(),  # noqa: B008 - immutable
        heads: Heads = Heads(),  # noqa: B008 - immutable
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.network = network
        features = classifier_layer(network).in_features
        self.projections = nn.ModuleList([nn.Linear(features, heads.projection_features)])
        self.num_classes = num_classes
        self.weak_view = weak_view
        self.contrastive_view = contrastive_view
        self.strong_view = strong_view
        self.evaluation_view = evaluation_view or nn.Identity()
        self.detection = detection
        self.correction = correction
        self.step_loss = loss
        self.heads = heads
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)
        self.images = TrainingImages(num_classes, num_networks=1)
        named_layer(network, detection.feature_layer)

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
        guess_views = self.correction.guess_views
        views = [weak, *(self.weak_view(image) for _ in range(guess_views - 1))]
        if guess_views == 1:  # in LSA, guess and training use different views
            views = [self.weak_view(image)]
        logits = [self.network(view).to(self.images.weight.dtype) for view in views]
        probability = torch.stack([each.softmax(dim=1) for each in logits]).mean(dim=0)
        return sharpen(probability, self.correction.gamma), logits[0]


class PLSLSAPlus(PLSLSA, MethodModule):
    """Train two networks on a dataset with noisy labels and out-of-distribution images.

    The module needs `data.loading.passes_per_epoch: 2`. Because each step trains only one network, DDP needs the
    strategy `ddp_find_unused_parameters_true`. The logged metrics have the same names as for `PLSLSA`, and are computed
    from the images that both networks flag.

    Args:
        network: network f_1 that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`. Its last linear
            layer must be the classifier. The linear detector needs features that were pre-trained without labels.
        second_network: network f_2 with the same inputs and outputs as f_1. The classifier of f_2 is re-initialised.
        arguments: arguments of `PLSLSA`; `correction.guess_views` must be 1, and `loss.confidence` false.
    """

    passes_per_epoch = 2

    def __init__(self, network: nn.Module, second_network: nn.Module, **arguments: Any) -> None:
        classifier_layer(second_network).reset_parameters()  # copies of one pre-trained network must differ
        super().__init__(network, **arguments)
        if self.correction.guess_views != 1 or self.step_loss.confidence:
            raise ValueError("PLSLSAPlus needs correction.guess_views 1 and loss.confidence false; PLSLSA has both")
        self.second_network = second_network
        named_layer(second_network, self.detection.feature_layer)
        first: Any = self.projections[0]
        self.projections.append(nn.Linear(classifier_layer(second_network).in_features, first.out_features))
        self.images = TrainingImages(self.num_classes, num_networks=2)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            check_alternation(self.trainer, self)

    def networks(self) -> list[nn.Module]:
        return [self.network, self.second_network]

    def trained_index(self, batch_idx: int) -> int:
        return active_network(batch_idx, self.trainer.num_training_batches)

    @torch.no_grad()
    def guess(self, image: Tensor, weak: Tensor, which: int) -> tuple[Tensor, Tensor]:
        view = self.weak_view(image)
        corrects = self.trainer.current_epoch >= self.correction.warmup_epochs
        networks = self.networks() if corrects else [self.networks()[which]]
        logits = torch.stack([network(view).to(self.images.weight.dtype) for network in networks])
        return sharpen(logits.softmax(dim=2).mean(dim=0), self.correction.gamma), logits.mean(dim=0)

    def agree(self, *found: FlaggedImages) -> FlaggedImages:
        return agreement(*found)
