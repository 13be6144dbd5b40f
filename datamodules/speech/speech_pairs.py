"""DataModule for speech enhancement with any dataset. It trains on crops and tests on whole recordings.

SpeechPairs(VoiceBankDemand("~/data"), test=VoiceBankDemand("~/data"), crop_length=32_640)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.corruptions.seeded import with_seed
from datamodules.files.audio_files import LOUDEST, UnreadableRecording, read_recording, recording_names
from datamodules.files.data_directory import Paths, given_files
from datamodules.files.whole_files import write_csv
from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.loading.whole_images import SizedSet, WholeImageSets
from datamodules.randomness.counter import sample_uniform
from datamodules.speech.recordings import CropStore, Recordings, SpeechSet, Split


class SpeechPairs(WholeImageSets):
    """DataModule with batches of noisy and, if known, clean recordings (`datamodules.batches.SpeechPairBatch`).

    Training batches are crops of recordings in memory. They are cut on the device at positions that depend only on
    (seed, epoch, index). Recordings that are shorter than a crop are zero-padded on both sides. Validation, test and
    prediction batches contain whole recordings of similar lengths. These recordings are zero-padded at the end.

    Args:
        training: training dataset. None for a run that only tests or predicts.
        test: test dataset, or a dict of test datasets by name. Metrics are computed separately for each test dataset.
        validation: validation dataset. None means no validation.
        validation_recordings: number of validation recordings to use, starting with the first recording of the dataset.
            None means all recordings.
        batch_size: global training batch size: number of crops over all ranks.
        crop_length: length of a training crop, in audio samples.
        length_step: width of the length buckets, in audio samples. A batch contains only recordings of one bucket. They
            are zero-padded at the end to the same length.
        predict_dir: folder of noisy recordings to predict, one file, a list of files and folders, or a text file (.txt)
            with one path per line. None predicts the test recordings.
        resample: whether to resample recordings in `predict_dir` that have a different sample rate. False rejects these
            recordings.
        mix_channels: whether to average the channels of recordings in `predict_dir`. False rejects recordings with
            multiple channels.
        loading: how batches are read, and the seed.
    """

    def __init__(
        self,
        training: SpeechSet | None = None,
        test: SpeechSet | dict[str, SpeechSet] | None = None,
        validation: SpeechSet | None = None,
        validation_recordings: int | None = None,
        batch_size: int = 8,
        crop_length: int = 32_640,
        length_step: int = 8192,
        predict_dir: Paths | None = None,
        resample: bool = False,
        mix_channels: bool = False,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(training, test, validation, predict_dir, batch_size, loading)
        at_least(1, crop_length=crop_length, length_step=length_step, validation_recordings=validation_recordings)
        self.validation_recordings = validation_recordings
        self.crop_length = crop_length
        self.length_step = length_step
        self.resample = resample
        self.mix_channels = mix_channels
        sets = [one for one in (training, validation, *self.tests.values()) if one is not None]
        if len({one.sample_rate for one in sets}) > 1:
            rates = ", ".join(f"{type(one).__name__} {one.sample_rate}" for one in sets)
            raise ValueError(f"the datasets have different sample rates: {rates}")
        self.sample_rate = sets[0].sample_rate if sets else 16_000

    def set_up_training(self) -> None:
        if self.training is not None:
            self.train_set = SpeechCrops(self._read(self.training, "training"), self.crop_length)
        if self.validation is not None:
            self.validation_set = self.whole(self.validation, "validation")

    def whole(self, one: SpeechSet, split: Any) -> SizedSet:
        return WholeRecordings(self._read(one, split), self.length_step)

    def _read(self, one: SpeechSet, split: Split) -> Recordings:
        recordings = with_seed(one, self.seed).recordings(split)
        if split == "validation":
            recordings = recordings.first(self.validation_recordings)
        directory = self.trainer.log_dir if self.trainer is not None else None  # `log_dir` is a collective
        if recordings.table is not None and directory is not None and self.trainer.is_global_zero:  # type: ignore[union-attr]
            several = [name for name, test in self.tests.items() if test is one and len(self.tests) > 1]
            stem = "_".join([recordings.table_name, split, *several])
            write_csv(Path(directory, f"{stem}.csv"), recordings.table)
        return recordings

    def new_images(self, folder: Paths) -> SizedSet:
        return RecordingFolder(folder, self.sample_rate, self.length_step, self.resample, self.mix_channels)

    def augment(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        crops = self.train_set
        assert isinstance(crops, SpeechCrops)
        return batch | crops.crop(batch["index"], sample_uniform(self.seed, epoch, batch["index"], count=1)[:, 0])

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        signals = {key: self._in_unit_interval(batch[key]) for key in ("noisy", "clean") if key in batch}
        return batch | signals | {"sample_rate": self.sample_rate}

    def _in_unit_interval(self, stored: Tensor) -> Tensor:
        signal = stored.to(self.pixel_type)
        return signal if stored.is_floating_point() else signal.div_(LOUDEST)


class SpeechCrops:
    """Dataset of training recordings. Crops are cut on the device.

    Args:
        recordings: recordings of the split.
        length: length of a crop, in audio samples.
    """

    in_memory = True

    def __init__(self, recordings: Recordings, length: int) -> None:
        self.count = len(recordings.names)
        self.stores = {"noisy": CropStore(recordings.noisy, length), "clean": CropStore(recordings.clean, length)}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, request: Request) -> dict[str, Any]:
        return {"index": request.indices, "epoch": request.epoch, "global_batch_size": request.global_batch_size}

    def crop(self, index: Tensor, uniform: Tensor) -> dict[str, Tensor]:
        """Cut int16 crops `[B, length]`, one from each of the selected recordings, on the device of `index`."""
        return {key: store.to(index.device).crop(index, uniform) for key, store in self.stores.items()}


def stack_padded(signals: Sequence[np.ndarray]) -> Tensor:
    """Zero-pad signals at the end to the same length, and stack them into one tensor `[B, samples]`."""
    longest = max(map(len, signals))
    return torch.from_numpy(np.stack([np.pad(each, (0, longest - len(each))) for each in signals]))


class WholeRecordings:
    """Dataset of whole recordings in memory.

    Args:
        recordings: recordings of the split.
        length_step: width of the length buckets, in audio samples. A batch contains only recordings of one bucket.
    """

    in_memory = True

    def __init__(self, recordings: Recordings, length_step: int) -> None:
        self.recordings = recordings
        self.sizes = [(len(each) // length_step,) for each in recordings.noisy]

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        rows = request.indices.tolist()
        kinds = {"noisy": self.recordings.noisy, "clean": self.recordings.clean}
        return {
            "index": request.indices,
            "global_batch_size": request.global_batch_size,
            "name": [self.recordings.names[row] for row in rows],
            "length": torch.tensor([len(self.recordings.noisy[row]) for row in rows]),
            **{key: stack_padded([kind[row] for row in rows]) for key, kind in kinds.items()},
        }


class RecordingFolder:
    """A folder of the user's noisy recordings. The recordings are decoded on access.

    All files are decoded once at the start to find damaged files. This check takes little time compared with
    enhancement. Damaged, silent or unsupported files are skipped, and `unreadable` lists them with the reasons.

    Args:
        folder: folder of recordings, including subfolders, one recording, or a list; see `given_files`.
        sample_rate: sample rate in Hz.
        length_step: width of the length buckets, in audio samples. A batch contains only recordings of one bucket.
        resample: whether to resample recordings that have a different sample rate.
        mix_channels: whether to average multiple channels.
    """

    def __init__(self, folder: Paths, sample_rate: int, length_step: int, resample: bool, mix_channels: bool) -> None:
        self.folder, files = given_files(
            folder, "data.predict_dir", lambda path: recording_names(path, "data.predict_dir")
        )
        self.options = (sample_rate, resample, mix_channels)
        self.files: list[str] = []
        self.sizes: list[tuple[int, ...]] = []
        self.unreadable: list[str] = []
        for file in files:
            try:
                self.sizes.append((len(self._read(file)) // length_step,))
                self.files.append(file)
            except UnreadableRecording as error:
                self.unreadable.append(str(error))
        if not self.files:
            raise ValueError(f"data.predict_dir {self.folder}: no recording can be read: {'; '.join(self.unreadable)}")

    def _read(self, file: str) -> np.ndarray:
        return read_recording(self.folder / file, *self.options)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        files = [self.files[row] for row in request.indices.tolist()]
        signals = [self._read(file) for file in files]
        return {
            "noisy": stack_padded(signals),
            "length": torch.tensor([len(signal) for signal in signals]),
            "index": request.indices,
            "global_batch_size": request.global_batch_size,
            "name": files,
        }
