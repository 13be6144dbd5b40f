"""The user's clips to restore, without ground truth."""

from pathlib import Path

from datamodules.files.image_files import UnreadableImage
from datamodules.files.video_files import UnreadableVideo
from datamodules.video.clips import Clips
from datamodules.video.folder_sets import VideoFrames, named_clips, open_clip
from datamodules.video.whole_clips import WholeClips

AT_ONCE = 32
"""Number of frames that are decoded at once when clips are checked at the start."""


class NewClips(WholeClips):
    """The clips in a folder: frame folders and video files.

    All files are decoded once at the start to find damaged files. This check takes little time compared with
    restoration. Clips with missing or damaged frames, or with frames of different sizes, are skipped, and `unreadable`
    lists them with the reasons.

    Args:
        folder: folder of clips. A folder that directly contains frames is one clip.
        channels: number of channels of the returned frames, 1 or 3.
        longest: largest number of frames per part. None leaves clips whole.
    """

    def __init__(self, folder: str, channels: int, longest: int | None) -> None:
        directory = Path(folder).expanduser()
        self.unreadable: list[str] = []
        found = {}
        for name, path in named_clips(directory, "data.predict_dir").items():
            try:
                clip = open_clip(path, channels)
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
