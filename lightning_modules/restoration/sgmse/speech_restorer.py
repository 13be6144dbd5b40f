"""Validation, test and prediction of a module that enhances speech: the same for every method."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from datamodules.batches import SpeechPairBatch
from datamodules.distributed.collectives import run_seed
from datamodules.jobs.stores import Files, digest_of, recordings
from datamodules.randomness.counter import CounterRNG
from datamodules.randomness.generators import drawing
from lightning_modules.full_precision import at_least_float32, in_full_precision
from lightning_modules.restoration.sgmse.spectrogram import Spectrogram, as_complex
from lightning_modules.restoration.sgmse.speech_metrics import SpeechQuality
from lightning_modules.sde.samplers import Draw
from lightning_modules.tasks.writers import FolderWriter, arguments_of
from lightning_modules.training.logging import log_means

STREAM = 30_000
"""Of the random numbers that recordings are enhanced with."""
SILENCE = 1e-8
"""The least loudest sample that is divided by."""
SPOKEN = 8_000
"""Samples a second from which on intelligibility and quality are measured."""
TRAINED_WITH = ("spectrogram", "process")
"""Arguments without which weights mean nothing: checkpoints say them."""


def complex_normal(numbers: CounterRNG) -> Draw:
    """Draw complex noise with E|z|^2 = 1, of each sample its own."""

    def draw(like: Tensor) -> Tensor:
        real, imaginary = (numbers.normal(like.real) for _ in range(2))
        return torch.complex(real, imaginary) / 2**0.5

    return draw


def loudest_sample(signal: Tensor) -> Tensor:
    """Find what signals `[B, samples]` are divided by, `[B, 1]`."""
    return signal.abs().amax(dim=1, keepdim=True).clamp(min=SILENCE)


def lengths_of(batch: Any) -> list[int]:
    """List the samples of each of a batch's recordings."""
    noisy = batch["noisy"]
    return batch["length"].tolist() if "length" in batch else [noisy.shape[1]] * len(noisy)


