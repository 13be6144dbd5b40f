"""Batches that a DataModule gives to a LightningModule: the keys of each kind of batch, their shapes and ranges."""

from typing import Any, NotRequired, TypedDict

from torch import Tensor

from datamodules.distributed.collectives import world_size

IGNORED = 255
"""The label of a pixel that has none."""
UNVERIFIED = -2
"""The true label of an image that nobody has verified; that of an image of no class is -1."""


class LabelledImageBatch(TypedDict):
    """Images with one label each."""

    image: Tensor
    """`[B, C, H, W]`, float32 in [0, 1]."""
    label: Tensor
    """`[B]`, int64: the current label, which may be wrong in training, and maybe corrected there."""
    index: Tensor
    """`[B]`, int64: position in the set the batch was drawn from (for training, the training set)."""
    global_batch_size: int
    """Samples of this batch over all processes."""
    original_label: NotRequired[Tensor]
    """`[B]`, int64: of training images, once labels have been corrected, those that were given."""
    clean_label: NotRequired[Tensor]
    """`[B]`, int64: ground truth where it is known, -1 for an image of no class; in a set that is verified in part
    `UNVERIFIED` for the others. For metrics only, never for a loss."""
    second_view: NotRequired[Tensor]
    """As `image`, in training: another random view of the same images, drawn in the same way."""
    classes: NotRequired[Tensor]
    """`[k]`, int64, in a shifted test set: the classes that it has, where they are not all."""
    origin: NotRequired[Tensor]
    """`[B]`, int64, 0 for the data set's own images, else which out-of-distribution set; their label is -1."""
    unreadable: NotRequired[dict[int, str]]
    """In prediction: of files that cannot be read, and are black in `image`, the `index`, and a sentence that says why.
    """


class LabelledTextBatch(TypedDict):
    """Texts, or pairs of texts, with one label each."""

    text: dict[str, Tensor]
    """As a tokenizer of transformers gives them, each `[B, L]`, int64: `input_ids`, `attention_mask`, and where the
    tokenizer has them `token_type_ids`. All batches have one L."""
    label: Tensor
    """`[B]`, int64."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Samples of this batch over all processes."""


class LabelledMaskBatch(TypedDict):
    """Images with one label for each pixel."""

    image: Tensor
    """`[B, C, H, W]`, float32 in [0, 1] (medical slices: standardised, as their DataModule states)."""
    label: Tensor
    """`[B, H, W]`, int64: the current category of each pixel, maybe corrected in training; 255 is ignored."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Samples of this batch over all processes."""
    original_label: NotRequired[Tensor]
    """`[B, H, W]`, int64: of training images, the labels that were given, before any correction; 255 is ignored."""
    clean_label: NotRequired[Tensor]
    """`[B, H, W]`, int64: ground truth where it is known; 255 is ignored. For metrics only, never for a loss."""
    unreadable: NotRequired[dict[int, str]]
    """In prediction: of files that cannot be read, and are black in `image`, the `index`, and a sentence that says why.
    """


class UnpairedMaskBatch(TypedDict):
    """Images, masks of the same structure that belong to none of them, and labels that are made while training."""

    image: Tensor
    """`[B, C, H, W]`, float32 in [0, 1]."""
    auxiliary_mask: Tensor
    """`[B, 1, H, W]`, of the images' type, 0 and 1: the mask of a structure in no image of the set."""
    label: Tensor
    """`[B, H, W]`, int64, 0 and 1: the current pseudo label; 0 before there is one."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Samples of this batch over all processes."""
    original_label: NotRequired[Tensor]
    """`[B, H, W]`, int64: the labels as the data set gives them."""
    clean_label: NotRequired[Tensor]
    """`[B, H, W]`, int64: ground truth where it is known. For metrics only, never for a loss."""


