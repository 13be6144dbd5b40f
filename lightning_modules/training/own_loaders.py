"""Training, testing and prediction from DataLoaders of a user's own, without a DataModule of this project."""

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
    """Gives a loop its loader, with the positions of the samples (see `with_positions`)."""

    passes: int = 1

    def dataloader(self) -> Any:
        loader = super().dataloader()
        return loader if gives_positions(self.instance) else with_positions(loader, self.passes)


class OwnLoaders:
    """Lets a LightningModule take batches of dicts with `image` and `label`, or `(image, label)`, of any DataLoader.

    Batches get what the module needs beside these: `index`, the samples' positions in the loader's set, whatever the
    loader's order, and `global_batch_size`, where the trainer shards the samples evenly. Lightning makes the shards of
    several ranks equal by repeating some samples; the DataModules of this project repeat none. A module that
    overrides `setup` calls `super().setup(stage)`.
    """

    passes_per_epoch = 1
    """Times that an epoch visits the training set."""

    def setup(self: Any, stage: str) -> None:
        super().setup(stage)  # type: ignore[misc]
        # Said for every DataModule, whose batches the hook below leaves as they are.
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
                f"{type(self).__name__} takes batches that are dicts with `image` and `label`, or pairs of the two, "
                f"and the loader's are {type(batch).__name__}"
            )
        image, processes = batch["image"], world_size()
        if self.trainer.datamodule is None and not image.is_floating_point():
            raise TypeError(f"images are floating-point numbers in [0, 1], and the loader's are {image.dtype}")
        if processes == 1 or repeats_samples(self.trainer):
            batch = {**batch, "global_batch_size": processes * len(image)}
        return batch
