"""Clips in folders of numbered frames, or in video files.

<folder>/<clip>/00000000.png ...        <folder>/<clip>.mp4
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.arguments import at_least, one_of
from datamodules.file_pairs import match_pairs
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import SUFFIXES, UnreadableImage
from datamodules.files.pixels import read_pixels
from datamodules.files.video_files import SUFFIXES as VIDEO_SUFFIXES
from datamodules.files.video_files import UnreadableVideo, decode_frames, facts_of
from datamodules.video.clips import ClipFrames, Clips, ClipSet, Split


class FolderFrames:
    """Frames in a folder of image files whose names end with consecutive numbers.

    Args:
        folder: folder of frames.
        channels: number of channels, 1 or 3. If it is 3, grey frames become three equal channels. Colour frames are
            never converted to grey.
    """

    def __init__(self, folder: Path, channels: int = 3) -> None:
        self.folder = folder
        self.channels = channels
        self.files = numbered_frames(folder)
        self.size = self._read(self.files[0]).shape[1:]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.files), self.channels, self.size[0], self.size[1]

    def read(self, first: int, count: int) -> NDArray[np.uint8]:
        frames = []
        for path in self.files[first : first + count]:
            frames.append(self._read(path))
            if frames[-1].shape[1:] != self.size:
                raise UnreadableImage(
                    f"{path} has {frames[-1].shape[1]} x {frames[-1].shape[2]} pixels, but the first frame of its "
                    f"clip has {self.size[0]} x {self.size[1]}"
                )
        return np.stack(frames)

    def _read(self, path: Path) -> NDArray[np.uint8]:
        pixels = read_pixels(path, None if self.channels == 1 else self.channels)
        if len(pixels) != self.channels:
            raise UnreadableImage(f"{path} is in colour, but the datasets are grey; convert it to grey")
        return pixels


def numbered_frames(folder: Path) -> list[Path]:
    """Return the frame files in a folder, sorted by the number at the end of their names."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        number = re.search(r"(\d+)$", path.stem)
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or number is None:
            continue
        if not path.is_file():
            raise ValueError(f"{path} is not a regular file, so it is not a frame; remove it")
        other = found.setdefault(int(number[1]), path)
        if other != path:
            raise ValueError(f"{folder}: {other.name} and {path.name} have the same number; remove one of them")
    if not found:
        raise FileNotFoundError(f"{folder} has no frame; expected 00000000.png, 00000001.png and so on")
    numbers = sorted(found)
    for wanted in range(numbers[0], numbers[-1]):
        if wanted not in found:
            like = found[numbers[0]]
            digits = re.search(r"(\d+)$", like.stem)
            assert digits is not None
            name = f"{like.stem[: digits.start()]}{wanted:0{len(digits[1])}d}{like.suffix}"
            raise ValueError(f"{folder / name} is missing between existing frames")
    return [found[number] for number in numbers]


class VideoFrames:
    """Frames of a video file. Decoding starts at the last key frame before the first requested frame.

    Args:
        path: video file.
        channels: number of channels: 1 reads only luma, and 3 reads colour.
    """

    def __init__(self, path: Path, channels: int = 3) -> None:
        self.path = path
        self.channels = channels
        self.facts = facts_of(path)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.facts.times), self.channels, self.facts.height, self.facts.width

    def read(self, first: int, count: int) -> NDArray[np.uint8]:
        start = self.facts.times[first] if first else None
        frames = decode_frames(self.path, str(self.path), start, count, grey=self.channels == 1)
        if len(frames) < min(count, len(self.facts.times) - first):
            raise UnreadableVideo(f"{self.path} ends after frame {first + len(frames) - 1}")
        return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))


