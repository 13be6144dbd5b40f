"""Calibrate a camera's noise model from raw flat frames and dark frames.

    python train.py calibrate_camera FRAMES --output camera.yaml
    python train.py fit --config configs/own_data/camera.yaml --data.noise.camera camera.yaml \\
        --data.test_noise.camera camera.yaml

FRAMES contains one folder for each of at least three gains (ISO 800, 1600, 3200, ...). Each folder contains

    dark/             at least two frames without light (lens cap, shortest exposure)
    flat/<level>/     at least two frames of an evenly lit, unfocused surface, for at least two brightness levels

The frames are camera raw files (pip install "noiseworks[raw]") or .npz files with `bayer`, `black`, `white` and
`pattern`. The command prints the gain K and the standard deviations of the noise in dark frames, in digital numbers.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("frames", type=Path, help="folder with one folder of raw frames for each gain")
    parser.add_argument("--output", type=Path, default=Path("camera.yaml"), help="camera file; default: camera.yaml")


def run(options: Namespace) -> int:
    from datamodules.corruptions.image_noise.calibration import calibrate_camera
    from datamodules.corruptions.image_noise.camera import camera
    from datamodules.corruptions.image_noise.frames import read_frames
    from datamodules.files.whole_files import owned_path

    if not options.output.absolute().parent.is_dir():
        raise FileNotFoundError(f"--output {options.output}: its folder does not exist")
    with owned_path(options.output):
        found = read_frames(options.frames)
        measured = calibrate_camera(
            [each for pair in found.recordings.values() for each in pair], found.white - found.black
        )
        if options.output.is_file() and camera(str(options.output)) != measured:
            raise FileExistsError(
                f"{options.output} has other values, perhaps corrected by hand: rename it, or choose another --output"
            )
        measured.save(options.output)
    for name, recordings in found.recordings.items():
        for one in recordings:
            print(f"{name}: K {one.gain:.4g}, noise in the dark {one.gaussian:.4g}, row noise {one.row:.4g}")
    print(f"written: {options.output}")
    return 0
