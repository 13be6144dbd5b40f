"""Loss terms, adapter and LightningModule of NMTune."""

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least
from datamodules.batches import network_input
from lightning_modules.full_precision import at_least_float32, in_full_precision
from lightning_modules.interfaces import Table
from lightning_modules.method_module import MethodModule
from lightning_modules.noisy_labels.nmtune.spectrum import (
    Center,
    SingularSpectrum,
    largest_singular_value_ratio,
    singular_value_entropy,
    spectrum_table,
)
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.logging import log_same, log_training


def direction_term(tuned: Tensor, features: Tensor) -> Tensor:
    """Compute L_MSE, (2/D) (1 - mean cosine similarity), from the rows of Z (`tuned`) and F (`features`)."""
    one, other = (F.normalize(at_least_float32(rows), dim=1) for rows in (tuned, features))
    return F.mse_loss(one, other)


def covariance_term(tuned: Tensor) -> Tensor:
    """Compute L_COV of Z, `[B, D]`, with B >= 2.

    L_COV is the sum of the squared covariances between different features, divided by D.

    The computation uses float32 or a higher precision, because the loss contains fourth powers of the features, which
    can exceed the range of half precision. If there are fewer rows than features, the computation uses the smaller Gram
    matrix Z Z^T, `[B, B]`. The result is the same, because Z Z^T and Z^T Z have the same sum of squares.
    """
    with in_full_precision(tuned.device):
        tuned = at_least_float32(tuned)
        centred = tuned - tuned.mean(dim=0)
        if len(centred) < centred.shape[1]:
            products = centred @ centred.T / (len(tuned) - 1)
            variance = centred.square().sum(dim=0) / (len(tuned) - 1)
        else:
            products = centred.T @ centred / (len(tuned) - 1)
            variance = products.diagonal()
        return (products.square().sum() - variance.square().sum()) / tuned.shape[1]


def singular_value_term(tuned: Tensor, num_values: int) -> Tensor:
    """Compute L_SVD of Z, `[B, D]`, without centring.

    L_SVD is -m / s, where m is the mean of the k largest singular values, and s is the sum of all singular values.

    Args:
        tuned: tuned features Z, which are decomposed in float32 or a higher precision.
        num_values: number k of singular values; if there are fewer, all are used.
    """
    sigma = torch.linalg.svdvals(at_least_float32(tuned))
    return -(sigma[:num_values] / sigma.sum()).mean()


class FeatureAdapter(nn.Module):
    """Residual adapter Z = s * (W_2 ReLU(BN(W_1 F))) + F.

    Args:
        num_features: number D of features.
        ratio: number of hidden features, divided by D.
    """

    def __init__(self, num_features: int, ratio: int) -> None:
        super().__init__()
        hidden = ratio * num_features
        self.layers = nn.Sequential(
            nn.Linear(num_features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, num_features)
        )
        self.scale = nn.Parameter(torch.ones(num_features))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * self.layers(features) + features


