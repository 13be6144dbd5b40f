"""The LightningModule of WTA-CRS."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, within
from datamodules.batches import LabelledImageBatch, LabelledTextBatch, global_batch_size, local_size, network_input
from datamodules.distributed.collectives import rank, run_seed, world_size
from datamodules.randomness.generators import seed_of
from lightning_modules.backbones.replacement import layers_named, replace_layers
from lightning_modules.distributed.per_sample import PerSample
from lightning_modules.efficiency.wta_crs.attention import sample_attention
from lightning_modules.efficiency.wta_crs.compact import (
    compact_dropout,
    compact_layers,
    keep_inputs,
    kept_inputs,
    restore_kept_inputs,
)
from lightning_modules.efficiency.wta_crs.estimator import ESTIMATORS, Estimator
from lightning_modules.efficiency.wta_crs.gradient_error import gradient_errors, table_of
from lightning_modules.efficiency.wta_crs.products import SampledLinear, SampledProduct, Sampler
from lightning_modules.efficiency.wta_crs.regression import correlations, log_regression, squared_error_step
from lightning_modules.interfaces import Table, TrainingSamples, require_data
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies, cross_entropy_step
from lightning_modules.training.logging import log_same


def sample_products(
    network: nn.Module, layers: Sequence[str], attention: Sequence[str], sampler: Sampler, compact: bool = False
) -> None:
    """Change a network in place, so that its selected matrix products compute gradients from sampled column-row pairs.

    The parameters keep their names.

    Args:
        network: network to change, which may be any network of timm, transformers or PyTorch.
        layers: name patterns of linear layers (see `layers_named`).
        attention: name patterns of attention modules.
        sampler: state that all sampled products of the network share.
        compact: whether to replace dropout, ReLU and layer normalisation by layers that store less (see
            `compact_layers`).

    Raises:
        ValueError: if a name pattern matches no layer, or if it matches a frozen layer.
    """
    for name, module in layers_named(network, attention, (nn.Module,), "attention").items():
        sample_attention(module, name, sampler, compact_dropout if compact else F.dropout)
    linear = layers_named(network, layers, (nn.Linear,), "layers")
    replace_layers(network, linear, "layers", lambda name, old: SampledLinear(old, SampledProduct(sampler, name)))
    if compact:
        compact_layers(network)


class WTACRS(ClassifierSteps, MethodModule):
    """Fine-tune any network with cross-entropy or squared error, storing only a few activations for the backward pass.

    Args:
        network: network that maps images `[B, C, H, W]` in [0, 1], or tokenised texts, to logits `[B, num_classes]`.
        num_classes: number of classes, K; 1 means regression of a real number, as in STS-B.
        layers: name patterns of the linear layers to sample; `*` matches any characters, and `?` matches one character.
        attention: name patterns of the attention modules whose two matrix products are sampled.
        ratio: fraction of the tokens of each product that are kept, in (0, 1]; at least ten tokens are kept.
        estimator: wta_crs, crs (plain column-row sampling), or top_k (only the most probable tokens, which is biased).
        compact: whether to store masks of dropout and ReLU as bits, and the outputs of layer normalisations instead of
            their inputs.
        shares: number of parts of a global batch that are sampled separately, which must be a multiple of the world
            size; None means the world size.
        measure_error: whether to compare the estimated gradients of the linear layers with the exact gradients, for
            each estimator, on the last batch of each epoch. The mean error of the selected estimator is logged as
            `train/gradient_error` and, for the last epoch, as `test/gradient_error`. The comparison requires memory for
            all activations of the batch.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        layers: list[str],
        attention: list[str] | None = None,
        ratio: float = 0.3,
        estimator: Estimator = "wta_crs",
        compact: bool = False,
        shares: int | None = None,
        measure_error: bool = False,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        within(0, 1, "(]", ratio=ratio)
        one_of(ESTIMATORS, estimator=estimator)
        at_least(1, shares=shares, num_classes=num_classes)
        self.network = network
        self.num_classes = num_classes
        self.shares = shares
        self.measure_error = measure_error
        self.errors: dict[str, Tensor] = {}
        self.sampler = Sampler(ratio, estimator)
        sample_products(network, layers, attention or [], self.sampler, compact)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes) if num_classes > 1 else correlations()
        self.gradient_norms = PerSample(0)
        self._unstored: tuple[Tensor, int, Tensor | float] | None = None

    def forward(self, inputs: Any) -> Tensor:
        return self.network(inputs)

    # Training steps

    def on_fit_start(self) -> None:
        processes = world_size()
        if self.shares is not None and self.shares % processes:
            raise ValueError(f"shares must be a multiple of {processes}, the number of processes, got {self.shares}")
        self._num_train_samples = require_data(self.trainer, TrainingSamples, "WTACRS").num_train_samples
        if self.gradient_norms.num_features:
            self._allocate()

    def on_train_epoch_start(self) -> None:
        keep_inputs(self.network)

    on_train_epoch_end = on_train_epoch_start

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self._store()
        known = self._known_values(batch)
        begin = partial(self._begin, local_size(batch), known, batch_idx)
        begin()
        if self.measure_error and batch_idx + 1 == self.trainer.num_training_batches:
            self.errors = gradient_errors(self.network, self.sampler, batch, begin)
            log_same(self, "train/gradient_error", self.errors[self.sampler.estimator].mean())

    def _begin(self, samples: int, known: Tensor | None, batch_idx: int) -> None:
        shares = (self.shares or world_size()) // world_size()
        # The global batch has `self.shares` parts, distributed round robin over W ranks: part s is number s // W on
        # rank s % W.
        place = (run_seed(), self.trainer.current_epoch, batch_idx)
        generators = [self._generator(*place, rank() + own * world_size()) for own in range(shares)]
        self.sampler.begin_step(samples, known, generators)

    def _generator(self, *place: int) -> torch.Generator | None:
        return None if self.device.type == "meta" else torch.Generator(self.device).manual_seed(seed_of(*place))

    def training_step(self, batch: LabelledImageBatch | LabelledTextBatch, batch_idx: int) -> dict[str, Tensor]:
        self._unstored = (batch["index"], global_batch_size(batch), self._loss_scale())
        if self.num_classes == 1:
            return squared_error_step(self, batch)
        return cross_entropy_step(self, batch, soft_labels=None, binary=False)

    def _log_measures(self, logits: Tensor, batch: dict[str, Any], stage: str) -> None:
        if self.num_classes == 1:
            log_regression(self, logits[:, 0], batch, stage)
        else:
            super()._log_measures(logits, batch, stage)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Return a classifier's predictions or, for regression, the columns `index` and `prediction`, both `[B]`."""
        if self.num_classes == 1:
            return {"index": batch["index"], "prediction": self(network_input(batch))[:, 0]}
        return super().predict_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        if self.errors:
            log_same(self, "test/gradient_error", self.errors[self.sampler.estimator].mean())

    @property
    def tables(self) -> dict[str, Table]:
        """Return a table of the gradient errors of the layers in the last epoch, if they were measured."""
        return {"gradient_error": table_of(self.errors)} if self.errors else {}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))

    # Gradient norms of each sample in the previous epoch, on the CPU

    def _loss_scale(self) -> Tensor | float:
        """Return the loss scale of half precision; a scale on the device is returned without a host synchronisation."""
        scaler = getattr(getattr(self.trainer, "precision_plugin", None), "scaler", None)
        return 1.0 if scaler is None else scaler.scale(torch.ones((), device=self.device))

    def _allocate(self) -> None:
        self.gradient_norms.allocate(self._num_train_samples, "cpu", torch.bfloat16, exchange=self.device)

    def _known_values(self, batch: Any) -> Tensor | None:
        if not self.gradient_norms.num_features:  # the number of norms is only known after the first training step
            return None
        nothing = torch.zeros(local_size(batch), self.gradient_norms.num_features, device=self.device)
        return self.gradient_norms.update(batch["index"], nothing, lambda old, new: old, global_batch_size(batch))

    def _store(self) -> None:
        """Store the gradient norms that the last step measured, rescaled to the gradients of each sample's own loss."""
        norms = self.sampler.measured_norms()
        if self._unstored is None or norms is None:
            return
        index, size, scale = self._unstored
        self._unstored = None
        norms = norms * (size * self.trainer.accumulate_grad_batches / world_size()) / scale
        if not self.gradient_norms.num_features:
            self.gradient_norms = PerSample(norms.shape[1])
            self._allocate()
        finite = norms.nan_to_num(nan=0.0, posinf=0.0)  # norms are not finite if half precision skips the step
        self.gradient_norms.update(index, finite, lambda old, new: new, size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._store()
        checkpoint["gradient_norms"] = {"rows": self.gradient_norms.gather(copy=False), "widths": self.sampler.widths}
        checkpoint["gradient_errors"] = self.errors
        checkpoint["kept_inputs"] = kept_inputs(self.network)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint["gradient_norms"]
        if len(kept["widths"]) != len(self.sampler.products):
            raise ValueError(
                f"layers and attention select {len(self.sampler.products)} products, but the checkpoint has "
                f"{len(kept['widths'])}"
            )
        for product, width in zip(self.sampler.products, kept["widths"], strict=True):
            product.width = width
        self.gradient_norms = PerSample(sum(kept["widths"]))
        self.gradient_norms.restore(kept["rows"])
        self.errors = checkpoint["gradient_errors"]
        restore_kept_inputs(self.network, checkpoint.get("kept_inputs", ()))
