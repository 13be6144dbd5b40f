"""PLS-LSA+ trains two networks that agree on which images are noisy.

An epoch is a pass that trains f_1 and then a pass that trains f_2. The guess for an image is the sharpened mean of both
predictions, and in the epochs of plain mixup that of the trained network alone. At the end of an epoch each network
judges all training images, with the guesses that were tracked while the other one was trained; an image is noisy where
both say so, with the mean of their weights (see `detection`). The prediction is the mean of both networks' logits. All
else is as in PLS-LSA.

Source: Albert, Arazo, O'Connor and McGuinness, An accurate detection is not all you need to combat label noise in
web-noisy datasets, ECCV 2024, arXiv 2407.05528, and the authors' code. That keeps one table of guesses, in which the
pass of f_2 overwrites what the pass of f_1 tracked; here each pass has its own, as the code's two names for it intend.
The released code also copies the weights for f_2 before it takes their mean: f_2 trains with the weights of f_1 alone,
below 1 also for images that are not agreed to be noisy. Here both networks have the mean, as the text says.
"""

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_modules.networks.layer_features import classifier_layer
from lightning_modules.noisy_labels.co_training import active_network, check_alternation
from lightning_modules.noisy_labels.lsa.batch_terms import StepLoss
from lightning_modules.noisy_labels.lsa.correction_steps import CorrectionSteps
from lightning_modules.noisy_labels.lsa.detection import Detection, Detector, agreement
from lightning_modules.noisy_labels.lsa.objective import sharpened
from lightning_modules.noisy_labels.lsa.training_images import TrainingImages
from lightning_modules.training.classifier import ClassifierSteps, accuracies
from lightning_modules.training.optimizers import constant, sgd


class PLSLSAPlus(CorrectionSteps, ClassifierSteps, LightningModule):
    """Train two networks on images with noisy labels, some of them of no class at all.

    Needs `data.passes_per_epoch: 2`, and with DDP the strategy `ddp_find_unused_parameters_true`, as a step trains one
    network. Logs what `PLSLSA` logs, of the verdicts that both networks agree on.

    Args:
        network: f_1; maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`. Its last linear layer is the
            classifier. Linear separation needs features that were pre-trained without labels.
        second_network: f_2, of the same kind. Its classifier is drawn anew.
        num_classes: number of classes, C.
        weak_view: augments a batch of images, each by itself; drawn a second time for the guess.
        contrastive_view: augments the images that the contrastive term compares with.
        strong_view: augments images that were found noisy; None trains them on the weak view, like all others.
        evaluation_view: maps images to what the networks get outside training; None leaves them as they are.
        feature_layer: name of the layer whose pooled output is separated linearly.
        detectors: linear or loss or both, which then take turns epoch by epoch.
        threshold: probability above which small loss calls an image noisy, in (0, 1).
        warmup_epochs: epochs of plain mixup, at least 1.
        gamma: exponent that sharpens the guess.
        mixup_alpha: both parameters of the Beta distribution of the mixing weight; 0 does not mix.
        penalty: add the penalty that keeps the mean prediction uniform.
        contrast_weight: weight of the contrastive term.
        temperature: mu of the contrastive term.
        projection_features: width of the projections.
        head_lr_factor: learning rate of classifiers and projections, as a multiple of the optimizer's.
        optimizer: built on the trainable parameters of both networks and projections.
        lr_scheduler: stepped every epoch.

    Raises:
        ValueError: if an argument is out of range, a network has no such layer, or the trainer or the data do not
            alternate the networks.
    """

    passes_per_epoch = 2

    def __init__(
        self,
        network: nn.Module,
        second_network: nn.Module,
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
        mixup_alpha: float = 1.0,
        penalty: bool = False,
        contrast_weight: float = 1.0,
        temperature: float = 0.2,
        projection_features: int = 128,
        head_lr_factor: float = 1.0,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        classifier_layer(second_network).reset_parameters()  # so that two copies of one pre-trained network differ
        self.network = network
        self.second_network = second_network
        self.projections = nn.ModuleList(
            nn.Linear(classifier_layer(each).in_features, projection_features) for each in (network, second_network)
        )
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
        self.mixup_alpha = mixup_alpha
        self.head_lr_factor = head_lr_factor
        self.step_loss = StepLoss(penalty, contrast_weight, temperature, confidence=False)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)
        self.images = TrainingImages(num_classes, num_networks=2)
        self.check_arguments(projection_features=projection_features)

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

    def agreed(self, *detections: Detection) -> Detection:
        return agreement(*detections)
