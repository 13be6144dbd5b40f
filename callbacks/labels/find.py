"""Find label errors with one function call, without a Trainer."""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from callbacks.labels.cleaning import with_actions, wrong_fraction
from callbacks.labels.measures import compare_with_labels
from datamodules.arguments import at_least, within
from datamodules.corruptions.label_noise.interface import checked_labels
from lightning_modules.backbones import timm_model
from lightning_modules.training.evaluation_mode import evaluating


def find_label_errors(
    network_or_name: nn.Module | str | Tensor | NDArray[np.floating],
    images: Tensor | NDArray[np.floating] | None,
    labels: Tensor | NDArray[np.integer],
    threshold: float = 0.5,
    batch_size: int = 256,
) -> pd.DataFrame:
    """Score each label by the predictions of a trained classifier.

    If the network was trained on these labels, it may have memorised some false labels, which are then not suspected.
    To avoid this, pass class probabilities from cross-validation.

    Args:
        network_or_name: a trained network or module that maps images to logits `[B, K]`, the name of a timm model with
            pretrained weights for these classes, or class probabilities `[N, K]`. K must be at least 2.
        images: images `[N, C, H, W]` in [0, 1]; may be None if class probabilities are given.
        labels: given labels `[N]`, integers in 0 ... K - 1.
        threshold: label score below which a label is suspected, in (0, 1).
        batch_size: number of images per forward pass.

    Returns:
        The same table as in `callbacks.labels.LabelReport`, with the most suspicious label first. It has the columns
        `index`, `given`, `proposed`, `probability_given`, `probability_proposed`, `score` and `suspected`, and the
        columns `action` (`keep`, `relabel` or `drop`), `label` (for training) and `confidence` of
        `callbacks.labels.cleaning.with_actions`. The table's `attrs` contain the estimated fraction of wrong labels and
        its interval, see `callbacks.labels.cleaning.wrong_fraction`.

    Raises:
        ValueError: if an argument is out of range, or lengths or shapes do not match.

    Examples:
        >>> probability = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.95, 0.05]])
        >>> table = find_label_errors(probability, None, torch.tensor([0, 1, 1]))
        >>> table["index"][table["suspected"] == 1].tolist()
        [2]
    """
    within(0, 1, "()", threshold=threshold)
    at_least(1, batch_size=batch_size)
    if len(labels) == 0:
        raise ValueError("labels must have at least one entry, got none")
    if isinstance(network_or_name, nn.Module | str):
        probability = _probabilities(network_or_name, images, len(labels), batch_size)
    else:
        probability = torch.as_tensor(network_or_name).detach().cpu().double()
    if probability.ndim != 2 or len(probability) != len(labels):
        raise ValueError(f"probabilities must be [{len(labels)}, K], one row per label, got {list(probability.shape)}")
    if not ((probability >= 0).all() and (probability.sum(dim=1) - 1).abs().max() < 1e-3):  # NaN fails both conditions
        raise ValueError("probabilities must be nonnegative, and each row must sum to 1; apply softmax to logits first")
    given = torch.from_numpy(checked_labels(labels, probability.shape[1], "labels"))
    columns = {name: column.numpy() for name, column in compare_with_labels(probability, given).items()}
    table = pd.DataFrame({"index": np.arange(len(given)), **columns})
    table["suspected"] = (table["score"] < threshold).astype(int)
    table = with_actions(table).sort_values("score", kind="stable", ignore_index=True)
    table.attrs.update(wrong_fraction(table))
    return table


def _probabilities(
    network: nn.Module | str, images: Tensor | NDArray[np.floating] | None, samples: int, batch_size: int
) -> Tensor:
    """Return the class probabilities of a network in evaluation mode, `[N, K]`, as float64 on the CPU."""
    if images is None or len(images) != samples:
        got = "None" if images is None else f"{len(images)} images"
        raise ValueError(f"there must be one image for each of the {samples} labels, got {got}")
    image = torch.as_tensor(images)
    if not image.is_floating_point() or not 0 <= float(image.min()) <= float(image.max()) <= 1:
        got = f"{image.dtype} in [{float(image.min()):g}, {float(image.max()):g}]"
        raise ValueError(f"images must be floating-point numbers in [0, 1], got {got}")
    if isinstance(network, str):
        import timm

        known = timm.models.get_pretrained_cfg(network, allow_unregistered=True)
        network = timm_model(network, known.num_classes if known else 2, pretrained=True)  # rejects unknown names
    place = next(network.parameters(), image)
    with evaluating(network), torch.no_grad():
        logits = [network(part.to(place.device, place.dtype)).cpu().double() for part in image.split(batch_size)]
    return torch.cat(logits).softmax(dim=1)