class NMTune(ClassifierSteps, MethodModule):
    """Tune an adapter and a linear classifier on the features of a frozen encoder.

    If all three loss weights are 0, the method is the MLP tuning of the paper. Without the adapter, the method is
    linear probing (LP). Terms with weight 0 are neither computed nor logged. `test` also logs the singular value
    entropy and the largest singular value ratio on the test set: `test/sve` and `test/lsvr` for the features of the
    encoder, and `test/sve_tuned` and `test/lsvr_tuned` for the tuned features. After a test, the attribute `tables`
    also contains the singular values.

    For precomputed features (`CachedFeatures`), use `torch.nn.Identity` as the `network`.

    Args:
        network: encoder that maps images `[B, C, H, W]` in [0, 1], or tokenized texts, to features `[B, num_features]`.
            The encoder is frozen and in evaluation mode. Use `torch.nn.Identity` if batches contain features.
        num_features: number D of features.
        num_classes: number of classes, K.
        adapter: whether to tune an adapter in front of the classifier. If false, the method is linear probing, without
            regularisers.
        adapter_ratio: ratio of the number of hidden features of the adapter to D.
        direction_weight: weight a of L_MSE.
        covariance_weight: weight b of L_COV.
        singular_value_weight: weight c of L_SVD.
        num_singular_values: number k of singular values in L_SVD.
        center: method of centring the features for SVE and LSVR; the authors' code uses `row`.
        optimizer: optimizer of the parameters of the adapter and the classifier.
        lr_scheduler: learning-rate schedule. It is stepped every epoch, or every step for schedules such as
            `CosineOverSteps`.
    """

    def __init__(
        self,
        network: nn.Module,
        num_features: int,
        num_classes: int,
        adapter: bool = True,
        adapter_ratio: int = 4,
        direction_weight: float = 1.0,
        covariance_weight: float = 0.04,
        singular_value_weight: float = 0.001,
        num_singular_values: int = 5,
        center: Center = "none",
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(
            0,
            direction_weight=direction_weight,
            covariance_weight=covariance_weight,
            singular_value_weight=singular_value_weight,
        )
        at_least(1, num_features=num_features, adapter_ratio=adapter_ratio, num_singular_values=num_singular_values)
        classifier = nn.Linear(num_features, num_classes)
        nn.init.kaiming_uniform_(classifier.weight)
        nn.init.zeros_(classifier.bias)
        parts = OrderedDict(
            encoder=network.requires_grad_(False).eval(),
            adapter=FeatureAdapter(num_features, adapter_ratio) if adapter else nn.Identity(),
            classifier=classifier,
        )
        self.network = nn.Sequential(parts)
        self.num_classes = num_classes
        # Without an adapter, Z equals F, and the regularisation terms are constants.
        self.direction_weight = direction_weight if adapter else 0.0
        self.covariance_weight = covariance_weight if adapter else 0.0
        self.singular_value_weight = singular_value_weight if adapter else 0.0
        self.num_singular_values = num_singular_values
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)
        self.spectrum = SingularSpectrum(num_features, center)
        self.tuned_spectrum = SingularSpectrum(num_features, center)
        self.tables: dict[str, Table] = {}

    @property
    def encoder(self) -> nn.Module:
        """The frozen encoder e."""
        return self.network[0]

    def train(self, mode: bool = True) -> "NMTune":
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, inputs: Any) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        encoder, adapter, classifier = self.network
        inputs, label = network_input(batch), batch["label"]
        size = len(label)
        if two_views := "second_view" in batch:
            inputs, label = torch.cat([inputs, batch["second_view"]]), label.repeat(2)
        features = encoder(inputs)
        tuned = adapter(features)
        logits = classifier(tuned)
        terms = {"cross_entropy": F.cross_entropy(logits, label)}
        loss = terms["cross_entropy"]
        if self.direction_weight > 0:
            terms["direction"] = direction_term(tuned[size:] if two_views else tuned, features[:size])
            loss = loss + self.direction_weight * terms["direction"]
        if self.covariance_weight > 0:
            terms["covariance"] = covariance_term(tuned)
            loss = loss + self.covariance_weight * terms["covariance"]
        if self.singular_value_weight > 0:
            terms["singular_value"] = singular_value_term(tuned, self.num_singular_values)
            loss = loss + self.singular_value_weight * terms["singular_value"]
        return {"loss": log_training(self, batch, loss, **terms), "logits": logits[:size].detach()}

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        encoder, adapter, classifier = self.network
        features = encoder(network_input(batch))
        tuned = adapter(features)
        self._log_measures(classifier(tuned), batch, "test")
        self.spectrum.update(features)
        self.tuned_spectrum.update(tuned)

    def on_test_epoch_end(self) -> None:
        spectra = {}
        for suffix, spectrum in {"": self.spectrum, "_tuned": self.tuned_spectrum}.items():
            sigma = spectrum.compute()
            spectrum.reset()
            spectra["tuned" if suffix else "encoder"] = sigma.flip(0)
            values = {"sve": singular_value_entropy(sigma), "lsvr": largest_singular_value_ratio(sigma)}
            for key, value in values.items():
                log_same(self, f"test/{key}{suffix}", value)
        self.tables = {"spectrum": spectrum_table(spectra)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
