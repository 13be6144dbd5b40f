"""Types of the batches that DataModules return, with their keys, shapes, ranges and units."""

from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor

from datamodules.distributed.collectives import world_size

IGNORED = 255
"""Label of pixels that are ignored by all losses and metrics."""
UNVERIFIED = -2
"""`clean_label` of an image whose true label has not been verified. Out-of-distribution images have -1 instead."""


class LabelledImageBatch(TypedDict):
    """Images with one label each."""

    image: Tensor
    """`[B, C, H, W]`, float32 in [0, 1]."""
    label: Tensor
    """`[B]`, int64: the current label. In training, this label may be wrong and may later be corrected."""
    index: Tensor
    """`[B]`, int64: position in the dataset of the current split, such as the training set."""
    global_batch_size: int
    """Global batch size: number of samples of this batch on all ranks together."""
    original_label: NotRequired[Tensor]
    """`[B]`, int64, in training after labels have been corrected: the given labels, before any correction."""
    clean_label: NotRequired[Tensor]
    """`[B]`, int64: true label where known, -1 for an out-of-distribution image, `UNVERIFIED` for other images in a
    partly verified dataset. For metrics only, never for a loss."""
    second_view: NotRequired[Tensor]
    """Like `image`, in training: a second random augmentation of the same images."""
    classes: NotRequired[Tensor]
    """`[k]`, int64, in a shifted test set that lacks some classes: the classes that it contains."""
    origin: NotRequired[Tensor]
    """`[B]`, int64: 0 for images of the dataset, i for images of the i-th out-of-distribution set, which have label -1.
    """
    unreadable: NotRequired[dict[int, str]]
    """In prediction: the reason why a file is unreadable, by its `index`. Such a file is a black image in `image`."""


class LabelledTextBatch(TypedDict):
    """Texts, or text pairs, with one label each."""

    text: dict[str, Tensor]
    """Tokenizer outputs (transformers), each `[B, L]`, int64: `input_ids`, `attention_mask` and, if the tokenizer
    returns them, `token_type_ids`. L is the same for all batches."""
    label: Tensor
    """`[B]`, int64, or float32 for regression."""
    index: Tensor
    """`[B]`, int64: position in the dataset."""
    global_batch_size: int
    """Global batch size: number of samples of this batch on all ranks together."""


class LabelledMaskBatch(TypedDict):
    """Images with one label per pixel."""

    image: Tensor
    """`[B, C, H, W]`, float32 in [0, 1] (medical slices are standardised; see their DataModule)."""
    label: Tensor
    """`[B, H, W]`, int64: current class of each pixel, which may be corrected during training. 255 is ignored."""
    index: Tensor
    """`[B]`, int64: position in the dataset."""
    global_batch_size: int
    """Global batch size: number of samples of this batch on all ranks together."""
    original_label: NotRequired[Tensor]
    """`[B, H, W]`, int64, in training: the given labels before any correction. 255 is ignored."""
    clean_label: NotRequired[Tensor]
    """`[B, H, W]`, int64: ground truth where it is known. 255 is ignored. For metrics only, never for a loss."""
    unreadable: NotRequired[dict[int, str]]
    """In prediction: the reason why a file is unreadable, by its `index`. Such a file is a black image in `image`."""


class UnpairedMaskBatch(TypedDict):
    """Images with masks from other images that show the same kind of structure, and with current pseudo labels."""

    image: Tensor
    """`[B, C, H, W]`, float32 in [0, 1]."""
    auxiliary_mask: Tensor
    """`[B, 1, H, W]`, dtype of the images, 0 or 1: mask of a structure that is not in any image of the dataset."""
    label: Tensor
    """`[B, H, W]`, int64, 0 or 1: current pseudo label. It is 0 everywhere until pseudo labels are first computed."""
    index: Tensor
    """`[B]`, int64: position in the dataset."""
    global_batch_size: int
    """Global batch size: number of samples of this batch on all ranks together."""
    original_label: NotRequired[Tensor]
    """`[B, H, W]`, int64: the labels of the dataset."""
    clean_label: NotRequired[Tensor]
    """`[B, H, W]`, int64: ground truth where known. For metrics only, never for a loss."""


