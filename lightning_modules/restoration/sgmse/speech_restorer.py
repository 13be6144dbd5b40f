"""Validation, test and prediction steps for speech enhancement."""

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
from lightning_modules.interfaces import PredictionSource, data_with
from lightning_modules.restoration.sgmse.spectrogram import Spectrogram, as_complex
from lightning_modules.restoration.sgmse.speech_metrics import SpeechQuality
from lightning_modules.sde.samplers import Draw
from lightning_modules.tasks.writers import FolderWriter, arguments_of
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.logging import log_means

STREAM = 30_000
"""Number of the random stream that enhancement uses."""
SILENCE = 1e-8
"""Lower limit of the peak amplitude by which a recording is normalised."""
SPOKEN = 8_000
"""Lowest sample rate, in hertz, at which intelligibility and perceived quality are computed."""
TRAINED_WITH = ("spectrogram", "process")
"""Arguments of the module on which the trained weights depend; they are saved in checkpoints."""


def complex_normal(numbers: CounterRNG) -> Draw:
    """Return a function that samples complex noise with E|z|^2 = 1.

    The noise of different recordings is independent.
    """

    def draw(like: Tensor) -> Tensor:
        real, imaginary = (numbers.normal(like.real) for _ in range(2))
        return torch.complex(real, imaginary) / 2**0.5

    return draw


def loudest_sample(signal: Tensor) -> Tensor:
    """Compute the peak amplitude `[B, 1]` by which signals `[B, samples]` are divided."""
    return signal.abs().amax(dim=1, keepdim=True).clamp(min=SILENCE)


def lengths_of(batch: Any) -> list[int]:
    """Return the length of each recording of a batch, in samples."""
    noisy = batch["noisy"]
    return batch["length"].tolist() if "length" in batch else [noisy.shape[1]] * len(noisy)


