"""A user's own clips that are to be restored, of which there is no ground truth."""

from pathlib import Path

from datamodules.files.image_files import UnreadableImage
from datamodules.files.video_files import UnreadableVideo
from datamodules.video.clips import Clips
from datamodules.video.folder_sets import VideoFrames, named_clips, opened
from datamodules.video.whole_clips import WholeClips

AT_ONCE = 32
"""Frames that are decoded together where all are looked at."""


class NewClips(WholeClips):
    """The clips of a folder, folders of frames and video files.

    All are decoded once before, which costs little beside their restoration: clips with a frame that is missing,
    damaged or of another size are left out, and `unreadable` says of each which and why.

    Args:
        folder: the folder; one that holds frames itself is one clip.
        channels: 1 or 3, which frames are read with.
        longest: most frames of a part; None leaves clips whole.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no clip.
        ValueError: if two clips have one name, or none can be read.
    """

    def __init__(self, folder: str, channels: int, longest: int | None) -> None:
        directory = Path(folder).expanduser()
        self.unreadable: list[str] = []
        found = {}
        for name, path in named_clips(directory, "data.predict_dir").items():
            try:
                clip = opened(path, channels)
                for first in range(0, clip.shape[0], AT_ONCE):
                    clip.read(first, AT_ONCE)
            except (UnreadableImage, UnreadableVideo, ValueError, FileNotFoundError) as error:
                self.unreadable.append(str(error))
            else:
                found[name] = clip
        if not found:
            raise ValueError(f"data.predict_dir {directory}: no clip can be read: {'; '.join(self.unreadable)}")
        rates = [clip.facts.rate if isinstance(clip, VideoFrames) else 0.0 for clip in found.values()]
        super().__init__(Clips(list(found), None, list(found.values()), rates=rates), None, None, longest)
