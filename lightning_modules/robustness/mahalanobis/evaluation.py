"""Compute the scores of in-distribution inputs and of other inputs, and use them to evaluate all detection methods.

The scores of N inputs are a matrix `[N, columns]` in float64, with one row per input. The columns are: softmax
confidence; energy confidence; whether the class predicted by the network is correct; whether the class of the nearest
mean is correct; M of each layer for each epsilon; and, with `odin`, the confidence of ODIN for each setting. For each
attack, there is a separate matrix, `[N, 1 + 2 columns]`, with one row per clean image. The first entry of a row is 1 if
the image is in the adversarial set, and 0 otherwise. The following entries are the scores of the noisy copy, and after
them the scores of the adversarial copy.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_modules.metrics.collected import Collected
from lightning_modules.metrics.detection import DetectionResult
from lightning_modules.robustness.mahalanobis.ensemble import FEWEST, Ensemble, Sample, best_column, fit_ensemble
from lightning_modules.robustness.mahalanobis.gaussians import Whitened, mean_confidence
from lightning_modules.robustness.mahalanobis.layers import Layer, layer_features
from lightning_modules.robustness.mahalanobis.local_dimension import NEIGHBOURS, in_mini_batches
from lightning_modules.robustness.mahalanobis.preprocessing import layer_confidence
from lightning_modules.robustness.mahalanobis.scores import (
    EPSILONS,
    energy_confidence,
    odin_confidence,
    softmax_confidence,
)

SOFTMAX, ENERGY, RIGHT, RIGHT_BY_DISTANCE, FIRST_OF_LAYERS = range(5)
ADVERSARIAL_VALIDATION = 0.1


class Scorer:
    """Function object that computes the scores of images from a network and the Gaussians of its layers.

    Args:
        network: network that maps images to logits.
        layers: dict from names to the L layers of the network.
        whitened: Gaussians of each layer, in whitened coordinates.
        epsilons: step sizes of the input pre-processing, in pixel units.
        odin: whether to compute the confidence of ODIN too.
    """

    def __init__(
        self, network: nn.Module, layers: dict[str, Layer], whitened: list[Whitened], epsilons: list[float], odin: bool
    ) -> None:
        self.network = network
        self.layers = layers
        self.whitened = whitened
        self.epsilons = epsilons
        self.odin = odin

    def scores(self, image: Tensor, label: Tensor) -> Tensor:
        """Compute all scores, `[B, columns]`, of images with labels `[B]`.

        The docstring of this Python module lists the columns in order.
        """
        logits, distances, layers = layer_confidence(self.network, self.layers, self.whitened, image, self.epsilons)
        nearest = self.whitened[-1].classes[distances[-1].argmin(dim=1)]
        columns = [softmax_confidence(logits), energy_confidence(logits)]
        columns += [(logits.argmax(dim=1) == label).double(), (nearest == label).double()]
        parts = [torch.stack(columns, dim=1), layers.flatten(1)]
        if self.odin:
            parts.append(odin_confidence(self.network, image).flatten(1))
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def features(self, copies: list[Tensor]) -> Tensor:
        """Compute the features of three copies of the same images; concatenate them to `[B, 3 D]`.

        D is the total number of features of all layers.
        """
        parts = [torch.cat(layer_features(self.network, self.layers, copy)[1], dim=1) for copy in copies]
        return torch.cat(parts, dim=1)


class MeasuredScores(NamedTuple):
    """Description of the score columns, and the name of the method that must not be skipped."""

    layers: Sequence[str]
    rank: Tensor
    """Rank of the covariance of each layer, `[L]`."""
    epsilons: Sequence[float]
    odin: bool
    needed: str | None
    """Method that must be evaluated, or None. With too few validation data, it raises an error; others are skipped."""

    def of_layers(self, scores: Tensor) -> Tensor:
        """Extract the scores M of the layers, `[N, L, epsilons]`, from the score columns."""
        shape = len(self.layers), len(self.epsilons)
        return scores[:, FIRST_OF_LAYERS : FIRST_OF_LAYERS + shape[0] * shape[1]].unflatten(1, shape)

    def of_odin(self, scores: Tensor) -> Tensor:
        """Extract ODIN's confidences, one per setting, from the last columns."""
        return scores[:, FIRST_OF_LAYERS + len(self.layers) * len(self.epsilons) :]

    def leave_out(self, method: str, target: str, fit: int, choose: int) -> None:
        """Warn that a method is skipped because there are too few validation data.

        Raises:
            ValueError: if the skipped method is required.
        """
        message = (
            f"{method}: {fit} and {choose} validation inputs of {target} are too few to fit weights and "
            f"to choose epsilon"
        )
        if method == self.needed:
            raise ValueError(f"score {message}; raise num_validation, or choose a stronger attack")
        rank_zero_warn(f"{message}: skipped")


