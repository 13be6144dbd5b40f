"""A folder of clips with captions, in video files or in folders of numbered frames."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.classification.image_sets import ImageSource
from datamodules.files.data_directory import data_directory
from datamodules.prompts.buckets import CoveringCrop
from datamodules.prompts.captioned_set import Captioned, CaptionedSet
from datamodules.prompts.folder_sets import read_captions
from datamodules.video.clips import ClipFrames
from datamodules.video.folder_sets import named_clips, open_clip


class CaptionedClips(CaptionedSet):
    """The user's clips, in a folder of video files or of folders of numbered frames, with captions.

    Captions are read from the same files as those of `CaptionedFolder`: `metadata.jsonl` and so on, whose `file_name`
    is that of a video file or a folder of frames, or a text file next to each clip (`one.txt` for `one.mp4` and for the
    folder `one`). Training reads `num_frames` frames of a clip from a random position, and validation those in the
    middle. Frames are resized so that they cover `image_size`, and cropped, all frames of a clip in the same way. The
    lengths of all clips are read before training. Video files need the extra `video`.

    Args:
        data_dir: folder of the clips. None means the NOISEWORKS_DATA directory.
        num_frames: number of frames of a training clip. For Wan, it is 1 plus a multiple of 4.
        image_size: height and width of the frames, in pixels.
        frame_stride: read every `frame_stride`-th frame; 2 halves the frame rate.
        caption_column: key or column of the captions in `metadata.jsonl`, `metadata.csv` or `metadata.parquet`.
        prompt: one caption for all clips. `{}` is replaced by the name of the clip, with spaces for underscores. If it
            is set, captions in the folder are ignored.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        num_frames: int = 81,
        image_size: tuple[int, int] = (480, 832),
        frame_stride: int = 1,
        caption_column: str = "text",
        prompt: str | None = None,
    ) -> None:
        height, width = image_size
        at_least(1, num_frames=num_frames, frame_stride=frame_stride, **{"image_size": min(height, width)})
        self.data_dir = data_dir
        self.num_frames: int = num_frames
        self.image_shape = (num_frames, 3, height, width)
        self.frame_stride = frame_stride
        self.caption_column = caption_column
        self.prompt = prompt

    @property
    def location(self) -> str:
        return os.path.realpath(data_directory(self.data_dir, "CaptionedClips"))

    def has_captions(self) -> bool:
        return self.training().captions is not None

    def training(self) -> Captioned:
        root = Path(os.path.normpath(data_directory(self.data_dir, "CaptionedClips")))
        paths = [*named_clips(root, "data_dir").values()]
        if root in paths:
            raise ValueError(f"data_dir: {root} is one clip; give the folder that contains the clips, {root.parent}")
        needed = 1 + (self.num_frames - 1) * self.frame_stride
        clips = [open_clip(path, 3) for path in paths]
        for path, clip in zip(paths, clips, strict=True):
            if clip.shape[0] < needed:
                raise ValueError(
                    f"{path} has {clip.shape[0]} frames, but num_frames {self.num_frames} with frame_stride "
                    f"{self.frame_stride} needs {needed}: remove it, or lower one of them"
                )
        names = [path.name for path in paths]
        source = CroppedClips(root, names, clips, self.num_frames, self.frame_stride, self.image_shape[2:])
        return Captioned(source, read_captions(root, names, self.caption_column, self.prompt))


class CroppedClips(ImageSource):
    """Clips that are cut to a number of frames, and cropped to one size.

    Args:
        root: folder of the clips.
        names: names of the files or folders of the clips, `[N]`.
        clips: the clips, `[N]`.
        num_frames: number of frames to read of each clip.
        stride: distance of these frames in the clip.
        size: height and width of the crop, in pixels.
    """

    num_uniform = CoveringCrop.num_uniform + 1

    def __init__(
        self,
        root: Path,
        names: list[str],
        clips: Sequence[ClipFrames],
        num_frames: int,
        stride: int,
        size: Sequence[int],
    ) -> None:
        self.root = root
        self._names = names
        self.clips = clips
        self.num_frames = num_frames
        self.stride = stride
        self.crop = CoveringCrop(*size)
        self.label = torch.zeros(len(clips), dtype=torch.int64)

    @property
    def names(self) -> list[str]:
        return self._names

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        """Read clips, `[B, T, 3, H, W]`, uint8; the last number of `uniform` determines the first frame."""
        height, width = self.crop.shape
        batch = torch.empty(len(row), self.num_frames, 3, height, width, dtype=torch.uint8)
        span = 1 + (self.num_frames - 1) * self.stride
        numbers = [None] * len(row) if uniform is None else uniform.tolist()
        for position, (number, own) in enumerate(zip(row.tolist(), numbers, strict=True)):
            time, _, tall, wide = self.clips[number].shape
            first = (time - span) // 2 if own is None else math.floor(own[-1] * (time - span + 1))
            box = self.crop.box(wide, tall, own)
            for place, frame in enumerate(self.clips[number].read(first, span)[:: self.stride]):
                image = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
                resized = image.resize((width, height), Image.Resampling.BILINEAR, box)
                batch[position, place] = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
        return batch
