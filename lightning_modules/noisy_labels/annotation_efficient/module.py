"""LightningModule of annotation-efficient segmentation; the package docstring describes the method."""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, within
from datamodules.batches import UnpairedMaskBatch, loss_weight
from datamodules.pixel_ranges import to_signed
from lightning_modules.full_precision import at_least_float32
from lightning_modules.interfaces import LabelStore, require
from lightning_modules.losses.segmentation import noise_weighted_dice
from lightning_modules.method_module import MethodModule
from lightning_modules.networks.shape_vae import ShapeVAE
from lightning_modules.noisy_labels.annotation_efficient.label_quality import mean_over_kept, without_holes_and_islands
from lightning_modules.noisy_labels.annotation_efficient.labelling import label_anew
from lightning_modules.noisy_labels.annotation_efficient.measures import StructureSteps, measures
from lightning_modules.noisy_labels.annotation_efficient.stages import (
    ConstantThenLinear,
    CycleLossWeights,
    Rounds,
    StageSchedule,
    refuse_unfit,
)
from lightning_modules.noisy_labels.annotation_efficient.translation import (
    Translation,
    discriminator_loss,
    generator_terms,
)
from lightning_modules.optim.optimizers import adam, constant
from lightning_modules.training.evaluation_mode import on_root_device
from lightning_modules.training.logging import log_same, log_training


