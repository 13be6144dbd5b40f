"""Sets of millions of labelled images in shards: tar files as WebDataset writes them, or parquet as on the Hub.

An image is found by its position, so that the order is the DataModule's: seeded, resumed to the batch, and the same on
any number of ranks. No shuffle buffer is filled, and nothing but labels and positions is held in memory.
"""

from datamodules.classification.image_shards.images import ImageShards

__all__ = ["ImageShards"]
