"""Types of batches that DataModules yield, with keys, shapes, ranges and units."""

from typing import Any, NotRequired, TypedDict

from torch import Tensor

from datamodules.distributed.collectives import world_size

IGNORED = 255
"""Label of a pixel that no loss or metric counts."""
UNVERIFIED = -2
"""`clean_label` of an image whose true label nobody has verified; out-of-distribution images have -1."""


class LabelledImageBatch(TypedDict):
    """Images with one label each."""

    image: Tensor
    """`[B, C, H, W]`, float32 in [0, 1]."""
    label: Tensor
    """`[B]`, int64: the current label. It may be wrong in training, and may be corrected during training."""
    index: Tensor
    """`[B]`, int64: position in the dataset of the split. In training, this is the training set."""
    global_batch_size: int
    """Global batch size: samples of this batch over all ranks."""
    original_label: NotRequired[Tensor]
    """`[B]`, int64, in training after labels were corrected: the given labels, before any correction."""
    clean_label: NotRequired[Tensor]
    """`[B]`, int64: true label where known, -1 for an out-of-distribution image. In a partly verified dataset the
    others have `UNVERIFIED`. For metrics only, never for a loss."""
    second_view: NotRequired[Tensor]
    """As `image`, in training: a second random augmentation of the same images."""
    classes: NotRequired[Tensor]
    """`[k]`, int64, in a shifted test set that lacks some classes: the classes it contains."""
    origin: NotRequired[Tensor]
    """`[B]`, int64: 0 for images of the dataset. Other images have the label -1 and the number of their
    out-of-distribution set here.
    """
    unreadable: NotRequired[dict[int, str]]
    """In prediction: for each unreadable file (black in `image`), its `index` and a sentence with the reason."""


class LabelledTextBatch(TypedDict):
    """Texts, or text pairs, with one label each."""

    text: dict[str, Tensor]
    """Tokenizer outputs (transformers), each `[B, L]`, int64: `input_ids`, `attention_mask` and, if the tokenizer
    returns them, `token_type_ids`. L is the same in all batches."""
    label: Tensor
    """`[B]`, int64, or float32 for regression."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Global batch size: samples of this batch over all ranks."""


class LabelledMaskBatch(TypedDict):
    """Images with one label per pixel."""

    image: Tensor
    """`[B, C, H, W]`, float32 in [0, 1] (medical slices are standardised, as their DataModule documents)."""
    label: Tensor
    """`[B, H, W]`, int64: current class of each pixel. Training may correct it. 255 is ignored."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Global batch size: samples of this batch over all ranks."""
    original_label: NotRequired[Tensor]
    """`[B, H, W]`, int64, in training: the given labels before any correction. 255 is ignored."""
    clean_label: NotRequired[Tensor]
    """`[B, H, W]`, int64: ground truth where it is known. 255 is ignored. For metrics only, never for a loss."""
    unreadable: NotRequired[dict[int, str]]
    """In prediction: for each unreadable file (black in `image`), its `index` and a sentence with the reason."""


class UnpairedMaskBatch(TypedDict):
    """Images with masks of other images of the same structure, and with pseudo labels that training updates."""

    image: Tensor
    """`[B, C, H, W]`, float32 in [0, 1]."""
    auxiliary_mask: Tensor
    """`[B, 1, H, W]`, same dtype as the images, 0 or 1: mask of a structure that appears in no image of the dataset."""
    label: Tensor
    """`[B, H, W]`, int64, 0 or 1: the current pseudo label. It is 0 everywhere before the first pseudo label."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Global batch size: samples of this batch over all ranks."""
    original_label: NotRequired[Tensor]
    """`[B, H, W]`, int64: the labels of the dataset."""
    clean_label: NotRequired[Tensor]
    """`[B, H, W]`, int64: ground truth where known. For metrics only, never for a loss."""


class ProtectedImageBatch(TypedDict):
    """Images with the region that inpainting keeps.

    The rest of the image is repainted.
    """

    image: Tensor
    """`[B, C, H, W]`, float32 in [0, 1]."""
    regions: Tensor
    """`[B, R, H, W]`, bool: regions to protect. If an image has fewer than R regions, the others are empty."""
    editor_keeps: Tensor
    """`[B, M, H, W]`, bool: masks that editors keep: first the union of the regions, then masks unknown to the
    protection."""
    prompt: list[list[str]]
    """Per image: the editors' prompts."""
    source_prompt: NotRequired[list[str]]
    """Per image: its caption, where known."""
    name: list[str]
    """Per image: file name without suffix."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Global batch size: samples of this batch over all ranks."""