class ProtectedImageBatch(TypedDict):
    """Images with regions that an editor keeps while it repaints the rest."""

    image: Tensor
    """`[B, C, H, W]`, float32 in [0, 1]."""
    regions: Tensor
    """`[B, R, H, W]`, bool: the regions to protect; an image with fewer than R has empty ones."""
    editor_keeps: Tensor
    """`[B, M, H, W]`, bool: what editors keep: first the regions' union, then masks that protection does not know."""
    prompt: list[list[str]]
    """Of each image, the texts that editors give."""
    source_prompt: NotRequired[list[str]]
    """Of each image, what it shows; where that is known."""
    name: list[str]
    """Of each image, the name of its file without suffix."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Samples of this batch over all processes."""


class ImagePairBatch(TypedDict):
    """Noisy images, of which the clean ones are known or not."""

    noisy: Tensor
    """`[B, C, H, W]`, float32 in the units of clean images, but not clipped to [0, 1]."""
    clean: NotRequired[Tensor]
    """`[B, C, H, W]`, float32 in [0, 1]: ground truth, where it is known. For supervised training and for metrics only.
    """
    second_noisy: NotRequired[Tensor]
    """As `noisy`, in training, where it is asked for: another draw of the noise on the same clean images."""
    noise_level: NotRequired[Tensor]
    """`[B, 1, 1, 1]`, in training on fresh noise whose strength is a range: each image's, in the units of its argument.
    """
    index: Tensor
    """`[B]`, int64: position in the set; of a patch in training, among the patches of an epoch."""
    global_batch_size: int
    """Samples of this batch over all processes; in evaluation, where these may have different numbers of batches, those
    of all processes' batches of this number."""
    name: NotRequired[list[str]]
    """Of each image, in testing and prediction: the name of its file without suffix."""
    data_range: NotRequired[int]
    """In testing and prediction: the stored value that stands for 1, 255 for images of 8 bits."""


class MeasuredImageBatch(TypedDict):
    """Images of which something was measured, as their visible part, a small image or the magnitudes of frequencies."""

    clean: NotRequired[Tensor]
    """`[B, C, H, W]`, float32 in [0, 1]: in training, and ground truth where it is known, for metrics only."""
    measured: NotRequired[Tensor]
    """`[B, ...]`, float32, in testing and prediction: H x + noise, for the clean images x in [-1, 1]."""
    noisy: NotRequired[Tensor]
    """`[B, C, H, W]`, float32, in testing and prediction: the operator's pseudo-inverse of `measured`, in the units of
    clean images."""
    index: Tensor
    """`[B]`, int64: position in the set, from which the operator knows each image's mask, where it has one."""
    global_batch_size: int
    """Samples of this batch over all processes."""
    name: NotRequired[list[str]]
    """Of each image, in testing and prediction: the name of its file without suffix."""
    data_range: NotRequired[int]
    """In testing and prediction: the stored value that stands for 1, 255 for images of 8 bits."""


class SpeechPairBatch(TypedDict):
    """Noisy recordings, of which the clean ones are known or not."""

    noisy: Tensor
    """`[B, samples]`, float32 in [-1, 1]."""
    clean: NotRequired[Tensor]
    """`[B, samples]`, float32 in [-1, 1]: ground truth, where it is known. For supervised training and metrics only."""
    length: NotRequired[Tensor]
    """`[B]`, int64: samples of each recording, outside training; zeros come after them."""
    rate: int
    """Samples a second."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Samples of this batch over all processes; in evaluation, those of all processes' batches of this number."""
    name: NotRequired[list[str]]
    """Of each recording, outside training: the name of its file without suffix."""


