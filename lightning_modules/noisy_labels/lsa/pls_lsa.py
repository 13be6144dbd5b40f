"""PLS-LSA, and with small loss alone PLS: noisy images are found, and trained towards guesses as far as these can be
trusted.

Each epoch, from the first few of plain mixup on, ends with a sweep over the training set that says which images are
noisy (linear separation of features and small loss take turns, see `detection`) and how far their guesses can be
trusted. In the next epoch a noisy image's target is its sharpened guess, weighted by that trust, on a strong view; a
supervised contrastive term draws images of the same target together (see `objective`).

Several views of an image are drawn where the batch is: the DataModule must not augment images itself
(no `augmentation`, and `min_area: null` where the images have it). Batch-normalised networks also see the views
that are guessed from in training mode, as in the authors' code. `warmup_epochs` counts plain epochs: LSA's code with a
warm-up of 0 has one, PLS's with W has W.

PLS: `detectors: [loss]`, `guess_views: 2`, `penalty: true`, `confidence_contrast: true`, no `strong_view`. Its code
weights the guesses one epoch later than is done here.

Source: Albert, Arazo, O'Connor and McGuinness, An accurate detection is not all you need to combat label noise in
web-noisy datasets, ECCV 2024; PLS: the same authors, WACV 2023, arXiv 2210.04578. Where text and code differ, the
authors' code is followed.
"""

import copy
from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_modules.networks.features import without_head
from lightning_modules.networks.layer_features import classifier_layer, named_layer
from lightning_modules.noisy_labels.lsa.batch_terms import Objective
from lightning_modules.noisy_labels.lsa.correction_steps import CorrectionSteps
from lightning_modules.noisy_labels.lsa.detection import Detection, Detector
from lightning_modules.noisy_labels.lsa.objective import sharpened
from lightning_modules.noisy_labels.lsa.settings import check_data, check_settings
from lightning_modules.noisy_labels.lsa.training_images import TrainingImages
from lightning_modules.training.classifier import ClassifierSteps, accuracies
from lightning_modules.training.optimizers import constant, sgd
from lightning_modules.training.parameter_groups import optimizer_with_heads


class PLSLSA(CorrectionSteps, ClassifierSteps, LightningModule):
    """Trains a classifier on images with noisy labels, some of them of no class at all.

    Logs of each sweep the share of images that it flags, `train/noisy`, and where the true labels are known
    `train/detection_precision`, `train/detection_recall`, `train/detection_auroc` and `train/clean_flagged`. With the
    callback `EarlyLearning` the steps of epochs without a guess take one more forward pass, for its logits.

    Args:
        network: f; maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`. Its last linear layer is the
            classifier. Linear separation needs features that were pre-trained without labels.
        num_classes: number of classes, C.
        weak_view: augments a batch of images, each by itself; drawn anew for the guess.
        contrastive_view: augments the images that the contrastive term compares with.
        strong_view: augments images found noisy; None takes the weak view.
        evaluation_view: maps images to what the network gets outside training; None leaves them as they are.
        feature_layer: name of the layer whose pooled output is separated linearly.
        detectors: linear and loss, epoch by epoch in turn.
        threshold: probability above which small loss calls an image noisy, in (0, 1).
        warmup_epochs: epochs of plain mixup, at least 1.
        gamma: exponent that sharpens the guess.
        guess_views: weak views whose predictions are averaged for a guess.
        mixup_alpha: parameter of the mixing weight's Beta distribution; 0 does not mix.
        penalty: add the penalty that keeps the mean prediction uniform.
        contrast_weight: weight of the contrastive term.
        temperature: mu, of the contrastive term.
        confidence_contrast: pull images with doubtful guesses towards themselves alone, as PLS does.
        projection_features: width of the projection.
        head_lr_factor: learning rate of classifier and projection, as a multiple of the optimizer's.
        optimizer: built on the trainable parameters of network and projection.
        lr_scheduler: stepped every epoch.

    Raises:
        ValueError: if an argument is out of range or the network has no such layer.
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
        check_settings(
            detectors=detectors,
            threshold=threshold,
            warmup_epochs=warmup_epochs,
            gamma=gamma,
            guess_views=guess_views,
            mixup_alpha=mixup_alpha,
            contrast_weight=contrast_weight,
            temperature=temperature,
            projection_features=projection_features,
            head_lr_factor=head_lr_factor,
        )
        named_layer(network, feature_layer)
        self.network = network
        self.projection = nn.Linear(classifier_layer(network).in_features, projection_features)
        self.num_classes = num_classes
        self.weak_view = weak_view
        self.contrastive_view = contrastive_view
        self.strong_view = strong_view or weak_view
        self.evaluation_view = evaluation_view or nn.Identity()
        self.feature_layer = feature_layer
        self.detectors = detectors
        self.threshold = threshold
        self.warmup_epochs = warmup_epochs
        self.gamma = gamma
        self.guess_views = guess_views
        self.mixup_alpha = mixup_alpha
        self.head_lr_factor = head_lr_factor
        self.objective = Objective(penalty, contrast_weight, temperature, confidence_contrast)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)
        self.images = TrainingImages(num_classes, num_networks=1)

    @property
    def encoder(self) -> nn.Module:
        """The network without its classifier, with the same parameters: what a first stage pre-trains."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        return without_head(copy.deepcopy(self.network, {id(tensor): tensor for tensor in tensors}))

    def forward(self, image: Tensor) -> Tensor:
        return self.network(self.evaluation_view(image))

    def setup(self, stage: str) -> None:
        if stage == "fit":
            check_data(self.trainer, self)

    def networks(self) -> list[nn.Module]:
        return [self.network]

    def trained(self, batch_idx: int) -> tuple[int, nn.Module, nn.Module]:
        return 0, self.network, self.projection

    @torch.no_grad()
    def guess(self, image: Tensor, weak: Tensor, which: int) -> tuple[Tensor, Tensor]:
        views = [weak, *(self.weak_view(image) for _ in range(self.guess_views - 1))]
        if self.guess_views == 1:  # LSA guesses from another view than it trains on
            views = [self.weak_view(image)]
        logits = [self.network(view).to(self.images.weight.dtype) for view in views]
        probability = torch.stack([each.softmax(dim=1) for each in logits]).mean(dim=0)
        return sharpened(probability, self.gamma), logits[0]

    def agreed(self, detections: Sequence[Detection]) -> Detection:
        [own] = detections
        return own

    def configure_optimizers(self):
        heads = [classifier_layer(self.network), self.projection]
        optimizer = optimizer_with_heads(self.optimizer, self, heads, self.head_lr_factor)
        return [optimizer], [self.lr_scheduler(optimizer)]
