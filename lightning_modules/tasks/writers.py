"""Prediction steps that write a file for each input image.

All methods that estimate images use these base classes.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from datamodules.distributed.collectives import run_seed
from datamodules.files.bayer import unpack_bayer
from datamodules.files.module_hash import hash_of_module
from datamodules.files.xtrans import unpacked_xtrans
from datamodules.jobs.resumable_map import ResumableMap
from datamodules.jobs.stacks import PagedImages
from datamodules.jobs.stores import Files, digest_of, png_files
from lightning_modules.interfaces import NamedTestSets, PartlyReadable, PredictionSource, StackedPages, data_with
from lightning_modules.sde.processes import Process


class FolderWriter:
    """Base class of modules whose predictions are files in a folder of the run directory.

    Prediction can be resumed. The `predict_step` of the module calls `write` with the names of the results, with
    digests of the inputs, and with a function that computes the results that do not exist yet:

        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            digests = [digest_of(image) for image in batch["noisy"]]
            compute = lambda rows: levels_of(self(batch["noisy"][rows]), 255).cpu().numpy()
            return self.write(batch["name"], digests, compute, dataloader_idx)

    A folder is rejected if it was written by a different module or with different settings. An interrupted prediction
    can be resumed with any number of processes; see `ResumableMap`. If input files are unreadable, an error that lists
    them is raised after all other results have been written.
    """

    written: str
    """Name of the folder in the run directory."""
    settings_name: str
    """Name of the file in the run directory that contains the settings."""
    items = "images"
    """Plural noun for the results, used in messages."""
    _job: ResumableMap | None = None

    def store(self, folder: Path) -> Files:
        """Return the object that stores the results in a folder.

        By default, images are stored as PNG files.
        """
        return png_files(folder)

    def result_settings(self: Any) -> dict[str, Any]:
        """Return the settings on which the results depend, as JSON values."""
        return {
            "module": f"{type(self).__module__}.{type(self).__qualname__}",
            **arguments_of(self),
            "seed": run_seed(),
            "precision": str(self.trainer.precision),
            "weights": hash_of_module(self),
        }

    def job_in(self: Any, directory: Path) -> ResumableMap:
        """Create the job that writes the results into a run directory."""
        trainer = self.trainer
        return ResumableMap(
            self.store(directory / self.written),
            self.result_settings(),
            directory / self.settings_name,
            remedy="write into another --run_directory",
            told_to_end=lambda: trainer.received_sigterm,
        )

    def on_predict_start(self: Any) -> None:
        # `log_dir` is a broadcast. Every process reads it once, because processes may have different numbers of
        # batches.
        directory = self.trainer.log_dir
        self._job = None
        if directory is not None and not self.trainer.fast_dev_run:  # `fast_dev_run` must not write files
            self._job = self.job_in(Path(directory))
            self._job.open()

    def write(
        self: Any,
        names: Sequence[str],
        digests: Sequence[str],
        compute: Callable[[list[int]], Iterable[Any]],
        dataloader_idx: int = 0,
    ) -> list[str]:
        """Write those results of a batch that do not yet exist as files; return the names of these results.

        Args:
            names: names of the results.
            digests: digest of the input of each result.
            compute: function that maps positions in the batch to the results at these positions.
            dataloader_idx: index of the dataset. If there are several datasets, the results of each are in a separate
                folder.
        """
        if self._job is None:
            for _ in compute(list(range(len(names)))):
                pass
            return []
        place = self._set_names("predict")[dataloader_idx : dataloader_idx + 1]
        named = {"/".join([*place, name]): name for name in names}
        return [named[key] for key in self._job.fill(list(named), compute, digests)]

    def on_predict_end(self: Any) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        if isinstance(job.store, PagedImages):
            job.on_first_rank(job.store.join_pages)
        job.close()
        rank_zero_info(f"{self.items.capitalize()} are written to {job.store.folder}")
        data = data_with(self.trainer, PredictionSource)
        if data is not None and isinstance(data.predict_set, PartlyReadable) and data.predict_set.unreadable:
            unreadable = data.predict_set.unreadable
            raise ValueError(f"all {self.items} are written except {len(unreadable)}: {'; '.join(unreadable)}")

    def _set_names(self: Any, stage: str) -> list[str]:
        """Return the names of the datasets in the order of the dataloaders.

        The list is empty for a single dataset.
        """
        data, predicted = data_with(self.trainer, NamedTestSets), data_with(self.trainer, PredictionSource)
        other = stage == "val" or (stage == "predict" and predicted is not None and predicted.predict_set is not None)
        names = [] if data is None or other else list(data.test_names)
        return names if len(names) > 1 else []


class ImageWriter(FolderWriter, ABC):
    """Base class of LightningModules whose prediction step writes `<written>/<name>.png` into the run directory.

    The result of a TIFF file is a TIFF file, `<written>/<name>.tif`, with the same axes and the same kind of metadata
    (ImageJ, OME). The frames of an animation are also written to one TIFF file.
    Existing images are kept, so that an interrupted prediction can be resumed. An existing image is rejected if it was
    computed from a different input image.
    """

    given: str
    """Key of the input images in the batch."""

    def store(self: Any, folder: Path) -> Files:
        data = data_with(self.trainer, PredictionSource)
        images = None if data is None else data.predict_set
        return PagedImages(folder, images.stacks if isinstance(images, StackedPages) else {})

    @abstractmethod
    def pixels(self, batch: Any) -> Tensor:
        """Compute the images to write for a batch, `[B, C, H, W]`, uint8 or uint16; in TIFF files also float32.

        Images with four channels are packed Bayer images, and images with nine channels are packed X-Trans images.
        """

    def predict_step(self: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> list[str]:
        """Write the images of a batch that do not exist yet, and return their names."""

        def compute(rows: list[int]) -> Iterator[NDArray[Any]]:
            levels = self.pixels(batch)  # for the whole batch, because random numbers may depend on it
            for row in rows:
                pixels = levels[row].cpu().numpy()
                unpack = {4: unpack_bayer, 9: unpacked_xtrans}.get(len(pixels))
                yield pixels if unpack is None else unpack(pixels)[None]

        digests = [digest_of(image.float()) for image in batch[self.given]]
        return self.write(batch["name"], digests, compute, dataloader_idx)


def arguments_of(module: Any) -> dict[str, Any]:
    """Return the arguments of a module as JSON values.

    Only numbers, strings, and tuples or dataclasses of numbers and strings are included. Other arguments are omitted.

    If an argument is a diffusion process, it is represented by its own arguments.
    """
    found: dict[str, Any] = {}
    for key in inspect.signature(type(module)).parameters:
        value = getattr(module, key, None)
        if is_dataclass(value) and not isinstance(value, type):
            found[key] = asdict(value)
        elif isinstance(value, Process):
            found[key] = {"class": type(value).__name__, **arguments_of(value)}
        elif isinstance(value, bool | int | float | str) or (isinstance(value, tuple) and _plain(value)):
            found[key] = value
    return found


def _plain(values: tuple[Any, ...]) -> bool:
    return all(isinstance(value, bool | int | float | str) for value in values)


def levels_of(image: Tensor, data_range: float, dtype: torch.dtype | None = None) -> Tensor:
    """Clip images to [0, 1], multiply them by `data_range`, and round them to integers.

    If `dtype` is None, it is uint8 for a `data_range` of at most 255, and otherwise uint16.
    """
    levels = image.double().clamp(0, 1).mul(data_range).round()
    return levels.to(dtype or (torch.uint8 if data_range <= 255 else torch.uint16))