class ImagePairBatch(TypedDict):
    """Noisy images, with or without their clean counterparts."""

    noisy: Tensor
    """`[B, C, H, W]`, float32 in the units of clean images, not clipped to [0, 1]."""
    clean: NotRequired[Tensor]
    """`[B, C, H, W]`, float32 in [0, 1]: ground truth where known. For supervised training and metrics only."""
    second_noisy: NotRequired[Tensor]
    """As `noisy`, in training, if requested: an independent noise sample on the same clean images."""
    noise_level: NotRequired[Tensor]
    """`[B, 1, 1, 1]`, in training on noise levels sampled from a range: level of each image, in the units of the
    argument.
    """
    index: Tensor
    """`[B]`, int64: position in the dataset. For training patches, it is the position among the patches of an epoch."""
    global_batch_size: int
    """Samples of this batch, summed over all ranks. In evaluation, where ranks may have different numbers of batches:
    samples of all ranks' batches with this batch index."""
    name: NotRequired[list[str]]
    """Per image, in testing and prediction: file name without suffix."""
    data_range: NotRequired[int]
    """In testing and prediction: the stored value that corresponds to 1. It is 255 for 8-bit images."""
    rendering: NotRequired[Tensor]
    """`[B, 4, 3]`, float32, in testing on camera files: white-balance gains of R, G and B, and below them the matrix to
    linear sRGB.
    """


class MeasuredImageBatch(TypedDict):
    """Images observed through an operator.

    Examples are a masked image, a low-resolution image and Fourier magnitudes.
    """

    clean: NotRequired[Tensor]
    """`[B, C, H, W]`, float32 in [0, 1]: given in training, and in evaluation where known, for metrics only."""
    measured: NotRequired[Tensor]
    """`[B, ...]`, float32, in testing and prediction: H x + noise, for clean images x in [-1, 1]."""
    noisy: NotRequired[Tensor]
    """`[B, C, H, W]`, float32, in testing and prediction: the pseudo-inverse of the operator applied to `measured`, in
    the units of clean images.
    """
    index: Tensor
    """`[B]`, int64: position in the dataset. Operators with a mask per image need it."""
    global_batch_size: int
    """Global batch size: samples of this batch over all ranks."""
    name: NotRequired[list[str]]
    """Per image, in testing and prediction: file name without suffix."""
    data_range: NotRequired[int]
    """In testing and prediction: the stored value that corresponds to 1. It is 255 for 8-bit images."""


class SpeechPairBatch(TypedDict):
    """Noisy recordings, with or without their clean counterparts."""

    noisy: Tensor
    """`[B, samples]`, float32 in [-1, 1]."""
    clean: NotRequired[Tensor]
    """`[B, samples]`, float32 in [-1, 1]: ground truth where known. For supervised training and metrics only."""
    length: NotRequired[Tensor]
    """`[B]`, int64, outside training: length of each recording in audio samples. Zero padding follows."""
    sample_rate: int
    """Sample rate in Hz."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Recordings of this batch, summed over all ranks; in evaluation, over all ranks' batches with this batch index."""
    name: NotRequired[list[str]]
    """Per recording, outside training: file name without suffix."""


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
    """As `noisy`, where available: noise on nearly constant content, without the clip. In testing it comes from noise
    recordings that training has not seen."""
    index: Tensor
    """`[B]`, int64: position in the dataset. For training windows, it is the position among the windows of an epoch."""
    global_batch_size: int
    """Clips of this batch, summed over all ranks; in evaluation, over all ranks' batches with this batch index."""
    name: NotRequired[list[str]]
    """Per clip, outside training: the name of its folder, or of its file without suffix."""
    first: NotRequired[list[int]]
    """Per clip, outside training: index of its first frame, where long clips are split into parts."""
    rate: NotRequired[list[float]]
    """Per clip, in prediction of video files: frames per second."""