class ProtectedImageBatch(TypedDict):
    """Images with the regions that inpainting keeps.

    The rest of each image is repainted.
    """

    image: Tensor
    """`[B, C, H, W]`, float32 in [0, 1]."""
    regions: Tensor
    """`[B, R, H, W]`, bool: regions to protect. If an image has fewer than R regions, the remaining masks are empty."""
    editor_keeps: Tensor
    """`[B, M, H, W]`, bool: masks of pixels that the editor keeps. The first mask is the union of `regions`. The other
    masks are not available to the protection method."""
    prompt: list[list[str]]
    """Editing prompts of each image."""
    source_prompt: NotRequired[list[str]]
    """Caption of each image, where known."""
    name: list[str]
    """File name of each image, without suffix."""
    index: Tensor
    """`[B]`, int64: position in the dataset."""
    global_batch_size: int
    """Global batch size: number of samples of this batch on all ranks together."""


class ImagePairBatch(TypedDict):
    """Noisy images, with or without their clean counterparts."""

    noisy: Tensor
    """`[B, C, H, W]`, float32 in the units of clean images, not clipped to [0, 1]."""
    clean: NotRequired[Tensor]
    """`[B, C, H, W]`, float32 in [0, 1]: ground truth where known. For supervised training and metrics only."""
    second_noisy: NotRequired[Tensor]
    """Like `noisy`, in training, if requested: the same clean images with independent noise."""
    noise_level: NotRequired[Tensor]
    """`[B, 1, 1, 1]`, in training, if noise levels are sampled from a range: noise level of each image, in the units of
    the argument of the noise model.
    """
    index: Tensor
    """`[B]`, int64: position in the dataset. For training patches, it is the position among the patches of an epoch."""
    global_batch_size: int
    """Number of samples of this batch on all ranks together. In evaluation, ranks may have different numbers of
    batches; only ranks that have a batch with this batch index are counted."""
    name: NotRequired[list[str]]
    """In testing and prediction: file name of each image, without suffix."""
    data_range: NotRequired[float]
    """In testing and prediction: stored value that corresponds to a pixel value of 1, such as 255 for 8-bit images."""
    dtype: NotRequired[torch.dtype]
    """In the prediction of files: type of the values in the file."""
    rendering: NotRequired[Tensor]
    """`[B, 4, 3]`, float32, in testing on camera files: white-balance gains of R, G and B (row 0), and matrix to linear
    sRGB (other rows), as in `RawImage.rendering`.
    """


class MeasuredImageBatch(TypedDict):
    """Images measured by a forward operator.

    Examples of measurements are a masked image, a low-resolution image and Fourier magnitudes.
    """

    clean: NotRequired[Tensor]
    """`[B, C, H, W]`, float32 in [0, 1]: clean images. In evaluation, only where known, and for metrics only."""
    measured: NotRequired[Tensor]
    """`[B, ...]`, float32, in testing and prediction: H x + noise, for clean images x in [-1, 1]."""
    noisy: NotRequired[Tensor]
    """`[B, C, H, W]`, float32, in testing and prediction: the pseudo-inverse of the operator applied to `measured`, in
    the units of clean images.
    """
    index: Tensor
    """`[B]`, int64: position in the dataset. It is needed by operators with a different mask for each image."""
    global_batch_size: int
    """Global batch size: number of samples of this batch on all ranks together."""
    name: NotRequired[list[str]]
    """In testing and prediction: file name of each image, without suffix."""
    data_range: NotRequired[float]
    """In testing and prediction: stored value that corresponds to a pixel value of 1, such as 255 for 8-bit images."""
    dtype: NotRequired[torch.dtype]
    """In the prediction of files: type of the values in the file."""


