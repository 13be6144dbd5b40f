"""Checks of images, captions and sharding before training."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.class_images import ClassImages
from lightning_modules.backbones.diffusion.pipelines import tokenizers_of
from lightning_modules.backbones.diffusion.pixel_space import PixelSpace
from lightning_modules.backbones.diffusion.text_encoders import tokens_of
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.backbones.quantization import is_quantized
from lightning_modules.backbones.weight_copies import offloaded_names
from lightning_modules.backbones.weights import join_names
from lightning_modules.interfaces import FixedImageShape


def check_data(network: TextToImage | PixelSpace, data: Any, needs_captions: bool = True) -> None:
    """Reject images that the network does not support or that lack required captions.

    Args:
        network: model to train.
        data: DataModule with the images.
        needs_captions: whether a text-to-image model requires the captions of the images.
    """
    if isinstance(data, CaptionedImages):
        data.check_frames(getattr(network, "frame_multiple", None), type(network).__name__)
        if isinstance(network, TextToImage):
            if needs_captions:
                data.require_captions("a text-to-image model")
            data.check_sizes(network.size_multiple)
            if network.takes_source:
                check_sources(data, type(network).__name__)
        elif data.bucketed or data.prior is not None:
            raise ValueError(
                "images of several sizes, as with data.images.buckets, and data.prior are only for text-to-image "
                "models, but the model is a pixel-space U-Net: leave them out"
            )
    shape = data.image_shape if isinstance(data, FixedImageShape) else None
    if shape is not None and isinstance(network, PixelSpace) and tuple(shape) != network.shape:
        raise ValueError(f"the data have images of shape {list(shape)}, but the U-Net expects {list(network.shape)}")


def warn_of_long_captions(network: TextToImage, data: Any) -> None:
    """Warn of captions that have more tokens than a text encoder reads, with their number and the names of files."""
    for cut in describe_long_captions(type(network.pipeline), network.pipeline.components, data):
        rank_zero_warn(cut)


def describe_long_captions(pipeline: type, tokenizers: Mapping[str, Any], data: Any) -> list[str]:
    """Return a sentence for each tokenizer of a pipeline whose text encoder does not read the ends of some captions."""
    captioned = data.train_set.captioned if isinstance(data, CaptionedImages) and data.train_set is not None else None
    if captioned is None or captioned.captions is None:
        return []
    texts, sentences = list(dict.fromkeys(captioned.captions)), []
    names = captioned.source.names or [f"{caption[:40]!r}" for caption in captioned.captions]
    for tokenizer, reads, counts in tokens_of(pipeline, tokenizers, texts):
        count_of = dict(zip(texts, counts, strict=True))
        long = [row for row, caption in enumerate(captioned.captions) if count_of[caption] > reads]
        if long:
            found = join_names([f"{names[row]} ({count_of[captioned.captions[row]]} tokens)" for row in long], 5)
            sentences.append(
                f"{len(long)} of {len(names)} captions have more than the {reads} tokens that the text encoder of "
                f"{tokenizer} reads, so their ends have no effect: {found}"
            )
    return sentences


def describe_cut_captions(data: Any, network: Mapping[str, Any]) -> list[list[str]]:
    """Describe captions that a text encoder cuts, in rows of a fact and its value, before the pipeline is loaded.

    Args:
        data: DataModule, whose training images have been read.
        network: constructor arguments of the model, including `pipeline`. Files are not downloaded.
    """
    import diffusers

    try:
        weights = network.get("weights") or {}
        kind, tokenizers = tokenizers_of(weights.get("config") or network["pipeline"], True, ("CLIP", "Bert", "T5"))
        cut = describe_long_captions(getattr(diffusers, kind), tokenizers, data)
    except (OSError, ValueError, ImportError, KeyError, AttributeError):
        return [["cut captions", "not counted, because the tokenizers of the pipeline are not on this machine"]]
    return [["cut captions", each] for each in cut or ["none"]]


def reject_prior(data: Any, method: str) -> None:
    """Reject class images; this check is for methods without prior preservation."""
    if getattr(data, "prior", None) is not None:
        raise ValueError(f"data.prior must be null: {method} does not use prior preservation")


def check_sources(data: Any, model: str) -> None:
    """Reject data without the source images that a model edits, and class images, which have none."""
    require_conditions(data, f"{model} needs source images: set data.images.condition_dir to their folder")
    reject_prior(data, model)


def require_conditions(data: Any, message: str) -> None:
    """Raise an error with the given message if a dataset has no condition images."""
    if any(getattr(each, "condition_dir", None) is None for each in data.images.members("").values()):
        raise ValueError(message)


def check_sharding(module: Any) -> None:
    """Reject settings that do not work with sharded weights.

    Args:
        module: `DiffusionFineTuning` module, attached to its trainer.
    """
    data: Any = module.trainer.datamodule
    if module.average.host is not None:
        raise ValueError(
            "average_on_cpu must be false with ModelParallelStrategy, which shards averaged weights over GPUs; got true"
        )
    if offloaded_names(module.network):
        raise ValueError(
            "weights.offload_blocks must be false with ModelParallelStrategy, which shards weights; got true"
        )
    if is_quantized(module.network):
        raise ValueError("quantization: ModelParallelStrategy cannot shard quantised weights; use ddp or one device")
    if isinstance(data, CaptionedImages) and data.bucketed and data.validation_fraction:
        raise ValueError(
            "ModelParallelStrategy needs the same number of validation batches on all ranks, which buckets do not "
            "guarantee: set data.validation_fraction to 0, or leave data.images.buckets out"
        )
    if isinstance(data, CaptionedImages) and isinstance(data.prior, ClassImages) and data.prior.missing():
        raise ValueError(
            "with ModelParallelStrategy, class images cannot be generated: start the run with one device or ddp until "
            f"{data.prior.folder} has {data.prior.count} images"
        )
