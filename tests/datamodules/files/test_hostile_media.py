"""Malicious images, recordings, raw images and videos, and named pipes in place of such files."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch
from PIL import Image

from datamodules.classification.cifar import decode_parquet
from datamodules.corruptions.operators.inpainting import MaskFolder
from datamodules.editing.folder_sets import MaskedPhotographs
from datamodules.files.array_pickle import read_pickled_arrays, read_torch_arrays
from datamodules.files.audio_files import UnreadableRecording, read_recording
from datamodules.files.bayer import read_raw
from datamodules.files.image_files import Crop, UnreadableImage, WholeImage, read_crop
from datamodules.files.mat_files import read_mat
from datamodules.files.pixels import read_pixels
from datamodules.files.video_files import UnreadableVideo, facts_of
from datamodules.loading import Loading
from datamodules.normals.folder_sets import read_normals, size_of
from datamodules.prompts.noise_pair_files import read_pair
from datamodules.prompts.text_tables import entries
from datamodules.restoration.noisy_folder import RawFolder
from datamodules.segmentation.folder_sets import read_image
from datamodules.segmentation.folder_sets import read_square_mask as read_resized_mask
from datamodules.segmentation.mask_files import read_mask
from datamodules.segmentation.segthor import read_slice
from datamodules.speech.speech_pairs import SpeechPairs
from datamodules.video.folder_sets import numbered_frames


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def image_bomb(path: Path, side: int = 100_000) -> Path:
    """Write a PNG file of one kilobyte whose header claims 10^10 pixels."""
    header = struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b""))
    return path


IMAGES: dict[str, Callable[[Path], object]] = {
    "crop": lambda path: read_crop(path, Crop(8, 8), None),
    "pixels": read_pixels,
    "mask": read_mask,
    "image": lambda path: read_image(path, WholeImage(8), 3),
    "resized mask": lambda path: read_resized_mask(path, 8),
    "slice": read_slice,
    "size": size_of,
    "normals": read_normals,
}


@pytest.mark.parametrize("reader", IMAGES)
def test_an_image_bomb_is_one_sentence_to_every_reader(reader: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"a\.png cannot be read as .*replace"):
        IMAGES[reader](image_bomb(tmp_path / "a.png"))


def test_an_image_bomb_is_no_mask(tmp_path: Path) -> None:
    image_bomb(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match=r"a\.png cannot be read as a mask"):
        MaskFolder(str(tmp_path)).mask(torch.tensor([0]), (8, 8))


OTHERS: dict[str, Callable[[Path], object]] = {
    "recording": lambda path: read_recording(path, 16_000),
    "raw": read_raw,
    "video": facts_of,
    "mat": lambda path: read_mat(path, "X"),
    "pickle": read_pickled_arrays,
    "labels": read_torch_arrays,
    "pair": read_pair,
    "texts": lambda path: list(entries(path)),
    "array": lambda path: read_normals(path.rename(path.with_suffix(".npy"))),
}


@pytest.mark.parametrize("reader", [*IMAGES, *OTHERS])
def test_a_pipe_is_refused_and_not_waited_for(reader: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz" if reader in ("raw", "pair") else tmp_path / "a.png")
    [path] = tmp_path.iterdir()
    with pytest.raises((ValueError, OSError), match=r"is not a regular file|does not exist"):
        ({**IMAGES, **OTHERS})[reader](path)


def test_a_pipe_among_frames_and_photographs_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "00000000.png")
    with pytest.raises(ValueError, match=r"00000000\.png is not a regular file"):
        numbered_frames(tmp_path)
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    os.mkfifo(tmp_path / "set" / "images" / "a.png")
    Image.new("L", (8, 8)).save(tmp_path / "set" / "masks" / "a.png")
    with pytest.raises(UnreadableImage, match=r"a\.png is not a regular file"):
        MaskedPhotographs(str(tmp_path / "set"), 8).training(0)


def raw(path: Path, **changed: object) -> Path:
    np.savez(path, **{"bayer": np.full((4, 4), 9, np.uint16), "black": 1, "white": 10, "pattern": "RGGB", **changed})
    return path


@pytest.mark.parametrize(
    "changed",
    [{"black": 70_000, "white": 80_000}, {"white": 10**30}, {"black": 0.5}, {"black": np.nan}, {"black": [1, 2]},
     {"bayer": np.zeros((0, 4), np.uint16)}, {"pattern": "XYZW"}, {"bayer": np.zeros((4, 4))}],
    ids=str,
)  # fmt: skip
def test_levels_that_16_bits_cannot_have_are_refused(changed: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.npz"):
        read_raw(raw(tmp_path / "a.npz", **changed))
    raw(tmp_path / "b.npz")
    assert len(RawFolder(str(tmp_path)).unreadable) == 1  # the others are restored


def flac_of(samples: int, path: Path) -> Path:
    """Return a FLAC file whose header claims a different number of samples."""
    soundfile.write(path, 0.1 * np.ones(1600), 16_000)
    content = bytearray(path.read_bytes())
    content[21] = (content[21] & 0xF0) | (samples >> 32)  # 36 bits, after 20 bits of sample rate, 3 and 5
    content[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(content)
    return path


def test_a_recording_that_claims_2_to_the_36_samples_is_refused(tmp_path: Path) -> None:
    path = flac_of(2**36 - 1, tmp_path / "a.flac")
    with pytest.raises(UnreadableRecording, match=r"a\.flac cannot be read: it unpacks to 274877906940 bytes"):
        read_recording(path, 16_000)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_recording_with_a_value_that_is_not_finite_is_refused(value: float, tmp_path: Path) -> None:
    signal = np.full(100, 0.1)
    signal[7] = value
    soundfile.write(tmp_path / "a.wav", signal, 16_000, subtype="FLOAT")
    with pytest.raises(UnreadableRecording, match=rf"a\.wav has the value {value} at sample 7"):
        read_recording(tmp_path / "a.wav", 16_000)


@pytest.mark.parametrize("content", [b"", b"torn", bytes(1000), b"\x1aE\xdf\xa3" + bytes(100)])
def test_a_video_of_other_content_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mkv").write_bytes(content)
    with pytest.raises(UnreadableVideo, match=r"a\.mkv"):
        facts_of(tmp_path / "a.mkv")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_slice_and_a_pair_of_noise_hold_finite_numbers(value: float, tmp_path: Path) -> None:
    array = np.zeros((1, 2, 4, 4), np.float32)
    array[0, 0, 1, 1] = value
    np.save(tmp_path / "a.npy", array[0, 0])
    with pytest.raises(UnreadableImage, match=r"a\.npy cannot be read as a slice"):
        read_slice(tmp_path / "a.npy")
    np.savez(tmp_path / "1_2.npz", array, array)
    with pytest.raises(ValueError, match=r"1_2\.npz is not a noise pair: .* not finite"):
        read_pair(tmp_path / "1_2.npz")


def test_a_table_of_images_that_declares_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    image = {"bytes": b"x", "path": "a"}
    rows = pyarrow.table({"img": [image] * 200_000, "label": np.zeros(200_000, np.int64)})
    pyarrow.parquet.write_table(rows, tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(ValueError, match=r"a\.parquet is damaged .*declares 200000 images, but has only \d+ bytes"):
        decode_parquet([tmp_path / "a.parquet"], "img", "label")


def test_a_million_loader_processes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_workers must be in \[0, \d+\], got 1000000"):
        SpeechPairs(loading=Loading(num_workers=1_000_000))
    assert Loading(num_workers=64).num_workers == 64