class ClipBatch(TypedDict):
    """Clips of videos, of which the clean ones are known or not; all of a batch have one length and one size."""

    noisy: Tensor
    """`[B, T, C, h, w]`, float32 in [0, 1], in levels of 8 bits; C is 3 in colour, 1 in grey."""
    clean: NotRequired[Tensor]
    """`[B, T, C, s h, s w]`, float32 in [0, 1]: ground truth, where it is known, s times as large. For supervised
    training and for metrics only."""
    noise: NotRequired[Tensor]
    """As `noisy`: a sequence of noise alone on nearly constant content, where the data have such; in testing of a
    source that training does not know."""
    index: Tensor
    """`[B]`, int64: position in the set; of a window in training, among the windows of an epoch."""
    global_batch_size: int
    """Samples of this batch over all processes; in evaluation, those of all processes' batches of this number."""
    name: NotRequired[list[str]]
    """Of each clip, outside training: the name of its folder, or of its file without suffix."""
    first: NotRequired[list[int]]
    """Of each clip, outside training: the number of its first frame, where long clips come in several parts."""
    rate: NotRequired[list[float]]
    """Of each clip, in prediction of video files: frames a second."""


class NormalMapBatch(TypedDict):
    """Images with the normals of the surfaces that they show."""

    image: Tensor
    """`[B, 3, H, W]`, float32 in [0, 1]."""
    normal: NotRequired[Tensor]
    """`[B, 3, H, W]`, float32: unit vectors x to the right, y up and z to the viewer, up to rounding; the zero vector
    where the normal is unknown. Left out of photographs that are predicted."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Samples of this batch over all processes; in evaluation, those of all processes' batches of this number."""
    name: NotRequired[list[str]]
    """Of each image, outside training: the name of its file without suffix."""


class CaptionedImageBatch(TypedDict):
    """Images with texts that say what they show."""

    image: NotRequired[Tensor]
    """`[B, C, H, W]`, float32 in [0, 1]; left out where `moments` stands for it."""
    caption: NotRequired[list[str]]
    """Of each image, what it shows; where that is known."""
    moments: NotRequired[Tensor]
    """`[B, 2, c, h, w]`: mean and standard deviation of an autoencoder's distribution of the image's latent, unscaled.
    """
    embedding: NotRequired[Tensor]
    """`[B, L, D]`: the caption as a text encoder gives it, with `moments`."""
    pooled: NotRequired[Tensor]
    """`[B, P]`: the caption's pooled embedding, of SDXL, with `moments`."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Samples of this batch over all processes."""


class PromptBatch(TypedDict):
    """Texts alone, of which images are made."""

    caption: list[str]
    """`B` texts."""
    seed: Tensor
    """`[B]`, int64: random seed of each one's noise."""
    index: Tensor
    """`[B]`, int64: number of each text, which may differ from its position in the set."""
    global_batch_size: int
    """Samples of this batch over all processes."""


class NoisePairBatch(TypedDict):
    """Noise with better noise for the same text."""

    source: Tensor
    """`[B, c, h, w]`: standard normal noise."""
    target: Tensor
    """As `source`: the better noise."""
    caption: list[str]
    """`B` texts."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Samples of this batch over all processes."""


class InterpolationBatch(TypedDict):
    """Pairs of images, between which others are made."""

    first: Tensor
    """`[B, C, H, W]`, float32 in [0, 1]; with noise, where the data add some, not clipped."""
    second: Tensor
    """As `first`: the other image of each pair."""
    prompt: list[str]
    """Of each pair, a text of what both show; empty where there is none."""
    name: list[str]
    """Of each pair, what its results are called."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Samples of this batch over all processes."""


