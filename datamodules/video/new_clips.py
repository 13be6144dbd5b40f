"""The user's clips to restore, without ground truth."""

from collections import Counter
from pathlib import Path

from datamodules.files.data_directory import Paths, listed_paths
from datamodules.files.image_files import UnreadableImage
from datamodules.files.video_files import UnreadableVideo
from datamodules.video.clips import Clips
from datamodules.video.folder_sets import VideoFrames, named_clips, open_clip
from datamodules.video.whole_clips import WholeClips

KEY = "data.predict_dir"
AT_ONCE = 32
"""Number of frames that are decoded at once when clips are checked at the start."""


class NewClips(WholeClips):
    """The clips in a folder: frame folders and video files.

    All files are decoded once at the start to find damaged files. This check takes little time compared with
    restoration. Clips with missing or damaged frames, or with frames of different sizes, are skipped, and `unreadable`
    lists them with the reasons.

    Args:
        folder: folder of clips, one clip, or a list of folders and video files, see `listed_paths`. A folder that
            directly contains frames is one clip.
        channels: number of channels of the returned frames, 1 or 3.
        longest: largest number of frames per part. None leaves clips whole.
    """

    def __init__(self, folder: Paths, channels: int, longest: int | None) -> None:
        self.unreadable: list[str] = []
        found = {}
        for name, path in _clips_at(folder).items():
            try:
                clip = open_clip(path, channels)
                for first in range(0, clip.shape[0], AT_ONCE):
                    clip.read(first, AT_ONCE)
            except (UnreadableImage, UnreadableVideo, ValueError, FileNotFoundError) as error:
                self.unreadable.append(str(error))
            else:
                found[name] = clip
        if not found:
            raise ValueError(f"{KEY} {folder}: no clip can be read: {'; '.join(self.unreadable)}")
        rates = [clip.facts.rate if isinstance(clip, VideoFrames) else 0.0 for clip in found.values()]
        super().__init__(Clips(list(found), None, list(found.values()), rates=rates), None, None, longest)


def _clips_at(given: Paths) -> dict[str, Path]:
    """Find the given clips by name. Missing files of a list are kept, so that they are reported as unreadable."""
    paths = listed_paths(given, KEY)
    if paths is None:
        return named_clips(Path(str(given)).expanduser(), KEY)
    clips = [
        pair for path in paths for pair in (named_clips(path, KEY) if path.is_dir() else {path.stem: path}).items()
    ]
    name, count = Counter(name for name, _ in clips).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{KEY} has several clips named {name}; rename all but one")
    return dict(clips)