class SpeechRestorerSteps(FolderWriter, ABC):
    """Validation, test and prediction steps for `SpeechPairBatch`es.

    A subclass sets `quality = SpeechQuality()`, `spectrogram` and `frame_multiple`, and implements its enhancement
    method in `enhanced`. Spectrograms are padded to a number of frames that is a multiple of `frame_multiple`. Each
    noisy recording is divided by its peak amplitude before enhancement, and the result is multiplied by this amplitude
    afterwards. Validation and test log means over all recordings, such as `val/si_sdr` and `test/pesq`. Metrics such as
    `test/noisy_si_sdr` evaluate the noisy recordings. With several test sets, the metrics are named
    `test/<set>/si_sdr`. Intelligibility and perceived quality are computed only for sample rates of at least 8 kHz.

    A checkpoint is rejected if it was trained with a different spectrogram or process. `predict` writes
    `enhanced/<file>` to the run directory. The output file has the same name and length as the input file; its sample
    rate is that of the dataset. With several test sets, the path is `enhanced/<set>/<name>.wav`. Existing files are
    kept; an interrupted run can therefore be continued.
    """

    quality: SpeechQuality
    spectrogram: Spectrogram
    frame_multiple: int
    written, settings_name, items = "enhanced", "enhancement_settings.json", "recordings"

    @abstractmethod
    def enhance_spectrogram(self, noisy: Tensor, draw: Draw) -> Tensor:
        """Enhance complex spectrograms `[B, 1, F, T]`.

        The function `draw` samples complex noise that has the shape of its argument.
        """

    def on_save_checkpoint(self: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["trained_with"] = {key: value for key, value in arguments_of(self).items() if key in TRAINED_WITH}

    def on_load_checkpoint(self: Any, checkpoint: dict[str, Any]) -> None:
        own = arguments_of(self)
        for key, value in checkpoint.get("trained_with", {}).items():
            if own[key] != value:
                raise ValueError(f"model.{key} is {own[key]}, but the checkpoint's network was trained with {value}")

    def network_output(self: Any, channels: Tensor, t: Tensor) -> Tensor:
        """Run the network on real tensors `[B, C, F, T]` and times `[B]`.

        The two output channels of the network are combined into a complex spectrogram.
        """
        output = self.network(channels.to(self.dtype), t)
        return as_complex(output if isinstance(output, Tensor) else output.sample)

    @evaluate_without_gradients
    def enhance(self: Any, noisy: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Enhance noisy recordings `[B, samples]` that have the sample rate of the training data.

        The generator samples all random numbers; None uses PyTorch's global generator.
        """
        return self.through_spectrogram(noisy, lengths_of({"noisy": noisy}), drawing(generator))

    def estimate(self: Any, batch: SpeechPairBatch) -> Tensor:
        """Enhance a batch.

        The noise of a recording is seeded by the run's seed and the recording's index. Recordings with the same number
        of frames after padding form a group, which is processed at once. Therefore, each recording is padded to the
        same length as if it were enhanced alone.
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
        """Compute spectrograms `[B, 1, F, T]` of noisy and clean recordings.

        Both recordings are divided by the peak amplitude of the noisy recording.
        """
        with in_full_precision(batch["noisy"].device):
            loudest = loudest_sample(batch["noisy"])
            return self.spectrogram.of(batch["noisy"] / loudest), self.spectrogram.of(batch["clean"] / loudest)

    def through_spectrogram(self: Any, signal: Tensor, lengths: list[int], draw: Draw) -> Tensor:
        """Enhance signals `[B, samples]` by enhancing their spectrograms.

        The spectrograms are zero-padded to a number of frames that the network accepts.

        Samples beyond the length of a signal are ignored, and are zero in the result.
        """
        signal = at_least_float32(signal)
        with in_full_precision(signal.device):
            loudest = loudest_sample(signal)
            divided = zip(signal / loudest, lengths, strict=True)
            noisy = [self.spectrogram.of(row[None, :length]) for row, length in divided]
            frames = [each.shape[-1] for each in noisy]
            width = -(-max(frames) // self.frame_multiple) * self.frame_multiple
            wide = torch.cat([F.pad(each, (0, width - own)) for each, own in zip(noisy, frames, strict=True)])
        enhanced = self.enhance_spectrogram(wide, draw)
        with in_full_precision(signal.device):
            parts = [each[None, ..., :own] for each, own in zip(enhanced, frames, strict=True)]
            signals = [self.spectrogram.signal(part, own)[0] for part, own in zip(parts, lengths, strict=True)]
            padded = [F.pad(each, (0, signal.shape[1] - len(each))) for each in signals]
            return torch.stack(padded) * loudest

    def other_estimates(self: Any, batch: SpeechPairBatch) -> dict[str, Tensor]:
        """Return additional estimates for a test batch, by name.

        Their metrics are logged as `test/<name>_si_sdr` etc.
        """
        return {}

    def validation_step(self: Any, batch: SpeechPairBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._metrics_of(batch, dataloader_idx)

    def test_step(self: Any, batch: SpeechPairBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return `estimate`, `[B, samples]`."""
        return self._metrics_of(batch, dataloader_idx, self.other_estimates(batch))

    def _metrics_of(
        self: Any, batch: SpeechPairBatch, dataloader_idx: int, others: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        estimate = self.estimate(batch)
        names = batch.get("name") or [str(position) for position in batch["index"].tolist()]
        signals, perception = (batch["noisy"], estimate, batch["clean"]), batch["sample_rate"] >= SPOKEN
        measured = batch["sample_rate"], batch["index"], names, dataloader_idx, perception, lengths_of(batch)
        self.quality.update(*signals, *measured, others)
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
        """Enhance the recordings of a batch that are not yet on disk, write them, and return their names."""
        # Names of recordings from a folder are file names; names from a dataset have no suffix.
        data = data_with(self.trainer, PredictionSource)
        suffix = ".wav" if data is None or data.predict_set is None else ""
        lengths = lengths_of(batch)

        def compute(rows: list[int]) -> Iterator[tuple[NDArray[Any], int]]:
            estimate = self.estimate(batch).float().clamp(-1, 1).cpu().numpy()
            for row in rows:
                yield estimate[row, : lengths[row]], batch["sample_rate"]

        digests = [digest_of(signal[:own].float()) for signal, own in zip(batch["noisy"], lengths, strict=True)]
        written = self.write([f"{name}{suffix}" for name in batch["name"]], digests, compute, dataloader_idx)
        return [name.removesuffix(suffix) for name in written]
