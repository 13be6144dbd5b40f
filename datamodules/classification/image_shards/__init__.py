"""Millions of labelled images in shards: tar files in WebDataset format, or parquet files as on the Hugging Face Hub.

Images are addressed by position, and the DataModule determines their order. The order is seeded and independent of the
world size, and a run can resume at any batch. There is no shuffle buffer, and only labels and positions are kept in
memory.
"""

from datamodules.classification.image_shards.hugging_face import HuggingFaceImages
from datamodules.classification.image_shards.images import ImageShards

__all__ = ["HuggingFaceImages", "ImageShards"]
