"""SimCLR: pre-train features without labels, to initialise methods for noisy labels.

Two random views of each image are computed. An MLP maps the features of a view to its representation h. Each view must
identify the other view of the same image among all views of the global batch (see `nt_xent`).

The network is a complete classifier, although its last layer is not trained. A classifier can therefore load the
checkpoint (`lightning_modules.backbones.with_weights` with the prefix `network.`). To pre-train within the same run,
use this module as the `model` of the callback `Pretraining`.

Source: Chen, Kornblith, Norouzi and Hinton, A Simple Framework for Contrastive Learning of Visual Representations, ICML
2020, arXiv 2002.05709.
"""

from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, positive
from datamodules.batches import LabelledImageBatch, global_batch_size
from lightning_modules.backbones.layer_features import classifier_layer, logits_and_features
from lightning_modules.distributed.global_rows import global_rows
from lightning_modules.distributed.per_sample import share_start
from lightning_modules.losses.contrastive import nt_xent
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import constant, optimizer_config, sgd, trainable_parameters
from lightning_modules.training.logging import log_training
from lightning_modules.training.own_loaders import OwnLoaders
from lightning_modules.views.unaugmented import check_unaugmented


class SimCLR(OwnLoaders, MethodModule):
    """Pre-train the features of a classifier without labels.

    Args:
        network: classifier; its last linear layer is not trained.
        num_classes: number of classes of the data. The labels are not used.
        view: random augmentation, independent for each image of a batch. It is applied twice, once for each view.
        hidden_features: number of hidden features of the MLP.
        projection_features: number of output features of the MLP (dimension of h).
        temperature: temperature tau of the loss. Lower values give more weight to the most similar images.
        optimizer: optimizer of the trainable parameters of the network and the MLP.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        view: nn.Module,
        hidden_features: int = 2048,
        projection_features: int = 256,
        temperature: float = 0.2,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, hidden_features=hidden_features, projection_features=projection_features)
        positive(temperature=temperature)
        classifier = classifier_layer(network).requires_grad_(False)
        self.network = network
        self.projection = nn.Sequential(
            nn.Linear(classifier.in_features, hidden_features),
            nn.ReLU(),
            nn.Linear(hidden_features, projection_features),
        )
        self.num_classes = num_classes
        self.view = view
        self.temperature = temperature
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            check_unaugmented(self.trainer.datamodule, type(self).__name__)  # type: ignore[attr-defined]

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        size = global_batch_size(batch)
        first, second = (
            self.projection(logits_and_features(self.network, self.view(batch["image"]))[1]) for _ in range(2)
        )
        everyone = global_rows(first, size), global_rows(second, size)
        loss = nt_xent(first, second, *everyone, share_start(size), self.temperature)
        return {"loss": log_training(self, batch, loss)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self))
