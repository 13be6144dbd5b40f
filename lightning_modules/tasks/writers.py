"""Prediction that leaves an image file for each given image: the same for every method whose estimates are images."""

import inspect
from abc import ABC, abstractmethod
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.distributed.world import run_seed
from datamodules.files.bayer import unpacked
from datamodules.files.module_hash import hash_of_module
from datamodules.files.png import digest_in_png, write_png
from lightning_modules.resumable.item_files import digest_of, missing_items
from lightning_modules.resumable.settings_file import refuse_other_settings, write_settings
from lightning_modules.sde.processes import Process


class FolderWriter:
    """Give a LightningModule a folder of the run directory that its predictions are written into, and continued in.

    It is refused with another module or other settings. Files that the data could not read are listed at the end, as an
    error, when all others are written.
    """

    written: str
    """Name of the folder."""
    settings_name: str
    """File of the run directory that holds the settings."""
    items = "images"
    """What it writes, for messages."""
    _directory: Path | None

    def on_predict_start(self: Any) -> None:
        # Asked for once, by every process: it is broadcast, and processes may have different numbers of batches.
        directory = self.trainer.log_dir
        if directory is None or self.trainer.fast_dev_run:  # which leaves nothing behind
            self._directory = None
            return
        self._directory = directory = Path(directory)
        settings = {
            "module": f"{type(self).__module__}.{type(self).__qualname__}",
            **arguments_of(self),
            "seed": run_seed(),
            "precision": str(self.trainer.precision),
            "weights": hash_of_module(self),
        }
        path = directory / self.settings_name
        if self.trainer.is_global_zero and not path.is_file():
            write_settings(path, settings)
        self.trainer.strategy.barrier("the settings of predicted images are written")
        what = f"what {directory / self.written} holds"
        refuse_other_settings(path, settings, what, "write into another --run_directory")

    def on_predict_end(self: Any) -> None:
        if self._directory is None:
            return
        rank_zero_info(f"{self.items.capitalize()} are written to {self._directory / self.written}")
        unreadable = getattr(getattr(self.trainer.datamodule, "predict_set", None), "unreadable", ())
        if unreadable:
            raise ValueError(f"all other {self.items} are written, but not {len(unreadable)}: {'; '.join(unreadable)}")

    def _set_names(self: Any, stage: str) -> list[str]:
        """List the names of the sets, in the order of the loaders, where there are several."""
        data = self.trainer.datamodule
        names = getattr(data, "test_names", ()) if stage != "val" else ()
        if stage == "predict" and getattr(data, "predict_set", None) is not None:
            names = ()
        return list(names) if len(names) > 1 else []


class ImageWriter(FolderWriter, ABC):
    """Give a LightningModule a prediction step that writes `<written>/<name>.png` into the run directory.

    Images that are there already are left alone, so an interrupted run continues; another image of the same name is
    refused.
    """

    given: str
    """Key of the batch's images."""

    @abstractmethod
    def pixels(self, batch: Any) -> Tensor:
        """Compute what is written of a batch, `[B, C, H, W]`, uint8 or uint16; four channels are a Bayer image's."""

    def predict_step(self: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> list[str]:
        """Write the images of a batch that are not there yet, and return their names."""
        if self._directory is None:
            self.pixels(batch)
            return []
        sets = self._set_names("predict")
        folder = self._directory.joinpath(self.written, *sets[dataloader_idx : dataloader_idx + 1])
        files = [folder / f"{name}.png" for name in batch["name"]]
        digests = [digest_of(image.float()) for image in batch[self.given]]
        rows = missing_items(files, digests, digest_in_png)
        if not rows:
            return []
        levels = self.pixels(batch)
        for row in rows:
            pixels = levels[row].cpu().numpy()
            write_png(files[row], unpacked(pixels)[None] if len(pixels) == 4 else pixels, digests[row])
        return [batch["name"][row] for row in rows]


def arguments_of(module: Any) -> dict[str, Any]:
    """List a module's own arguments that are numbers, words, or tuples or dataclasses of these, as JSON values.

    A process is described by its own arguments.
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


def levels_of(image: Tensor, data_range: int) -> Tensor:
    """Round images to the levels of a file in which 1 is stored as `data_range`: uint8, or uint16 above 255."""
    levels = image.double().clamp(0, 1).mul(data_range).round()
    return levels.to(torch.uint8 if data_range <= 255 else torch.uint16)