class SpeechPairBatch(TypedDict):
    """Noisy recordings, with or without their clean counterparts."""

    noisy: Tensor
    """`[B, samples]`, float32 in [-1, 1]."""
    clean: NotRequired[Tensor]
    """`[B, samples]`, float32 in [-1, 1]: ground truth where known. For supervised training and metrics only."""
    length: NotRequired[Tensor]
    """`[B]`, int64, outside training: length of each recording in audio samples, without its zero padding."""
    sample_rate: int
    """Sample rate in Hz."""
    index: Tensor
    """`[B]`, int64: position in the dataset."""
    global_batch_size: int
    """Number of recordings in this batch on all ranks together. In evaluation, see `ImagePairBatch`."""
    name: NotRequired[list[str]]
    """Outside training: file name of each recording, without suffix."""


class ClipBatch(TypedDict):
    """Video clips, with or without their clean counterparts.

    All clips of a batch have the same length and size.
    """

    noisy: Tensor
    """`[B, T, C, h, w]`, float32 in [0, 1], quantised to 8 bits. C is 3 for colour and 1 for grey."""
    clean: NotRequired[Tensor]
    """`[B, T, C, s h, s w]`, float32 in [0, 1]: ground truth where known, at s times the resolution. For supervised
    training and metrics only."""
    noise: NotRequired[Tensor]
    """Like `noisy`, where available: noise on nearly constant content, without the content of the clip. In validation
    and testing, it comes from a separate noise source."""
    index: Tensor
    """`[B]`, int64: position in the dataset. For training windows, it is the position among the windows of an epoch."""
    global_batch_size: int
    """Number of clips in this batch on all ranks together. In evaluation, see `ImagePairBatch`."""
    name: NotRequired[list[str]]
    """Outside training: name of each clip's folder, or of its file without suffix."""
    first: NotRequired[list[int]]
    """Outside training, if long clips are split into parts: index of the first frame of each part."""
    rate: NotRequired[list[float]]
    """In prediction on video files: frames per second of each clip."""


class NormalMapBatch(TypedDict):
    """Images with their surface normal maps."""

    image: Tensor
    """`[B, 3, H, W]`, float32 in [0, 1]."""
    normal: NotRequired[Tensor]
    """`[B, 3, H, W]`, float32: unit vectors up to rounding, with x to the right, y up and z towards the viewer. Vectors
    are zero where the normal is unknown. The key is absent in prediction on photographs.
    """
    index: Tensor
    """`[B]`, int64: position in the dataset."""
    global_batch_size: int
    """Number of samples in this batch on all ranks together. In evaluation, see `ImagePairBatch`."""
    name: NotRequired[list[str]]
    """Outside training: file name of each image, without suffix."""


class CaptionedImageBatch(TypedDict):
    """Images or clips with captions."""

    image: NotRequired[Tensor]
    """`[B, C, H, W]`, or clips `[B, T, C, H, W]`, float32 in [0, 1]. Absent if the batch has `moments`."""
    caption: NotRequired[list[str]]
    """Caption of each image, where known."""
    moments: NotRequired[Tensor]
    """`[B, 2, c, h, w]`, or `[B, 2, c, t, h, w]` for clips: mean and standard deviation of the autoencoder's latent
    distribution, before scaling."""
    embedding: NotRequired[Tensor]
    """`[B, L, D]`, with `moments`: the text encoder's embedding of the caption."""
    pooled: NotRequired[Tensor]
    """`[B, P]`, with `moments`: the pooled caption embedding of SDXL."""
    mask: NotRequired[Tensor]
    """`[B, L]`, with `moments`: 1 for a token of `embedding` and 0 for padding."""
    second: NotRequired[Tensor]
    """`[B, M, E]`, with `moments`: embedding of the caption by Hunyuan-DiT's second text encoder."""
    second_mask: NotRequired[Tensor]
    """`[B, M]`, with `moments`: 1 for a token of `second` and 0 for padding."""
    size_conditions: NotRequired[Tensor]
    """`[B, 6]`, for images in files, in pixels: original height and width, top and left coordinates of the crop in the
    resized image, and height and width of the crop."""
    loss_mask: NotRequired[Tensor]
    """`[B, 1, H, W]`, or `[B, 1, h, w]` with `moments`: relative weight of the loss, from 0 (least) to 1 (full)."""
    image_weight: NotRequired[Tensor]
    """`[B]`: factor of the loss of each training image, if its dataset has a weight."""
    condition: NotRequired[Tensor]
    """`[B, 3, H, W]`, float32 in [0, 1]: condition images of a ControlNet, or source images to edit. Absent if the
    batch has `moments`."""
    source_moments: NotRequired[Tensor]
    """`[B, 2, c, h, w]`, with `moments`: the same for the source images."""
    prior: NotRequired["CaptionedImageBatch"]
    """Class images for prior preservation, one for each image of the batch."""
    index: Tensor
    """`[B]`, int64: position in the dataset."""
    global_batch_size: int
    """Global batch size: number of samples of this batch on all ranks together."""