class NormalMapBatch(TypedDict):
    """Images with their surface normal maps."""

    image: Tensor
    """`[B, 3, H, W]`, float32 in [0, 1]."""
    normal: NotRequired[Tensor]
    """`[B, 3, H, W]`, float32: unit vectors up to rounding, x to the right, y up, z towards the viewer. They are zero
    where the normal is unknown. Absent when photographs are predicted.
    """
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Samples of this batch, summed over all ranks; in evaluation, over all ranks' batches with this batch index."""
    name: NotRequired[list[str]]
    """Per image, outside training: file name without suffix."""


class CaptionedImageBatch(TypedDict):
    """Images with captions."""

    image: NotRequired[Tensor]
    """`[B, C, H, W]`, float32 in [0, 1]. Absent if the batch has `moments`."""
    caption: NotRequired[list[str]]
    """Per image: its caption, where known."""
    moments: NotRequired[Tensor]
    """`[B, 2, c, h, w]`: mean and standard deviation of the latent distribution of an autoencoder, unscaled."""
    embedding: NotRequired[Tensor]
    """`[B, L, D]`, with `moments`: embedding of the caption by the text encoder."""
    pooled: NotRequired[Tensor]
    """`[B, P]`, with `moments`: the pooled caption embedding of SDXL."""
    mask: NotRequired[Tensor]
    """`[B, L]`, with `moments`: 1 for a token of `embedding` and 0 for padding."""
    second: NotRequired[Tensor]
    """`[B, M, E]`, with `moments`: the caption's embedding by Hunyuan-DiT's second text encoder."""
    second_mask: NotRequired[Tensor]
    """`[B, M]`, with `moments`: 1 for a token of `second` and 0 for padding."""
    size_conditions: NotRequired[Tensor]
    """`[B, 6]`, for images in files: original height and width, top and left of the crop in the resized image, and
    height and width of the crop, in pixels."""
    loss_mask: NotRequired[Tensor]
    """`[B, 1, H, W]`, or `[B, 1, h, w]` with `moments`: 1 where the loss has its full weight, 0 for the least."""
    condition: NotRequired[Tensor]
    """`[B, 3, H, W]`, float32 in [0, 1]: condition images of a ControlNet. Absent if the batch has `moments`."""
    prior: NotRequired["CaptionedImageBatch"]
    """Class images, one for each image, for prior preservation."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Global batch size: samples of this batch over all ranks."""


class PromptBatch(TypedDict):
    """Prompts from which images are generated."""

    caption: list[str]
    """`B` texts."""
    seed: Tensor
    """`[B]`, int64: seed of the initial noise of each image."""
    index: Tensor
    """`[B]`, int64: number of each prompt, which may differ from its position in the dataset."""
    global_batch_size: int
    """Global batch size: samples of this batch over all ranks."""


class NoisePairBatch(TypedDict):
    """Initial noise paired with better noise for the same prompt."""

    source: Tensor
    """`[B, c, h, w]`: standard normal noise."""
    target: Tensor
    """As `source`: the better noise of the pair."""
    caption: list[str]
    """`B` texts."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Global batch size: samples of this batch over all ranks."""


class InterpolationBatch(TypedDict):
    """Image pairs to interpolate between."""

    first: Tensor
    """`[B, C, H, W]`, float32 in [0, 1]. With noise, values are not clipped."""
    second: Tensor
    """As `first`: the other image of each pair."""
    prompt: list[str]
    """Per pair: a prompt that describes both images. It is empty if there is no prompt."""
    name: list[str]
    """Per pair: the name of its results."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Global batch size: samples of this batch over all ranks."""