class SpeechRestorerSteps(FolderWriter, ABC):
    """Give a LightningModule its validation, test and prediction steps for `SpeechPairBatch`es.

    The module owns `quality = SpeechQuality()`, `spectrogram` and `frame_multiple`, of which the numbers of frames that
    its network takes are multiples, and says in `enhanced` what its method is. Recordings are divided by their loudest
    sample, and multiplied again. Validation and tests log `val/si_sdr`, `test/pesq` and the like, intelligibility and
    perceived quality from 8 kHz on; `test/noisy_si_sdr` and the like are those of the noisy recordings; of several test
    sets `test/<set>/si_sdr`. All are means over recordings and all processes.

    A checkpoint of another spectrogram or process is refused. `predict` writes `enhanced/<file>` into the run
    directory, of the name and length of the file that is given and of the sets' rate; of several test sets
    `enhanced/<set>/<name>.wav`. Files that are there already are left alone, so an interrupted run continues.
    """

    quality: SpeechQuality
    spectrogram: Spectrogram
    frame_multiple: int
    written, settings_name, items = "enhanced", "enhancement_settings.json", "recordings"

    @abstractmethod
    def enhanced(self, noisy: Tensor, draw: Draw) -> Tensor:
        """Enhance spectrograms `[B, 1, F, T]`, complex, with noise of their shape drawn by `draw`."""

    def on_save_checkpoint(self: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["trained_with"] = {key: value for key, value in arguments_of(self).items() if key in TRAINED_WITH}

    def on_load_checkpoint(self: Any, checkpoint: dict[str, Any]) -> None:
        own = arguments_of(self)
        for key, value in checkpoint.get("trained_with", {}).items():
            if own[key] != value:
                raise ValueError(f"model.{key} is {own[key]}, and the checkpoint's network was trained with {value}")

    def network_output(self: Any, channels: Tensor, t: Tensor) -> Tensor:
        """Evaluate the network at `[B, C, F, T]` and times `[B]`; its two channels make a complex spectrogram."""
        output = self.network(channels.to(self.dtype), t)
        return as_complex(output if isinstance(output, Tensor) else output.sample)

    def restore(self: Any, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Enhance signals `[B, samples]`."""
        return self.through_spectrogram(degraded, lengths_of({"noisy": degraded}), drawing(generator))

    def estimated(self: Any, batch: SpeechPairBatch) -> Tensor:
        """Enhance a batch, each recording by noise that follows from the run's seed and its position alone.

        The network sees together what has one number of frames, as it would see each alone.
        """
        noisy, lengths = at_least_float32(batch["noisy"]), lengths_of(batch)
        wide = [-(-self.spectrogram.frames(length) // self.frame_multiple) for length in lengths]
        estimate = torch.zeros_like(noisy)
        for width in sorted(set(wide)):
            rows = [row for row, own in enumerate(wide) if own == width]
            draw = complex_normal(CounterRNG(run_seed(), 0, batch["index"][rows], STREAM))
            estimate[rows] = self.through_spectrogram(noisy[rows], [lengths[row] for row in rows], draw)
        return estimate

    def pair_of_spectrograms(self: Any, batch: SpeechPairBatch) -> tuple[Tensor, Tensor]:
        """Compute spectrograms `[B, 1, F, T]` of noisy and clean recordings, divided by the loudest noisy sample."""
        with in_full_precision(batch["noisy"].device):
            loudest = loudest_sample(batch["noisy"])
            return self.spectrogram.of(batch["noisy"] / loudest), self.spectrogram.of(batch["clean"] / loudest)

    def through_spectrogram(self: Any, signal: Tensor, lengths: list[int], draw: Draw) -> Tensor:
        """Enhance signals `[B, samples]` by their spectrograms, with frames of zeros up to the network's multiple.

        What comes after each one's length is left out, and zero afterwards.
        """
        signal = at_least_float32(signal)
        with in_full_precision(signal.device):
            loudest = loudest_sample(signal)
            divided = zip(signal / loudest, lengths, strict=True)
            noisy = [self.spectrogram.of(row[None, :length]) for row, length in divided]
            frames = [each.shape[-1] for each in noisy]
            width = -(-max(frames) // self.frame_multiple) * self.frame_multiple
            wide = torch.cat([F.pad(each, (0, width - own)) for each, own in zip(noisy, frames, strict=True)])
        enhanced = self.enhanced(wide, draw)
        with in_full_precision(signal.device):
            parts = [each[None, ..., :own] for each, own in zip(enhanced, frames, strict=True)]
            signals = [self.spectrogram.signal(part, own)[0] for part, own in zip(parts, lengths, strict=True)]
            padded = [F.pad(each, (0, signal.shape[1] - len(each))) for each in signals]
            return torch.stack(padded) * loudest

    def validation_step(self: Any, batch: SpeechPairBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.test_step(batch, batch_idx, dataloader_idx)

    def test_step(self: Any, batch: SpeechPairBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return `estimate`, `[B, samples]`."""
        estimate = self.estimated(batch)
        names = batch.get("name") or [str(position) for position in batch["index"].tolist()]
        signals, perception = (batch["noisy"], estimate, batch["clean"]), batch["rate"] >= SPOKEN
        measured = batch["rate"], batch["index"], names, dataloader_idx, perception, lengths_of(batch)
        self.quality.update(*signals, *measured)
        return {"estimate": estimate}

    def on_validation_epoch_end(self: Any) -> None:
        self._log_quality("val")

    def on_test_epoch_end(self: Any) -> None:
        self._log_quality("test")

    def _log_quality(self: Any, stage: str) -> None:
        log_means(self, stage, self.quality.means(self._set_names(stage) or [""]))

    def store(self, folder: Path) -> Files:
        return recordings(folder)

    def predict_step(self: Any, batch: SpeechPairBatch, batch_idx: int, dataloader_idx: int = 0) -> list[str]:
        """Write the recordings of a batch that are not there yet, and return their names."""
        # Recordings of a folder are named by their files, those of a set without suffix.
        suffix = "" if getattr(self.trainer.datamodule, "predict_dir", None) is not None else ".wav"
        lengths = lengths_of(batch)

        def compute(rows: list[int]) -> Iterator[tuple[NDArray[Any], int]]:
            estimate = self.estimated(batch).float().clamp(-1, 1).cpu().numpy()
            for row in rows:
                yield estimate[row, : lengths[row]], batch["rate"]

        digests = [digest_of(signal[:own].float()) for signal, own in zip(batch["noisy"], lengths, strict=True)]
        written = self.write([f"{name}{suffix}" for name in batch["name"]], digests, compute, dataloader_idx)
        return [name.removesuffix(suffix) for name in written]