class Tuning(NamedTuple):
    """Boolean masks of the inputs for the two steps of tuning."""

    fit: Tensor
    """Whether each input is used to fit the weights, `[N]`, bool."""
    choose: Tensor
    """Whether each input is used to choose epsilon, `[N]`, bool."""

    @classmethod
    def first(cls, V: int, position: Tensor) -> "Tuning":
        """Select the inputs whose positions, `[N]`, are below V.

        The first half of these inputs is used to fit the weights, and the second half to choose epsilon.
        """
        return cls(position < V // 2, (position >= V // 2) & (position < V))

    def samples(self, scores: Tensor, is_target: Tensor) -> tuple[Sample, Sample]:
        """Select two parts of the scores `[N, ...]`: the scores for fitting weights, and those for choosing epsilon."""
        fit, choose = (Sample(scores[rows & ~is_target], scores[rows & is_target]) for rows in self)
        return fit, choose


def against_set(
    measured: MeasuredScores,
    name: str,
    in_distribution: tuple[Tensor, Tensor],
    other: tuple[Tensor, Tensor],
    V: int,
    by_attack: Ensemble | None,
) -> DetectionResult:
    """Evaluate how well all methods distinguish the test set from an out-of-distribution set.

    Args:
        measured: description of the score columns.
        name: name of the out-of-distribution set.
        in_distribution: indices and scores of the test images.
        other: indices and scores of the out-of-distribution images.
        V: number of images that are used only for tuning; they are the first images of each set.
        by_attack: ensemble of layers that was tuned on an attack, or None.
    """
    count = len(in_distribution[1]), len(other[1])
    index, scores = (torch.cat(parts) for parts in zip(in_distribution, other, strict=True))
    is_target = torch.cat([torch.zeros(count[0]), torch.ones(count[1])]).bool()
    tuning = Tuning.first(V, torch.cat([torch.arange(count[0]), torch.arange(count[1])]))
    return _detection(measured, name, index, scores, is_target, tuning, "tnr95", by_attack)


def against_attacks(
    measured: MeasuredScores,
    index: Tensor,
    clean: Tensor,
    attacked: Mapping[str, Tensor],
    features: Mapping[str, Collected],
    widths: Sequence[int],
) -> list[DetectionResult]:
    """Evaluate how well all methods distinguish clean and noisy images from adversarial images.

    An attack is skipped if its adversarial set contains only images that are reserved for tuning.

    Args:
        measured: description of the score columns.
        index: indices in the test set, `[N]`.
        clean: scores of the test set, `[N, columns]`.
        attacked: dict that maps the name of each attack to scores `[N, 1 + 2 columns]`.
        features: dict that maps the name of an attack to features `[n, 3 D]`: those of the clean, noisy and adversarial
            copies of the n images in the adversarial set. The baseline `lid` is skipped for attacks without features.
        widths: numbers of features of the layers; D is their sum.
    """
    V = int(ADVERSARIAL_VALIDATION * len(clean))
    by_attack = tuned_on_attack(measured, clean, attacked, V) if attacked else None
    detections = []
    for attack, rows in attacked.items():
        copies, position = _copies(clean, rows)
        if len(position) == 0 or bool((position < V).all()):
            rank_zero_warn(f"{attack} fools the network on none of the test images used for metrics: skipped")
            continue
        scores = torch.cat(copies)
        position = position.repeat(3)
        is_target = torch.arange(3).repeat_interleave(len(copies[0])) == 2
        tuning = Tuning.first(V, position)
        detection = _detection(measured, attack, index[position], scores, is_target, tuning, "auroc", by_attack)
        if attack in features:
            _add_local_dimension(measured, detection, features[attack].compute()[1], widths, tuning)
        detections.append(detection)
    return detections


def tuned_on_attack(measured: MeasuredScores, clean: Tensor, attacked: Mapping[str, Tensor], V: int) -> Ensemble | None:
    """Tune an ensemble on the first V test images, and on the copies of them that the first attack has perturbed.

    Return None if the attack succeeds on too few images.

    Args:
        measured: description of the score columns.
        clean: scores of the test set, `[N, columns]`.
        attacked: dict that maps the name of each attack to scores `[N, 1 + 2 columns]`.
        V: number of images at the start of the test set that are used only for tuning.
    """
    attack, rows = next(iter(attacked.items()))
    copies, position = _copies(clean, rows)
    plain, noisy, adversarial = (measured.of_layers(part) for part in copies)
    halves = Tuning.first(V, position)
    fit, choose = (Sample(torch.cat([plain[half], noisy[half]]), adversarial[half]) for half in halves)
    if min(fit.fewest, choose.fewest) < FEWEST:
        measured.leave_out("tuned_on_attack", attack, fit.fewest, choose.fewest)
        return None
    return fit_ensemble(fit, choose, choose_by="auroc")


def _copies(clean: Tensor, rows: Tensor) -> tuple[list[Tensor], Tensor]:
    """Select the images on which the attack succeeds; return the scores of their three copies, and their positions."""
    position = (rows[:, 0] > 0).nonzero()[:, 0]
    noisy, adversarial = rows[position, 1:].chunk(2, dim=1)
    return [clean[position], noisy, adversarial], position


def _detection(
    measured: MeasuredScores,
    target: str,
    index: Tensor,
    scores: Tensor,
    is_target: Tensor,
    tuning: Tuning,
    choose_by: Literal["tnr95", "auroc"],
    by_attack: Ensemble | None,
) -> DetectionResult:
    """Evaluate how well each method distinguishes in-distribution inputs from one set of other inputs."""
    layers = measured.of_layers(scores)
    plain = measured.epsilons.index(0)
    detection = DetectionResult(target, index, is_target, tuning.fit | tuning.choose)
    methods = detection.confidence
    fit, choose = tuning.samples(layers, is_target)
    tuned = None
    if min(fit.fewest, choose.fewest) < FEWEST:
        measured.leave_out("tuned_on_target", target, fit.fewest, choose.fewest)
    else:
        tuned = fit_ensemble(fit, choose, choose_by)
    for method, ensemble in {"tuned_on_target": tuned, "tuned_on_attack": by_attack}.items():
        if ensemble is not None:
            methods[method] = ensemble.confidence(layers)
            detection.epsilon[method] = measured.epsilons[ensemble.column]
    methods["mean"] = mean_confidence(layers[:, :, plain], measured.rank)
    methods["last"] = layers[:, -1, plain]
    for place, name in enumerate(measured.layers):
        methods[f"layer {name}"] = layers[:, place, plain]
    methods["softmax"], methods["energy"] = scores[:, SOFTMAX], scores[:, ENERGY]
    if measured.odin:
        settings, rows = measured.of_odin(scores), detection.is_validation
        column = best_column(settings[rows & ~is_target], settings[rows & is_target])
        methods["odin"] = settings[:, column]
        detection.epsilon["odin"] = EPSILONS[column % len(EPSILONS)]
    return detection


def _add_local_dimension(
    measured: MeasuredScores, detection: DetectionResult, features: Tensor, widths: Sequence[int], tuning: Tuning
) -> None:
    """Evaluate the baseline `lid` on an adversarial set, and add it to `detection`.

    `features`, `[n, 3 D]`, are the features of the three copies of the n images in the set.
    """
    is_target = detection.is_target
    fewest = [min(int((rows & kind).sum()) for kind in (is_target, ~is_target)) for rows in tuning]
    if min(fewest) < FEWEST:
        measured.leave_out("lid", detection.target, *fewest)
        return
    layers = zip(*(part.split(list(widths), dim=1) for part in features.chunk(3, dim=1)), strict=True)
    dimension = torch.stack([torch.cat(in_mini_batches(copies)) for copies in layers], dim=1)
    ensemble = fit_ensemble(*tuning.samples(dimension, is_target), choose_by="auroc")
    detection.confidence["lid"] = ensemble.confidence(dimension)
    detection.num_neighbours["lid"] = NEIGHBOURS[ensemble.column]


def refuse_too_few(names: list[str], sizes: list[int], num_validation: int) -> None:
    """Reject datasets that have no images left for the metrics, besides the `num_validation` validation images."""
    for name, size in zip(names, sizes, strict=True):
        if size <= num_validation:
            raise ValueError(
                f"num_validation {num_validation} leaves none of the {size} images of {name} for the metrics"
            )


def warn_of_ignored_directions(layers: list[str], rank: list[int], num_features: list[int]) -> None:
    """Warn about each layer whose covariance is singular."""
    for name, kept, width in zip(layers, rank, num_features, strict=True):
        if kept < width:
            rank_zero_warn(
                f"layer {name}: the covariance of {width} features has rank {kept}; distances ignore the others"
            )