def named_clips(folder: Path, what: str) -> dict[str, Path]:
    """Find the clips in a folder: frame folders, video files, or the folder itself as one clip. Return a dict by name.

    Args:
        folder: folder of clips, or one video file.
        what: name of the argument or dataset, for error messages.
    """
    if folder.is_file() and folder.suffix.lower() in VIDEO_SUFFIXES:
        return {folder.stem: folder}
    if not folder.is_dir():
        raise FileNotFoundError(f"{what}: {folder} is not a folder; expected one with a folder of frames for each clip")
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    clips = [path for path in found if path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES]
    if not clips and any(path.suffix.lower() in SUFFIXES for path in found):
        return {folder.name: folder}
    if not clips:
        raise FileNotFoundError(
            f"{what}: {folder} has no clip; expected folders of frames, as <clip>/00000000.png, or files that end "
            f"with {', '.join(VIDEO_SUFFIXES)}"
        )
    name, count = Counter(path.stem if path.is_file() else path.name for path in clips).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{what}: {folder} has several clips named {name}; rename all but one")
    return {path.stem if path.is_file() else path.name: path for path in clips}


def open_clip(path: Path, channels: int) -> ClipFrames:
    """Open a clip: a frame folder or a video file."""
    return FolderFrames(path, channels) if path.is_dir() else VideoFrames(path, channels)


class FrameFolders(ClipSet):
    """The user's clips in frame folders or video files, with or without degraded clips.

    All splits contain the same clips.

    Args:
        clean_dir: folder of clean clips. None if there is no ground truth.
        noisy_dir: folder of degraded clips. They have the names of the clean clips. None means that `data.degradation`
            degrades the clean clips.
        scale: number of clean pixels per degraded pixel, along each axis.
        channels: 1 for grey frames, 3 for colour frames.
        names: names of the clips to use. None means all clips.
    """

    def __init__(
        self,
        clean_dir: str | None = None,
        noisy_dir: str | None = None,
        scale: int = 4,
        channels: int = 3,
        names: Sequence[str] | None = None,
    ) -> None:
        at_least(1, scale=scale)
        one_of((1, 3), channels=channels)
        if clean_dir is None and noisy_dir is None:
            raise ValueError("set clean_dir, noisy_dir or both: there is no folder of clips")
        self.folders = {"clean": clean_dir, "noisy": noisy_dir}
        self.scale = scale
        self.channels = channels
        self.names = names

    def clips(self, split: Split) -> Clips:
        found = {
            kind: named_clips(Path(folder).expanduser(), f"{kind}_dir")
            for kind, folder in self.folders.items()
            if folder is not None
        }
        [first, *_] = found.values()
        if len(found) == 2:
            where = Path(str(self.folders["noisy"]))
            match_pairs(list(found["noisy"]), list(found["clean"]), where, stem=lambda name: name, what="clip")
        for name in self.names or ():
            one_of(sorted(first), names=name)
        names = [name for name in first if self.names is None or name in self.names]
        read = {kind: [open_clip(paths[name], self.channels) for name in names] for kind, paths in found.items()}
        return Clips(names, read.get("clean"), read.get("noisy"), self.scale)


class REDS(ClipSet):
    """REDS (Nah et al., CVPR Workshops 2019): 240 training and 30 validation clips of 100 frames of 1280 x 720 pixels.

    Frames are `<data_dir>/train_sharp/<clip>/00000000.png` and so on. Alternatively, the folders can be in
    `<data_dir>/REDS`. The folder `val_sharp` is used for validation and testing.

    Args:
        data_dir: folder of the dataset. None means the NOISEWORKS_DATA directory.
    """

    channels = 3

    def __init__(self, data_dir: str | None = None) -> None:
        self.data_dir = data_dir

    def clips(self, split: Split) -> Clips:
        directory = data_directory(self.data_dir, "REDS")
        directory = directory / "REDS" if (directory / "REDS").is_dir() else directory
        found = named_clips(directory / ("train_sharp" if split == "training" else "val_sharp"), "REDS")
        return Clips(list(found), [open_clip(path, 3) for path in found.values()])