class PromptBatch(TypedDict):
    """Prompts from which images are generated."""

    caption: list[str]
    """List of B texts."""
    seed: Tensor
    """`[B]`, int64: seed of the initial noise of each image."""
    index: Tensor
    """`[B]`, int64: index of each prompt, which may differ from its position in the dataset."""
    global_batch_size: int
    """Global batch size: number of samples of this batch on all ranks together."""


class NoisePairBatch(TypedDict):
    """Initial noise paired with better noise for the same prompt."""

    source: Tensor
    """`[B, c, h, w]`: standard normal noise."""
    target: Tensor
    """Like `source`: the better noise of each pair."""
    caption: list[str]
    """List of B texts."""
    index: Tensor
    """`[B]`, int64: position in the dataset."""
    global_batch_size: int
    """Global batch size: number of samples of this batch on all ranks together."""


class InterpolationBatch(TypedDict):
    """Image pairs to interpolate between."""

    first: Tensor
    """`[B, C, H, W]`, float32 in [0, 1]: the first image of each pair. If noise is added, values are not clipped."""
    second: Tensor
    """Like `first`: the second image of each pair."""
    prompt: list[str]
    """For each pair, a prompt that describes both images. The prompt is an empty string if the pair has none."""
    name: list[str]
    """For each pair, the name of its results."""
    index: Tensor
    """`[B]`, int64: position in the dataset."""
    global_batch_size: int
    """Global batch size: number of samples of this batch on all ranks together."""


class TableBatch(TypedDict):
    """Rows of a table, in the units of the dataset. A row is a sample, a round of a stream, a measurement or a point.

    Floating-point columns are converted to the dtype of the module, but at least to float32. A dataset provides only
    some of the keys.
    """

    features: NotRequired[Tensor]
    """`[B, ...]`, floating point: features of each sample."""
    target: NotRequired[Tensor]
    """`[B]` or `[B, K]`: observed target. Floating-point values, int64 classes, or -1 and 1 for halfspaces."""
    clean_target: NotRequired[Tensor]
    """Like `target`, but without noise, where known. For metrics only, never for a loss."""
    corrupted: NotRequired[Tensor]
    """`[B]`, bool: whether `target` has a gross error or a flipped sign. For metrics only."""
    target_mean: NotRequired[Tensor]
    target_std: NotRequired[Tensor]
    """`[]`: mean and standard deviation of the target over the training rows before standardisation, in its original
    units. For metrics only."""
    w_true: NotRequired[Tensor]
    """`[D]`: true parameter from which all rows were generated. For metrics only."""
    x_star: NotRequired[Tensor]
    """`[D, D]`: true matrix, which all rows measure. For metrics only."""
    ratings: NotRequired[Tensor]
    """`[B, M]`: each user's ratings of all items. A rating is positive, or 0 if the item is unrated or held out."""
    held_out: NotRequired[Tensor]
    """Like `ratings`, in validation or testing: held-out ratings, whose items should be ranked first."""
    excluded: NotRequired[Tensor]
    """Like `ratings`: the validation ratings in testing, 0 in validation. The items of these ratings are not ranked."""
    mean_gradient: NotRequired[Tensor]
    """`[B, D]`, for streams: gradient at 0 of the expected loss of each round. For metrics only."""
    gradient_noise: NotRequired[Tensor]
    """`[B]`, for streams: maximum of the gradient variance over the domain in each round. For metrics only."""
    curvature: NotRequired[Tensor]
    """Scalar, for streams: curvature of the expected losses, which is equal in all directions. For metrics only."""
    index: Tensor
    """`[B]`, int64: position in the dataset. For a stream, it is the round."""
    global_batch_size: int
    """Global batch size: number of samples of this batch on all ranks together."""


