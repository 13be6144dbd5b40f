"""Training, testing and prediction with your own DataLoaders instead of a DataModule of this project."""

import warnings
from typing import Any

from torch import Tensor

from datamodules.distributed.collectives import world_size
from datamodules.loading.own_loaders import as_batch, gives_positions, with_positions
from lightning_modules.lightning_internals import (
    DataLoaderSource,
    loader_source,
    repeats_samples,
    replace_loader_source,
)


class NumberedSource(DataLoaderSource):
    """Dataloader source for a loop of the trainer; it numbers the samples.

    The source adds to each batch the positions of its samples in the dataset (see `with_positions`).
    """

    passes: int = 1

    def dataloader(self) -> Any:
        loader = super().dataloader()
        return loader if gives_positions(self.instance) else with_positions(loader, self.passes)


class OwnLoaders:
    """Mixin with which a LightningModule accepts batches of any DataLoader.

    Batches must be dicts with `image` and `label`, or `(image, label)` pairs.

    The mixin adds two keys to each batch. `index` contains the positions of the samples in the dataset, even if the
    dataloader shuffles. `global_batch_size` is the number of samples on all ranks together; it is added only if all
    ranks have equally many samples. With your own DataLoaders, Lightning repeats some samples so that the shards of all
    ranks have the same size. The DataModules of this project do not repeat samples. A module that overrides `setup`
    must call `super().setup(stage)`.
    """

    passes_per_epoch = 1
    """Number of passes over the training set in an epoch."""

    def setup(self: Any, stage: str) -> None:
        super().setup(stage)  # type: ignore[misc]
        # Lightning warns about this hook with every DataModule, although `on_before_batch_transfer` below does not
        # change batches of this project's DataModules.
        warnings.filterwarnings("ignore", message="You have overridden `on_before_batch_transfer` in `LightningModule`")
        if gives_positions(self.trainer.datamodule):
            return
        for loop, passes in ((self.trainer.fit_loop, self.passes_per_epoch), (self.trainer.predict_loop, 1)):
            own = loader_source(loop)
            source = NumberedSource(own.instance, own.name)
            source.passes = passes
            replace_loader_source(loop, source)

    def on_before_batch_transfer(self: Any, batch: Any, dataloader_idx: int) -> Any:
        if isinstance(batch, dict) and "global_batch_size" in batch:
            return batch
        batch = as_batch(batch)
        if not (isinstance(batch, dict) and isinstance(batch.get("image"), Tensor)):
            raise TypeError(
                f"{type(self).__name__} needs batches that are dicts with `image` and `label`, or pairs of the two, "
                f"but the dataloader's batches are {type(batch).__name__}"
            )
        image, processes = batch["image"], world_size()
        if self.trainer.datamodule is None and not image.is_floating_point():
            raise TypeError(f"images must be floating point in [0, 1], but the dataloader's images are {image.dtype}")
        if processes == 1 or repeats_samples(self.trainer):
            batch = {**batch, "global_batch_size": processes * len(image)}
        return batch
