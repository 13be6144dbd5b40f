"""DataModule for video restoration with any dataset: training windows and whole test clips.

ClipPairs(FrameFolders("~/REDS/train_sharp"), degradation=Chain([...], scale=4), windows=WindowSampling(15, size=256))
"""

from typing import Any

import numpy as np
import torch

from datamodules.arguments import at_least
from datamodules.corruptions.clip_degradation import Chain
from datamodules.corruptions.seeded import with_seed
from datamodules.files.data_directory import Paths
from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.loading.whole_images import SizedSet, WholeImageSets
from datamodules.video.clip_noise import ClipNoise
from datamodules.video.clips import Clips, ClipSet, WindowSampling
from datamodules.video.new_clips import NewClips
from datamodules.video.whole_clips import DEGRADATION, NOISE, PLACE, WholeClips, as_levels, frames_to_clip, random_of


class ClipPairs(WholeImageSets):
    """DataModule with batches of degraded clips and, if known, clean clips (`datamodules.batches.ClipBatch`).

    Training clips are windows of the dataset's clips. The position, orientation, degradation and noise of a window
    depend only on (seed, epoch, index), not on the number of ranks. Windows are degraded in DataLoader workers, because
    JPEG and video codecs do not run on a GPU. Validation, test and prediction batches contain whole clips, or parts of
    long clips. All clips of a batch have the same length and size. If a dataset has only clean clips, they are degraded
    with a fixed seed, so all methods are evaluated on the same degraded clips.

    Args:
        training: training dataset. None for a run that only tests or predicts.
        test: test dataset, or a dict of test datasets by name. Metrics are computed separately for each test dataset.
        validation: validation dataset. None means no validation.
        degradation: function that degrades and downsamples clean clips. None means that the datasets have degraded
            clips.
        noise: source of noise sequences for training clips. Batches contain one noise sequence per clip as `noise`.
        test_noise: source of noise sequences for validation and test clips.
        batch_size: global training batch size: number of clips over all ranks.
        windows: how training windows are cut from clips.
        evaluation_frames: largest number of frames that are evaluated at once. Longer clips are split into parts.
        predict_dir: folder of degraded clips to predict, one clip, a list of clips and folders, or a text file (.txt)
            with one path per line. A clip is a folder of frames or a video file. None predicts the test clips.
        loading: how batches are read, and the seed.
    """

    def __init__(
        self,
        training: ClipSet | None = None,
        test: ClipSet | dict[str, ClipSet] | None = None,
        validation: ClipSet | None = None,
        degradation: Chain | None = None,
        noise: ClipNoise | None = None,
        test_noise: ClipNoise | None = None,
        batch_size: int = 2,
        windows: WindowSampling = WindowSampling(),
        evaluation_frames: int | None = None,
        predict_dir: Paths | None = None,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(training, test, validation, predict_dir, batch_size, loading)
        at_least(1, evaluation_frames=evaluation_frames)
        self.degradation = degradation
        self.noise = noise
        self.test_noise = test_noise
        self.windows = windows
        self.evaluation_frames = evaluation_frames
        sets = [one for one in (training, validation, *self.tests.values()) if one is not None]
        if len(channels := {one.channels for one in sets}) > 1:
            counts = ", ".join(f"{type(one).__name__} {one.channels}" for one in sets)
            raise ValueError(f"the datasets have different numbers of channels: {counts}")
        self.channels = channels.pop() if channels else 3
        self.scale = degradation.scale if degradation is not None else 1 if training is None else training.scale
        if windows.size % self.scale:
            raise ValueError(f"data.windows.size must be a multiple of the scale {self.scale}, got {windows.size}")

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Shape T, C, h, w of a degraded training clip."""
        side = self.windows.size // self.scale
        return self.windows.num_frames * (2 if self.windows.mirrored else 1), self.channels, side, side

    # reading

    def set_up_training(self) -> None:
        if self.training is not None:
            clips = self._read(self.training, "training")
            if self.noise is not None:
                self.noise.check(self.clip_shape, "data.noise")
            self.train_set = Windows(clips, self)
        if self.validation is not None:
            self.validation_set = self.whole(self.validation, "validation")

    def whole(self, one: ClipSet, split: Any) -> SizedSet:
        clips = self._read(one, split)
        return WholeClips(clips, self.degradation, self.test_noise, self.evaluation_frames)

    def _read(self, one: ClipSet, split: Any) -> Clips:
        clips, name = with_seed(one, self.seed).clips(split), type(one).__name__
        if clips.noisy is None and self.degradation is None:
            raise ValueError(f"{name} has only clean clips: set data.degradation")
        if split == "training" and clips.noisy is not None and self.degradation is not None:
            raise ValueError(f"{name} has degraded clips already: do not set data.degradation")
        both = clips.noisy is not None and clips.clean is not None
        if both and self.training is not None and clips.scale != self.scale:
            raise ValueError(f"{name} has scale {clips.scale}, but the training data have scale {self.scale}")
        return clips

    def new_images(self, folder: Paths) -> SizedSet:
        return NewClips(folder, self.channels, self.evaluation_frames)

    # batches

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        kinds = ("noisy", "clean", "noise")
        return batch | {key: batch[key].to(self.pixel_type).div_(255) for key in kinds if key in batch}


class Windows:
    """Dataset of the training windows of clips.

    Args:
        clips: clips of the dataset.
        data: DataModule whose settings determine how windows are cut and degraded.
    """

    def __init__(self, clips: Clips, data: ClipPairs) -> None:
        size, num_frames = data.windows.size, data.windows.num_frames
        for name, stored in zip(clips.names, clips.stored, strict=True):
            time, _, height, width = stored.shape
            if time < num_frames:
                raise ValueError(f"{name} has {time} frames, fewer than data.windows.num_frames {num_frames}")
            if min(height, width) < size:
                raise ValueError(f"{name} has {height} x {width} pixels, less than data.windows.size {size}")
        self.clips = clips
        self.data = data
        self.in_memory = clips.in_memory

    def __len__(self) -> int:
        return len(self.clips.names) * self.data.windows.per_clip

    def __getitem__(self, request: Request) -> dict[str, Any]:
        cut = [self.window(position, request.epoch) for position in request.indices.tolist()]
        batch: dict[str, Any] = {"index": request.indices, "global_batch_size": request.global_batch_size}
        return batch | {key: torch.from_numpy(np.stack([one[key] for one in cut])) for key in cut[0]}

    def window(self, position: int, epoch: int) -> dict[str, np.ndarray]:
        """Cut, flip and degrade one window, and return a dict of 8-bit frames `[T, C, H, W]`."""
        data, cut, clip = self.data, self.data.windows, position // self.data.windows.per_clip
        random = random_of(data.seed, epoch, position, PLACE)
        time, _, height, width = self.clips.stored[clip].shape
        scale = 1 if self.clips.noisy is None else self.clips.scale
        first = int(random.integers(time - cut.num_frames + 1))
        top, left = (int(random.integers((side - cut.size) // scale + 1)) for side in (height, width))
        ways = random.random(3) < 0.5 if cut.augmentation else np.zeros(3, dtype=bool)
        kinds = {"clean": (self.clips.clean, scale), "noisy": (self.clips.noisy, 1)}
        window = {}
        for key, (clips, pixels) in kinds.items():
            if clips is None:
                continue
            frames = clips[clip].read(first, cut.num_frames)
            size = cut.size * pixels // scale
            rows, columns = (slice(start * pixels, start * pixels + size) for start in (top, left))
            window[key] = append_reversed(flip_frames(frames[..., rows, columns], ways), cut.mirrored)
        if "noisy" not in window and data.degradation is not None:
            drawn = random_of(data.seed, epoch, position, DEGRADATION)
            window["noisy"] = as_levels(data.degradation(frames_to_clip(window["clean"]), drawn))
        if data.noise is not None:
            window["noise"] = data.noise.draw(window["noisy"], random_of(data.seed, epoch, position, NOISE))
        return window


def flip_frames(frames: np.ndarray, ways: np.ndarray) -> np.ndarray:
    """Flip frames `[..., S, S]`. The Booleans in `ways` select horizontal, vertical and diagonal flips."""
    frames = frames[..., ::-1] if ways[0] else frames
    frames = frames[..., ::-1, :] if ways[1] else frames
    frames = frames.swapaxes(-1, -2) if ways[2] else frames
    return np.ascontiguousarray(frames)


def append_reversed(frames: np.ndarray, backwards: bool) -> np.ndarray:
    """If `backwards` is true, append a clip's frames to it in reverse order, starting with the last frame."""
    return np.concatenate([frames, frames[::-1]]) if backwards else frames
