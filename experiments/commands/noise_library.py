"""Extract noise sequences from videos into a library for negative augmentation, and draw a contact sheet.

Each clip is divided into windows. A window is kept if it shows only noise: its content must be nearly constant in space
and time. Clips are folders of frames or video files. Sequences are written to LIBRARY/<clip>_<k>/00000000.png and so
on. For each sequence, contact_sheet.png shows the first, middle and last frame, and the first frame with enhanced
contrast.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONTRAST = 6
"""Factor by which a contrast-enhanced frame multiplies differences from the mean."""
SHOWN = 24
"""Number of sequences on the contact sheet."""
BOUNDS = {
    "size": (64, "side of a window, in pixels"),
    "max_variance": (50.0, "maximal variance of a frame's grey levels"),
    "min_mean": (0.0, "minimal mean of a frame's grey levels"),
    "max_variance_change": (50.0, "maximal variance of the frames' variances"),
    "max_mean_change": (50.0, "maximal variance of the frames' means"),
}
"""Arguments of the test of a window: default, and help."""


def contact_sheet(names: Sequence[str], frames: "NDArray[np.uint8]", path: Path) -> None:
    """Draw the first, middle and last frames of sequences, `[N, 3, C, S, S]`, and write them to an image file."""
    import numpy as np
    import torch

    from callbacks.drawing.image_grid import draw_image_grid
    from datamodules.files.whole_files import save_figure
    from lightning_modules.interfaces import ImageColumn

    chosen = np.linspace(0, len(names) - 1, min(SHOWN, len(names))).round().astype(int)
    pictures = torch.from_numpy(frames[chosen]).float() / 255
    first = pictures[:, 0]
    mean = first.mean(dim=(2, 3), keepdim=True)
    captions = [names[place] for place in chosen]
    columns: dict[str, torch.Tensor | ImageColumn] = {
        "first": ImageColumn(first, captions=captions),
        "middle": pictures[:, 1],
        "last": pictures[:, 2],
        f"first, contrast x{CONTRAST}": 0.5 + CONTRAST * (first - mean),
    }
    title = f"{len(names)} sequences" if len(names) <= SHOWN else f"{SHOWN} of {len(names)} sequences"
    save_figure(draw_image_grid(columns, title=title), path, dpi=120)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("videos", type=Path, help="folder of clips: folders of frames, or video files")
    parser.add_argument("library", type=Path, help="new folder")
    parser.add_argument("--frames", type=int, help="frames per sequence (longer clips are split); default: all")
    for name, (default, about) in BOUNDS.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{about}; default: {default:g}")
    parser.add_argument("--grey", action="store_true", help="write grey frames")


def run(options: Namespace) -> int:
    import numpy as np

    from datamodules.arguments import at_least
    from datamodules.files.whole_files import new_folder
    from datamodules.video.folder_sets import named_clips, open_clip
    from datamodules.video.noise_windows import WindowTest, write_windows

    at_least(1, frames=options.frames)
    test = WindowTest(**{name: getattr(options, name) for name in BOUNDS})
    names: list[str] = []
    shown: list[NDArray[np.uint8]] = []
    with new_folder(options.library, remedy="choose another folder") as library:
        for name, path in named_clips(options.videos, "videos").items():
            before = len(names)
            clip = open_clip(path, 1 if options.grey else 3)
            for folder, frames in write_windows(name, clip, library, test, options.frames):
                names.append(folder.name)
                shown.append(frames)
            said = f"{clip.shape[0]} frames of {clip.shape[2]} x {clip.shape[3]}: {len(names) - before} sequences"
            print(f"{name}: {said}")
        if not names:
            raise ValueError(
                f"no window of {options.size} x {options.size} pixels shows only noise; increase max_variance, or use "
                f"videos with plain surfaces"
            )
        contact_sheet(names, np.stack(shown), library / "contact_sheet.png")
    print(f"{len(names)} sequences are written to {options.library}; contact_sheet.png shows them")
    return 0