class AnnotationEfficient(StructureSteps, MethodModule):
    """Train a segmenter on images without annotations and on unpaired masks.

    `trainer.max_epochs` must be at most the total number of epochs of all stages. A value below this total ends the run
    before all stages are complete. On several devices, use the strategy `ddp_find_unused_parameters_true`. Each round
    writes its labels to the folder `pseudo_labels` in the run directory.

    Args:
        network: segmentation network S from images `[B, C, H, W]` in [0, 1] to logits `[B, 2, H, W]` of both classes.
        vae: VAE of masks, which D_vae and the label quality use; None omits both.
        translation: generators and discriminators of stage 1; None uses the pseudo labels of the DataModule instead.
        stages: numbers of epochs of all stages.
        weights: weights of the loss terms of stages 0 and 1.
        gamma: gamma of the noise-weighted Dice loss after round 0 (our choice); 0 is the soft Dice loss.
        keep_fraction: fraction of labels to train on, in (0, 1] (our choice); without a VAE, round 0 uses all labels.
        clean_labels: whether to keep only the largest component of pseudo labels (not predictions), and fill its holes.
        optimizer: optimizer of the parameters of S.
        lr_scheduler: learning-rate schedule of S, stepped every epoch of stage 3.
        vae_optimizer: optimizer of the parameters of the VAE.
        translation_optimizer: optimizer of the parameters of the generators, the calibration and the discriminators.
    """

    num_classes = 2

    def __init__(
        self,
        network: nn.Module,
        vae: ShapeVAE | None = None,
        translation: Translation | None = None,
        stages: StageSchedule = StageSchedule(),  # noqa: B008 - immutable
        weights: CycleLossWeights = CycleLossWeights(),  # noqa: B008 - immutable
        gamma: float = 3.0,
        keep_fraction: float = 0.75,
        clean_labels: bool = False,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
        vae_optimizer: OptimizerCallable = adam,
        translation_optimizer: OptimizerCallable = adam,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        at_least(0, gamma=gamma)
        within(0, 1, "(]", keep_fraction=keep_fraction)
        for key, part in {"vae": vae, "translation": translation}.items():
            epochs = getattr(stages, f"{key}_epochs")
            if (epochs > 0) != (part is not None):
                raise ValueError(f"stages.{key}_epochs is {epochs}, but {key} is {'not ' * (part is None)}given")
        if translation is not None and weights.shape == 0:
            translation.shape_discriminator = None
        if translation is not None and translation.shape_discriminator is not None and vae is None:
            raise ValueError("translation.shape_discriminator needs model.vae")
        self.network, self.vae, self.translation = network, vae, translation
        self.stages = stages
        self.weights = weights
        self.gamma = gamma
        self.keep_fraction = keep_fraction
        self.clean_labels = clean_labels
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.vae_optimizer = vae_optimizer
        self.translation_optimizer = translation_optimizer
        self.metrics = measures()
        self.pseudo_label_metrics = measures() if translation is not None else None
        self.kept = torch.zeros(0, dtype=torch.bool)  # mask of the kept labels, `[N]`, the same on all ranks
        self.rounds = Rounds()

    def forward(self, image: Tensor) -> Tensor:
        if self.stages.total > self.stages.first_segmentation or self.translation is None:
            return self.network(image)
        logits = self.translation(to_signed(image))
        return torch.cat([torch.zeros_like(logits), logits], dim=1)

    @property
    def _data(self) -> Any:
        return require(getattr(self.trainer, "datamodule", None), LabelStore, "AnnotationEfficient")

    def setup(self, stage: str) -> None:
        if stage == "fit":
            refuse_unfit(self.trainer, self._data, self.stages, self.vae, self.translation)

    def on_fit_start(self) -> None:
        number = self._data.num_train_samples
        if len(self.kept) and len(self.kept) != number:
            raise ValueError(f"the checkpoint is for {len(self.kept)} training images, but the data have {number}")
        self.kept = (self.kept if len(self.kept) else torch.ones(number, dtype=torch.bool)).to(self.device)
        self.trainer.should_stop = self.rounds.stopped

    def training_step(self, batch: UnpairedMaskBatch, batch_idx: int) -> dict[str, Tensor]:
        stage = self.stages.stage(self.trainer.current_epoch)
        terms, others = getattr(self, f"_{stage}_loss")(batch)
        loss = log_training(self, batch, sum(terms.values()), **terms)
        optimizer = self._of_stage(self.optimizers(), stage)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return {"loss": loss.detach(), **others}

    def _shape_loss(self, batch: UnpairedMaskBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert self.vae is not None
        return {"vae": self.vae.negative_elbo(batch["auxiliary_mask"], self.weights.vae_beta).mean()}, {}

    def _translation_loss(self, batch: UnpairedMaskBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert self.translation is not None
        image, mask = 2 * batch["image"] - 1, batch["auxiliary_mask"]
        terms, fakes = generator_terms(self.translation, self.vae, image, mask, self.weights.mask_cycle)
        weight = {"image": 1.0, "mask": 1.0, "shape": self.weights.shape, "cycle": self.weights.cycle}
        weighted = {f"generator_{name}": weight[name] * term for name, term in terms.items()}
        return weighted | {"discriminators": discriminator_loss(self.translation, self.vae, image, mask, fakes)}, {}

    def _segmentation_loss(self, batch: UnpairedMaskBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        logits = self.network(batch["image"])
        p = at_least_float32(logits).softmax(dim=1)[:, 1]
        gamma = self.gamma if self.stages.round(self.trainer.current_epoch) > 0 else 0.0
        loss = mean_over_kept(noise_weighted_dice(p, batch["label"].to(p.dtype), gamma), self.kept[batch["index"]])
        return {"dice_loss": loss / loss_weight(batch)}, {"logits": logits.detach()}  # log_training multiplies by it

    def on_train_epoch_end(self) -> None:
        stage, after = self.stages.stage(self.trainer.current_epoch), self.trainer.current_epoch + 1
        if stage != "shape":
            self._of_stage(self.lr_schedulers(), stage).step()
        for name, value in self.rounds.about.items():
            log_same(self, f"train/{name}", value)
        if self.stages.stop_early and stage == "segmentation" and self.stages.begins_round(after):
            self.rounds.judge(self.trainer.callback_metrics.get("val/dice"))
            self.trainer.should_stop = self.trainer.should_stop or self.rounds.stopped
        if self.stages.begins_round(after) and not self.rounds.stopped:
            self._begin_round(self.stages.round(after))

    def _begin_round(self, number: int) -> None:
        new_label = self.renewed_label if number else self.first_label
        self.kept, self.rounds.about = label_anew(self, self._data, number, new_label, self.vae, self.keep_fraction)
        self.rounds.labelled = number

    def first_label(self, batch: dict[str, Tensor]) -> Tensor:
        """Predict labels `[B, H, W]`, int64, with E. Without a translation, return the labels of the DataModule."""
        if self.translation is None:
            return batch["label"]
        label = (self.translation(2 * batch["image"] - 1)[:, 0] > 0).long()
        return without_holes_and_islands(label) if self.clean_labels else label

    def renewed_label(self, batch: dict[str, Tensor]) -> Tensor:
        """Predict labels `[B, H, W]`, int64, with the segmentation network S."""
        label = self.network(batch["image"]).argmax(dim=1)
        return without_holes_and_islands(label) if self.clean_labels else label

    def on_fit_end(self) -> None:
        """Predict the pseudo labels in a run without stage 3, even if the run was resumed after its last epoch."""
        translated = self.translation is not None and self.stages.stage(self.trainer.current_epoch) == "segmentation"
        if translated and self.rounds.labelled < 0:
            with on_root_device(self.trainer, self):
                self._begin_round(0)

    def _of_stage(self, items: Any, stage: str) -> Any:
        """Select the optimizer or the scheduler of a stage from those that `configure_optimizers` returned."""
        parts = {"segmentation": self.network, "translation": self.translation, "shape": self.vae}
        trained = [name for name, part in parts.items() if part is not None]
        return items[trained.index(stage)] if isinstance(items, list) else items

    def configure_optimizers(self) -> Any:
        optimizers = [self.optimizer(self.network.parameters())]
        schedulers: list[Any] = [self.lr_scheduler(optimizers[0])]
        if self.translation is not None:
            optimizers.append(self.translation_optimizer(self.translation.parameters()))
            decay = self.stages.translation_epochs, self.stages.constant_fraction
            schedulers.append(ConstantThenLinear(optimizers[-1], *decay))
        if self.vae is not None:
            optimizers.append(self.vae_optimizer(self.vae.parameters()))
        return optimizers, schedulers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"rounds": vars(self.rounds) | {}, "kept": self.kept.cpu()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.rounds, self.kept = Rounds(**checkpoint["rounds"]), checkpoint["kept"]
