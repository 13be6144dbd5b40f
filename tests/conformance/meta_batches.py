"""Training batches of DataModules on the meta device."""

from typing import Any

import torch

from datamodules.classification.labelled_images import LabelledImages
from datamodules.editing.images_to_protect import ImagesToProtect
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.restoration.image_pairs import ImagePairs
from datamodules.segmentation.labelled_masks import LabelledMasks
from datamodules.segmentation.unpaired_masks import UnpairedMasks
from datamodules.sequences.sequences import Sequences
from datamodules.speech.speech_pairs import SpeechPairs
from datamodules.tables.tables import Tables
from datamodules.text.labelled_texts import LabelledTexts
from datamodules.video.clip_pairs import ClipPairs


def meta_batch(data: Any) -> dict[str, Any]:
    """Create a DataModule's training batch without values. Each new type of batch needs lines in this function."""
    if isinstance(data, Tables):
        size = data.num_train_samples if data.whole else data.batch_size
        columns = {key: torch.empty(size, *shape, device="meta") for key, shape in data.row_shapes.items()}
        if getattr(data.table, "num_classes", 2) > 2:
            columns["target"] = columns["target"].long()
        return {**columns, "index": torch.empty(size, dtype=torch.int64, device="meta"), "global_batch_size": size}
    size = data.batch_size
    if isinstance(data, Sequences):
        observed = torch.empty(size, data.num_times, *data.sequences.shape, device="meta")
        index = torch.empty(size, dtype=torch.int64, device="meta")
        batch = {"observed": observed, "interval": data.interval, "index": index, "global_batch_size": size}
        return batch | ({"sigma": torch.empty(data.num_times, device="meta")} if observed.ndim == 3 else {})
    if isinstance(data, LabelledMasks):
        shape, kinds = (size, *data.image_shape[1:]), ("label", "original_label", "clean_label")
        masks = {key: torch.empty(shape, dtype=torch.int64, device="meta") for key in kinds}
        index = torch.empty(size, dtype=torch.int64, device="meta")
        if isinstance(data, UnpairedMasks):
            masks["auxiliary_mask"] = torch.empty(size, 1, *data.image_shape[1:], device="meta")
        image = torch.empty(size, *data.image_shape, device="meta")
        return {"image": image, "index": index, "global_batch_size": size, **masks}
    if isinstance(data, ImagesToProtect):
        return {
            "image": torch.empty(size, *data.image_shape, device="meta"),
            "regions": torch.empty(size, 1, *data.image_shape[1:], dtype=torch.bool, device="meta"),
            "index": torch.empty(size, dtype=torch.int64, device="meta"),
            "global_batch_size": size,
        }
    if isinstance(data, ImagePairs):
        keys = ("noisy", "clean", "second_noisy")
        images = {key: torch.empty(size, *data.image_shape, device="meta") for key in keys}
        images["noisy"] = images["noisy"][:, :, :: data.scale, :: data.scale]
        return {**images, "index": torch.empty(size, dtype=torch.int64, device="meta"), "global_batch_size": size}
    if isinstance(data, SpeechPairs):
        signals = {key: torch.empty(size, data.crop_length, device="meta") for key in ("noisy", "clean")}
        index = torch.empty(size, dtype=torch.int64, device="meta")
        return {**signals, "sample_rate": data.sample_rate, "index": index, "global_batch_size": size}
    if isinstance(data, ClipPairs):
        time, channels, height, width = data.clip_shape
        shapes = {"noisy": 1, "clean": data.scale, **({} if data.noise is None else {"noise": 1})}
        clips = {
            key: torch.empty(size, time, channels, height * scale, width * scale, device="meta")
            for key, scale in shapes.items()
        }
        return {**clips, "index": torch.empty(size, dtype=torch.int64, device="meta"), "global_batch_size": size}
    if isinstance(data, CaptionedImages):
        image = torch.empty(size, *data.image_shape, device="meta")
        index = torch.empty(size, dtype=torch.int64, device="meta")
        return {"image": image, "caption": ["a"] * size, "index": index, "global_batch_size": size}
    if isinstance(data, LabelledTexts):
        # Once per step, transformers checks whether a mask excludes anything.
        tokens = {"input_ids": torch.empty(size, data.max_length, dtype=torch.int64, device="meta")}
        whole = {key: torch.empty(size, dtype=torch.int64, device="meta") for key in ("label", "index")}
        return {"text": tokens, "global_batch_size": size, **whole}
    assert isinstance(data, LabelledImages), f"say here what a batch of {type(data).__name__} is"
    whole = {key: torch.empty(size, dtype=torch.int64, device="meta") for key in ("label", "clean_label", "index")}
    if getattr(data, "second_view", False):
        whole["second_view"] = torch.empty(size, *data.image_shape, device="meta")
    return {"image": torch.empty(size, *data.image_shape, device="meta"), "global_batch_size": size, **whole}
