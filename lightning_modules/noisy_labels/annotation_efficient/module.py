"""Annotation-efficient segmentation: no annotated image, but shapes of the structure that belong to no image.

Four stages, in one run:

    0  a VAE learns the shapes of the auxiliary masks;
    1  a CycleGAN learns to translate between images and masks, with a discriminator on the VAE's means and channels
       calibrated by a discriminator (see `translation`);
    2  its generator of masks, E, makes a pseudo label of each training image, and the better ones are kept (see
       `label_quality`);
    3  a segmentation network S learns from the kept ones with the noise-weighted Dice loss (see `dice`), in rounds:
       round 0 with gamma = 0 on the labels of E, each later round on labels [S(x) > 1/2] that S has renewed.

S is what predicts in the end; E where no epoch of stage 3 is planned.

No code of the authors was found, and of the paper only its abstract and a reader's notes could be read. Stages,
networks and the names of their parts are the paper's; all formulas, weights and schedules here are our choice, and
weights and schedules are arguments. Generators and discriminators are stepped at once, each against the other before
the step: this is what CycleGAN's two steps do, whose discriminators see the fakes made before the generators' step.
There is no buffer of earlier fakes.

Source: Wang, Guo, Wang and Zhang, Annotation-Efficient Learning for Medical Image Segmentation Based on Noisy Pseudo
Labels and Adversarial Learning, IEEE Journal of Biomedical and Health Informatics 2021, arXiv 2012.14584.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torchmetrics import MetricCollection

from datamodules.batches import UnpairedMaskBatch, global_size, share
from lightning_modules.distributed.same_buffers import same_buffers
from lightning_modules.full_precision import at_least_float32
from lightning_modules.interfaces import ImageColumn, LabelStore, require
from lightning_modules.losses.segmentation import noise_weighted_dice
from lightning_modules.networks.shape_vae import ShapeVAE
from lightning_modules.noisy_labels.annotation_efficient.label_files import LabelFiles
from lightning_modules.noisy_labels.annotation_efficient.label_quality import (
    MeanDice,
    best_part,
    dice,
    label_quality,
    without_holes_and_islands,
)
from lightning_modules.noisy_labels.annotation_efficient.stages import Stages, constant_then_linear
from lightning_modules.noisy_labels.annotation_efficient.surface_distance import AverageSurfaceDistance
from lightning_modules.noisy_labels.annotation_efficient.translation import (
    Translation,
    discriminator_loss,
    generator_terms,
)
from lightning_modules.training.optimizers import adam, constant


def measures() -> MetricCollection:
    """Mean Dice of the structure over images, and mean surface distance in pixels."""
    return MetricCollection({"dice": MeanDice(), "surface_distance": AverageSurfaceDistance()}, compute_groups=False)


def mean_over_kept(loss: Tensor, kept: Tensor) -> Tensor:
    """This process's part of the mean loss over the kept samples of the global batch; 0 if none of them is kept.

    Args:
        loss: `[b]`.
        kept: `[b]`, bool.

    Returns:
        World size times the sum over this process's kept samples, over the number of them on all processes.
    """
    weight = kept.to(loss.dtype)
    number, world_size = weight.sum(), 1
    if dist.is_initialized():
        world_size = dist.get_world_size()
        dist.all_reduce(number)
    return world_size * (weight * loss).sum() / number.clamp(min=1)


class AnnotationEfficient(LightningModule):
    """Trains from images without annotation and unpaired masks.

    `trainer.max_epochs` is at most the sum of the stages' epochs, and cuts off the last ones if it is less. An epoch
    visits each image once, whatever the stage. With several processes the strategy is
    `ddp_find_unused_parameters_true`, as each stage trains other networks.

    When a round begins, its labels are written to `pseudo_labels/round_<n>/<image>.png` in the run directory, and
    their qualities and which ones are kept to `pseudo_labels/round_<n>.csv`. Samples that are not kept have no loss.
    Where the training set's truth is known, the labels' Dice is logged, for information only.

    Args:
        network: S; maps images `[B, C, H, W]` in [0, 1] to logits `[B, 2, H, W]` of background and structure.
        vae: of masks, for D_vae and for the labels' quality; None leaves both out.
        translation: E, G and discriminators; None takes the labels that the data give (a folder of pseudo labels).
        num_classes: 2.
        vae_epochs: of stage 0 (all numbers of epochs are our choice).
        translation_epochs: of stage 1.
        warm_up_epochs: of round 0, in which gamma is 0; enough to fit the first labels, as S renews them afterwards:
            a network that has hardly been trained makes worse labels than those that it was given.
        rounds: of stage 3 after it, R (our choice: 3).
        round_epochs: of each.
        vae_beta: weight of the VAE's KL (our choice).
        cycle_weight: lam_c (CycleGAN's 10).
        mask_cycle_weight: w_z, of the masks' part in the cycle (our choice: 0.5).
        shape_weight: lam_v, of D_vae (our choice: 0.5); 0 leaves D_vae out, if it has been given.
        gamma: of the noise-weighted Dice loss after round 0 (our choice: 3); 0 is soft Dice.
        keep_fraction: of the labels that is kept, in (0, 1] (our choice: 0.75). Without a VAE nothing is known of the
            first labels, and all are kept in round 0.
        clean_labels: of each label that is made here, keep the largest connected part alone and fill its holes. The
            pseudo labels of validation and test are treated likewise; what is predicted is left as it is.
        stop_early: no further round after one that has not raised `val/dice`.
        constant_fraction: of stage 1 with a constant learning rate, which then falls linearly (CycleGAN's half).
        optimizer: built on S's parameters.
        lr_scheduler: of S, stepped every epoch of stage 3.
        vae_optimizer: built on the VAE's parameters.
        translation_optimizer: built on those of generators, calibration and discriminators.

    Raises:
        ValueError: if an argument is out of range, or does not fit the others, the trainer or the data.
    """

    def __init__(
        self,
        network: nn.Module,
        vae: ShapeVAE | None = None,
        translation: Translation | None = None,
        num_classes: int = 2,
        vae_epochs: int = 20,
        translation_epochs: int = 100,
        warm_up_epochs: int = 4,
        rounds: int = 3,
        round_epochs: int = 4,
        vae_beta: float = 1.0,
        cycle_weight: float = 10.0,
        mask_cycle_weight: float = 0.5,
        shape_weight: float = 0.5,
        gamma: float = 3.0,
        keep_fraction: float = 0.75,
        clean_labels: bool = False,
        stop_early: bool = True,
        constant_fraction: float = 0.5,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
        vae_optimizer: OptimizerCallable = adam,
        translation_optimizer: OptimizerCallable = adam,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if num_classes != 2:
            raise ValueError(f"num_classes must be 2, background and structure, got {num_classes}")
        for key, value in {
            "vae_beta": vae_beta,
            "cycle_weight": cycle_weight,
            "mask_cycle_weight": mask_cycle_weight,
            "shape_weight": shape_weight,
            "gamma": gamma,
        }.items():
            if value < 0:
                raise ValueError(f"{key} must be at least 0, got {value}")
        if not 0 < keep_fraction <= 1:
            raise ValueError(f"keep_fraction must be in (0, 1], got {keep_fraction}")
        if not 0 <= constant_fraction <= 1:
            raise ValueError(f"constant_fraction must be in [0, 1], got {constant_fraction}")
        self.stages = Stages(vae_epochs, translation_epochs, warm_up_epochs, rounds, round_epochs)
        for key, epochs, part, network_key in (
            ("vae_epochs", vae_epochs, vae, "vae"),
            ("translation_epochs", translation_epochs, translation, "translation"),
        ):
            if (epochs > 0) != (part is not None):
                raise ValueError(
                    f"{key} is {epochs}, and {network_key} is {'given' if part is not None else 'not given'}"
                )
        if translation is not None and shape_weight == 0:
            translation.shape_discriminator = None
        if translation is not None and translation.shape_discriminator is not None and vae is None:
            raise ValueError("translation has a shape_discriminator, which needs a vae")
        self.network = network
        self.vae = vae
        self.translation = translation
        self.num_classes = num_classes
        self.vae_beta = vae_beta
        self.term_weights = {"image": 1.0, "mask": 1.0, "shape": shape_weight, "cycle": cycle_weight}
        self.mask_cycle_weight = mask_cycle_weight
        self.gamma = gamma
        self.keep_fraction = keep_fraction
        self.clean_labels = clean_labels
        self.stop_early = stop_early
        self.constant_fraction = constant_fraction
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.vae_optimizer = vae_optimizer
        self.translation_optimizer = translation_optimizer
        self.metrics = measures()
        self.pseudo_label_metrics = measures() if translation is not None else None
        self.kept = torch.zeros(0, dtype=torch.bool)
        """`[N]`: training samples whose label is kept, the same on all processes."""
        self._rounds: dict[str, Any] = {"labelled": -1, "best": float("-inf"), "stopped": False, "about": {}}
        self._saved_kept: Tensor | None = None

    def forward(self, image: Tensor) -> Tensor:
        if self.stages.total > self.stages.first_segmentation or self.translation is None:
            return self.network(image)
        logits = self.translation(2 * image - 1)
        return torch.cat([torch.zeros_like(logits), logits], dim=1)

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        trainer = self.trainer
        if trainer.max_epochs is None or not 0 <= trainer.max_epochs <= self.stages.total:
            raise ValueError(
                f"trainer.max_epochs is {trainer.max_epochs}, and the stages of AnnotationEfficient have "
                f"{self.stages.total} epochs (vae_epochs + translation_epochs + warm_up_epochs + rounds x round_epochs)"
            )
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        require(data, LabelStore, "AnnotationEfficient")
        if self.translation is None and not getattr(data, "has_training_labels", True):
            raise ValueError("AnnotationEfficient without a translation needs pseudo labels: set data.pseudo_labels")
        if (self.vae or self.translation) and not getattr(data, "has_auxiliary_masks", False):
            raise ValueError(f"AnnotationEfficient needs auxiliary masks, which {type(data).__name__} does not have")
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
            raise ValueError(
                "AnnotationEfficient trains other networks in each stage: trainer.strategy must be "
                "ddp_find_unused_parameters_true"
            )

    def on_fit_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.kept = torch.ones(data.num_train_samples, dtype=torch.bool, device=self.device)
        if self._saved_kept is not None:
            if len(self._saved_kept) != len(self.kept):
                raise ValueError(
                    f"the checkpoint is of {len(self._saved_kept)} training images, and there are {len(self.kept)}"
                )
            self.kept.copy_(self._saved_kept)
        self.trainer.should_stop = self._rounds["stopped"]

    def training_step(self, batch: UnpairedMaskBatch, batch_idx: int) -> dict[str, Tensor]:
        stage = self.stages.stage(self.trainer.current_epoch)
        terms, others = getattr(self, f"_{stage}_loss")(batch)
        loss = sum(terms.values())
        optimizer = self._of_stage(self.optimizers(), stage)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        logged = {f"train/{name}": term.detach() for name, term in terms.items()} | {"train/loss": loss.detach()}
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=global_size(batch), sync_dist=True)
        return {"loss": loss.detach(), **others}

    def _shape_loss(self, batch: UnpairedMaskBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert self.vae is not None
        return {"vae": share(batch) * self.vae.negative_elbo(batch["auxiliary_mask"], self.vae_beta).mean()}, {}

    def _translation_loss(self, batch: UnpairedMaskBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert self.translation is not None
        image, mask = 2 * batch["image"] - 1, batch["auxiliary_mask"]
        terms, fakes = generator_terms(self.translation, self.vae, image, mask, self.mask_cycle_weight)
        weighted = {f"generator_{name}": self.term_weights[name] * term for name, term in terms.items()}
        weighted["discriminators"] = discriminator_loss(self.translation, self.vae, image, mask, fakes)
        return {name: share(batch) * term for name, term in weighted.items()}, {}

    def _segmentation_loss(self, batch: UnpairedMaskBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        logits = self.network(batch["image"])
        p = at_least_float32(logits).softmax(dim=1)[:, 1]
        gamma = self.gamma if self.stages.round(self.trainer.current_epoch) > 0 else 0.0
        loss = noise_weighted_dice(p, batch["label"].to(p.dtype), gamma)
        return {"dice_loss": mean_over_kept(loss, self.kept[batch["index"]])}, {"logits": logits.detach()}

    def on_train_epoch_end(self) -> None:
        epoch = self.trainer.current_epoch
        stage = self.stages.stage(epoch)
        if stage != "shape":
            self._of_stage(self.lr_schedulers(), stage).step()
        for name, value in self._rounds["about"].items():
            self.log(f"train/{name}", value, batch_size=1, sync_dist=True)
        after = epoch + 1
        if self.stop_early and stage == "segmentation" and self.stages.begins_round(after):
            self._judge_round()
        if self.stages.begins_round(after) and not self._rounds["stopped"]:
            self._begin_round(self.stages.round(after))

    def _judge_round(self) -> None:
        """Ends training after a round that has not raised validation Dice."""
        found = self.trainer.callback_metrics.get("val/dice")
        if found is None:
            return
        self._rounds["stopped"] = float(found) <= self._rounds["best"]
        self._rounds["best"] = max(self._rounds["best"], float(found))
        self.trainer.should_stop = self.trainer.should_stop or self._rounds["stopped"]

    @torch.no_grad()
    def _begin_round(self, number: int) -> None:
        """Labels all training images anew, and keeps the best labels. Every process labels its share."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        writer = LabelFiles(self.trainer, number, getattr(data, "training_names", None))
        quality, true_dice = (torch.zeros(len(self.kept), dtype=torch.float64, device=self.device) for _ in range(2))
        truth_is_known = False
        same_buffers(self)
        with self._evaluating():
            for on_host in data.training_images_dataloader():
                batch = self.trainer.strategy.batch_to_device(on_host)
                label, index = self._new_label(batch, number), batch["index"]
                quality[index] = label_quality(label, batch["label"] if number else None, self.vae).double()
                if truth_is_known := "clean_label" in batch:
                    true_dice[index] = dice(label, batch["clean_label"] == 1).double()
                data.correct_labels(index, label)
                writer.write(index, label)
        if dist.is_initialized():
            dist.all_reduce(quality)
            dist.all_reduce(true_dice)
        nothing_known = number == 0 and self.vae is None
        self.kept = best_part(quality, 1.0 if nothing_known else self.keep_fraction)
        writer.finish(quality, self.kept)
        about = {"label_quality": quality.mean()}
        if truth_is_known:
            about |= {"label_dice": true_dice.mean(), "kept_label_dice": true_dice[self.kept].mean()}
        self._rounds |= {"labelled": number, "about": {name: float(value) for name, value in about.items()}}

    def _new_label(self, batch: dict[str, Tensor], number: int) -> Tensor:
        """Labels `[B, H, W]`, int64, for round `number`."""
        if number:
            label = self.network(batch["image"]).argmax(dim=1)
        elif self.translation is not None:
            label = (self.translation(2 * batch["image"] - 1)[:, 0] > 0).long()
        else:
            return batch["label"]
        return without_holes_and_islands(label) if self.clean_labels else label

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def on_train_end(self) -> None:
        """Without stage 3 the pseudo labels are what the run is for."""
        skipped = self.trainer.current_epoch >= self.stages.first_segmentation and self._rounds["labelled"] < 0
        if skipped and self.translation is not None:
            self._begin_round(0)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "test")

    def _measure(self, batch: dict[str, Any], stage: str) -> None:
        truth, size = (batch["label"] == 1).long(), global_size(batch)
        pairs = [("", self.metrics, self(batch["image"]).argmax(dim=1))]
        if self.translation is not None and self.pseudo_label_metrics is not None:
            pairs.append(("pseudo_label_", self.pseudo_label_metrics, self._new_label(batch, 0)))
        for prefix, metrics, prediction in pairs:
            metrics.update(prediction, truth)
            for name, metric in metrics.items():
                self.log(f"{stage}/{prefix}{name}", metric, on_step=False, on_epoch=True, batch_size=size)

    def image_columns(self, batch: dict[str, Any], outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show images, their pseudo labels with whether they are kept, the prediction and, where known, the truth."""
        kept = self.kept.to(batch["index"].device)[batch["index"]]
        captions = ["kept" if each else "rejected" for each in kept]
        columns: dict[str, Tensor | ImageColumn] = {
            "image": batch["image"].float(),
            "pseudo label": ImageColumn(batch["label"], captions, (~kept).tolist()),
            "prediction": self(batch["image"]).argmax(dim=1),
        }
        return columns | ({"truth": batch["clean_label"]} if "clean_label" in batch else {})

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Returns `index` `[B]` and `prediction` `[B, H, W]`, uint8."""
        return {"index": batch["index"], "prediction": self(batch["image"]).argmax(dim=1).to(torch.uint8)}

    def _of_stage(self, items: Any, stage: str) -> Any:
        """A stage's optimizer or scheduler, of those that `configure_optimizers` gives."""
        trained = [name for name, part in self._parts().items() if part is not None]
        return items[trained.index(stage)] if isinstance(items, list) else items

    def _parts(self) -> dict[str, nn.Module | None]:
        return {"segmentation": self.network, "translation": self.translation, "shape": self.vae}

    def configure_optimizers(self):
        optimizers = [self.optimizer(self.network.parameters())]
        schedulers = [self.lr_scheduler(optimizers[0])]
        if self.translation is not None:
            optimizers.append(self.translation_optimizer(self.translation.parameters()))
            factor = partial(
                constant_then_linear, epochs=self.stages.translation_epochs, constant=self.constant_fraction
            )
            schedulers.append(torch.optim.lr_scheduler.LambdaLR(optimizers[-1], factor))
        if self.vae is not None:
            optimizers.append(self.vae_optimizer(self.vae.parameters()))
        return optimizers, schedulers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rounds"] = dict(self._rounds)
        checkpoint["kept"] = self.kept.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rounds = dict(checkpoint["rounds"])
        self._saved_kept = checkpoint["kept"]