class SequenceBatch(TypedDict):
    """Sequences of observations at equal time intervals: paths or video frames."""

    observed: Tensor
    """Points of paths, `[B, F, D]`, in the units of the data, or video frames, `[B, F, C, H, W]`, float32 in [0, 1]."""
    interval: float
    """Time between consecutive observations. The first observation is at time 0."""
    sigma: NotRequired[Tensor]
    """`[F]`, for paths: standard deviation of the Gaussian error of each observation. It is infinite at times without
    an observation.
    """
    exact_std: NotRequired[Tensor]
    """`[F]`, in testing of bridges: exact standard deviation of the path, given the observations. For metrics only."""
    index: Tensor
    """`[B]`, int64: position in the dataset."""
    global_batch_size: int
    """Global batch size: number of samples of this batch on all ranks together."""


class GraphBatch(TypedDict):
    """Observations of all nodes of a directed graph."""

    features: Tensor
    """`[B, D]`, floating point: one sample of all D nodes per row."""
    w_true: NotRequired[Tensor]
    """`[D, D]`, floating point: weight of the edge from the row's node to the column's node, or 0 if there is no edge.
    In an unweighted graph, every edge has weight 1. For metrics only, never for a loss.
    """
    noise_std: NotRequired[Tensor]
    """`[D]`: standard deviation of the noise of each node. For metrics only."""
    index: Tensor
    """`[B]`, int64: position in the dataset."""
    global_batch_size: int
    """Global batch size: number of samples of this batch on all ranks together."""


def network_input(batch: Any) -> Any:
    """Return the part of a batch that is the input of the network: images or tokenized texts."""
    return batch["text"] if "text" in batch else batch["image"]


def local_size(batch: Any) -> int:
    """Count the samples of a batch on this rank: the length of `index` or, without this key, of the first tensor.

    Raises:
        ValueError: if the batch has no tensor.
    """
    for value in (batch.get("index"), *batch.values()):
        if isinstance(value, Tensor) and value.ndim:
            return len(value)
    raise ValueError(f"a batch needs a tensor whose first dimension counts samples, got the keys {', '.join(batch)}")


def global_batch_size(batch: Any) -> int:
    """Count the samples of a batch over all ranks.

    Without the key `global_batch_size`, all ranks are assumed to have the same number of samples.
    """
    if "global_batch_size" in batch:
        return batch["global_batch_size"]
    return local_size(batch) * world_size()


def loss_weight(batch: Any) -> float:
    """Return the factor for this rank's mean loss such that the mean over ranks is the mean over the global batch.

    DDP averages gradients over ranks. If the last batch of an epoch is split unevenly, the average of the mean losses
    of all ranks differs from the mean over the global batch. The factor world size * local count / global count
    corrects this difference. The factor is 1 on a single rank. Log a weighted loss with
    `batch_size=global_batch_size(batch)`, so that its mean over the epoch is also exact.
    """
    return world_size() * local_size(batch) / global_batch_size(batch)