class TableBatch(TypedDict):
    """Rows of a table: samples, rounds of a stream, measurements or points, in numbers of their own units.

    Floating-point columns come in the module's type, at least single precision. A set has the keys that it needs.
    """

    features: NotRequired[Tensor]
    """`[B, ...]`, floating point: what is known of each sample."""
    target: NotRequired[Tensor]
    """`[B]` or `[B, K]`: what was observed: floating point, or int64 for classes; -1 and 1 for halfspaces."""
    clean_target: NotRequired[Tensor]
    """As `target`: without its noise, where that is known. For metrics only, never for a loss."""
    corrupted: NotRequired[Tensor]
    """`[B]`, bool: whether `target` has a gross error or a false sign. For metrics only."""
    target_mean: NotRequired[Tensor]
    target_std: NotRequired[Tensor]
    """`[]`: mean and deviation, over the training rows, of a target that was standardised, in its own units. For
    metrics only."""
    w_true: NotRequired[Tensor]
    """`[D]`: the parameter that generated all rows. For metrics only."""
    x_star: NotRequired[Tensor]
    """`[D, D]`: the matrix that all rows measure. For metrics only."""
    ratings: NotRequired[Tensor]
    """`[B, M]`: a user's ratings of all items, positive, and 0 for those that were not rated or are held out."""
    held_out: NotRequired[Tensor]
    """As `ratings`: those that are to be ranked first, in a validation or test."""
    excluded: NotRequired[Tensor]
    """As `ratings`: others that are held out, which are no candidates there."""
    mean_gradient: NotRequired[Tensor]
    """`[B, D]`, of a stream: the gradient at 0 of each round's expected loss. For metrics only."""
    gradient_noise: NotRequired[Tensor]
    """`[B]`, of a stream: the greatest variance of each round's gradient over its domain. For metrics only."""
    curvature: NotRequired[Tensor]
    """A number, of a stream: the expected losses' second derivative in every direction. For metrics only."""
    index: Tensor
    """`[B]`, int64: position in the set; of a stream its round."""
    global_batch_size: int
    """Samples of this batch over all processes."""


class SequenceBatch(TypedDict):
    """Sequences of observations at equal distances in time: paths, or the frames of videos."""

    observed: Tensor
    """`[B, F, D]`: points of paths, in units of their own; or `[B, F, C, H, W]`, float32 in [0, 1]: frames."""
    interval: float
    """Time between two observations, the first of which is at 0."""
    sigma: NotRequired[Tensor]
    """`[F]`, of paths: standard deviation of each observation's Gaussian error; infinite for one that tells nothing."""
    exact_std: NotRequired[Tensor]
    """`[F]`, in testing bridges: the standard deviation of the path given what was observed. For metrics only."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Samples of this batch over all processes."""


class GraphBatch(TypedDict):
    """Observations of the nodes of one directed graph."""

    features: Tensor
    """`[B, D]`, floating point: a sample of each of the D nodes in a row."""
    w_true: NotRequired[Tensor]
    """`[D, D]`, floating point: the weight of the edge from row to column, 0 where there is none; 1 for an edge of a
    graph that has no weights. For metrics only, never for a loss."""
    noise_std: NotRequired[Tensor]
    """`[D]`: the standard deviation of each node's own noise. For metrics only."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Samples of this batch over all processes."""


def network_input(batch: Any) -> Any:
    """Give what a classifier's network takes of a batch: images, or texts as their tokenizer gives them."""
    return batch["text"] if "text" in batch else batch["image"]


def local_size(batch: Any) -> int:
    """Samples of a batch on this process: of `index`, which every DataModule here gives, or else of the first tensor.

    Raises:
        ValueError: if the batch holds no tensor.
    """
    for value in (batch.get("index"), *batch.values()):
        if isinstance(value, Tensor) and value.ndim:
            return len(value)
    raise ValueError(f"a batch needs a tensor whose first dimension counts samples, got the keys {', '.join(batch)}")


def global_batch_size(batch: Any) -> int:
    """Samples of a batch over all processes. A batch of a user's own loader without the key counts as evenly shared."""
    if "global_batch_size" in batch:
        return batch["global_batch_size"]
    return local_size(batch) * world_size()


def loss_weight(batch: Any) -> float:
    """Weight of this process's mean loss, so that the average over processes is the mean over the global batch.

    DDP averages gradients over processes. The last batch of an epoch may be split unevenly, so the mean of the local
    means is not the global mean; world size times local count over global count puts it right. It is 1 in a single
    process.

    A weighted loss is logged with `batch_size=global_batch_size(batch)`: the mean over the epoch is then exact, too.
    """
    return world_size() * local_size(batch) / global_batch_size(batch)