class TableBatch(TypedDict):
    """Rows of a table: samples, rounds of a stream, measurements or points, in their own units.

    Floating-point columns are converted to the dtype of the module, or to single precision if this is higher. A dataset
    provides only some of these keys.
    """

    features: NotRequired[Tensor]
    """`[B, ...]`, floating point: features of each sample."""
    target: NotRequired[Tensor]
    """`[B]` or `[B, K]`: observed target: floating point, int64 for classes, or -1 and 1 for halfspaces."""
    clean_target: NotRequired[Tensor]
    """As `target`, without its noise, where known. For metrics only, never for a loss."""
    corrupted: NotRequired[Tensor]
    """`[B]`, bool: whether `target` has a gross error or a flipped sign. For metrics only."""
    target_mean: NotRequired[Tensor]
    target_std: NotRequired[Tensor]
    """`[]`: mean and standard deviation of a standardised target over the training rows, in its own units. For metrics
    only."""
    w_true: NotRequired[Tensor]
    """`[D]`: the parameter that generated all rows. For metrics only."""
    x_star: NotRequired[Tensor]
    """`[D, D]`: the matrix observed by all measurements. For metrics only."""
    ratings: NotRequired[Tensor]
    """`[B, M]`: ratings of all items by each user. They are positive, and 0 if an item is unrated or held out."""
    held_out: NotRequired[Tensor]
    """As `ratings`, in validation or testing: held-out ratings whose items should be ranked first."""
    excluded: NotRequired[Tensor]
    """As `ratings`: the other held-out ratings, whose items are not ranked."""
    mean_gradient: NotRequired[Tensor]
    """`[B, D]`, of a stream: gradient of the expected loss of each round at 0. For metrics only."""
    gradient_noise: NotRequired[Tensor]
    """`[B]`, of a stream: largest gradient variance of each round over its domain. For metrics only."""
    curvature: NotRequired[Tensor]
    """Scalar, of a stream: curvature of the expected losses, equal in all directions. For metrics only."""
    index: Tensor
    """`[B]`, int64: position in the dataset. For a stream, it is the round."""
    global_batch_size: int
    """Global batch size: samples of this batch over all ranks."""


class SequenceBatch(TypedDict):
    """Sequences of observations at equal time intervals: paths or video frames."""

    observed: Tensor
    """Points of paths `[B, F, D]`, in the units of the data, or frames `[B, F, C, H, W]`, float32 in [0, 1]."""
    interval: float
    """Time between two observations. The first observation is at time 0."""
    sigma: NotRequired[Tensor]
    """`[F]`, for paths: standard deviation of the Gaussian error of each observation. It is infinite if nothing was
    observed.
    """
    exact_std: NotRequired[Tensor]
    """`[F]`, in testing bridges: standard deviation of the path given the observations. For metrics only."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Global batch size: samples of this batch over all ranks."""


class GraphBatch(TypedDict):
    """Observations of the nodes of one directed graph."""

    features: Tensor
    """`[B, D]`, floating point: one sample of all D nodes per row."""
    w_true: NotRequired[Tensor]
    """`[D, D]`, floating point: weight of the edge from row to column, 0 for no edge. In an unweighted graph, every
    edge has the weight 1. For metrics only, never for a loss.
    """
    noise_std: NotRequired[Tensor]
    """`[D]`: standard deviation of the noise of each node. For metrics only."""
    index: Tensor
    """`[B]`, int64: position in the set."""
    global_batch_size: int
    """Global batch size: samples of this batch over all ranks."""


def network_input(batch: Any) -> Any:
    """Return the network input of a batch: its images, or its tokenized texts."""
    return batch["text"] if "text" in batch else batch["image"]


def local_size(batch: Any) -> int:
    """Count the samples of a batch on this rank: the length of `index` or, without that key, of the first tensor.

    Raises:
        ValueError: if the batch has no tensor.
    """
    for value in (batch.get("index"), *batch.values()):
        if isinstance(value, Tensor) and value.ndim:
            return len(value)
    raise ValueError(f"a batch needs a tensor whose first dimension counts samples, got the keys {', '.join(batch)}")


def global_batch_size(batch: Any) -> int:
    """Count the samples of a batch over all ranks.

    Without the key `global_batch_size`, all ranks are assumed to have equally many samples.
    """
    if "global_batch_size" in batch:
        return batch["global_batch_size"]
    return local_size(batch) * world_size()


def loss_weight(batch: Any) -> float:
    """Weight the mean loss of this rank, so that the mean over ranks equals the mean over the global batch.

    DDP averages gradients over ranks. If the last batch of an epoch is split unevenly, the mean over ranks of their
    mean losses is not the global mean. The factor world size * local count / global count corrects the difference. The
    factor is 1 on a single rank. Log a weighted loss with `batch_size=global_batch_size(batch)`, so that the mean over
    the epoch is also exact.
    """
    return world_size() * local_size(batch) / global_batch_size(batch)
