"""VoiceBank-DEMAND, and other datasets in the same layout with one noisy and one clean recording per utterance."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.arguments import positive
from datamodules.file_pairs import match_pairs, stem_of
from datamodules.files.audio_files import as_int16, read_recording, recording_names
from datamodules.files.data_directory import data_directory
from datamodules.speech.recordings import Recordings, SpeechSet, Split

FOLDERS: dict[Split, str] = {"training": "train", "validation": "valid", "test": "test"}


class VoiceBankDemand(SpeechSet):
    """Recordings `<split>/noisy/<name>.wav` and `<split>/clean/<name>.wav` of the splits train, valid and test.

    If there is no folder `valid`, the recordings of `held_out_speakers` in `train` are used for validation and not for
    training. File names begin with the name of the speaker.

    Args:
        data_dir: folder that contains the splits, directly or in a subfolder `voicebank_demand`. None means the
            NOISEWORKS_DATA directory.
        held_out_speakers: speakers whose recordings are used for validation if there is no folder `valid`.
        reverberant: whether to read the folders `reverb` and `anechoic` instead of `noisy` and `clean`.
        sample_rate: sample rate in Hz.
        resample: whether to resample recordings that have a different sample rate. False rejects these recordings.
        mix_channels: whether to average multiple channels. False rejects recordings with multiple channels.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        held_out_speakers: Sequence[str] = ("p226", "p287"),
        reverberant: bool = False,
        sample_rate: int = 16_000,
        resample: bool = False,
        mix_channels: bool = False,
    ) -> None:
        positive(sample_rate=sample_rate)
        self.data_dir = data_dir
        self.held_out_speakers = tuple(held_out_speakers)
        self.kinds = ("reverb", "anechoic") if reverberant else ("noisy", "clean")
        self.sample_rate = sample_rate
        self.resample = resample
        self.mix_channels = mix_channels

    def recordings(self, split: Split) -> Recordings:
        root = data_directory(self.data_dir, "VoiceBankDemand")
        for inner in ("voicebank_demand", "speech/voicebank_demand"):
            root = root / inner if (root / inner).is_dir() else root
        divided = (root / FOLDERS["validation"]).is_dir()
        folder = root / (FOLDERS[split] if divided or split == "test" else FOLDERS["training"])
        noisy, clean = (recording_names(folder / kind, "VoiceBankDemand") for kind in self.kinds)
        pairs = match_pairs(noisy, clean, folder, kinds=self.kinds, what="recording")
        if not divided and split != "test":
            held = [Path(name).name.startswith(self.held_out_speakers) for name, _ in pairs]
            pairs = [pair for pair, one in zip(pairs, held, strict=True) if one == (split == "validation")]
        if not pairs:
            held_out = ", ".join(self.held_out_speakers) or "none"
            raise ValueError(f"{folder} has no recording for {split}: held_out_speakers are {held_out}")
        read = [
            [self._read(folder / kind / name) for kind, name in zip(self.kinds, pair, strict=True)] for pair in pairs
        ]
        names = [stem_of(name) for name, _ in pairs]
        return Recordings(names, [noisy for noisy, _ in read], [clean for _, clean in read], self.sample_rate)

    def _read(self, path: Path) -> NDArray[np.int16]:
        return as_int16(read_recording(path, self.sample_rate, self.resample, self.mix_channels))
