from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.files.file_pairs import paired
from datamodules.files.image_files import ResizedCrop, UnreadableImage
from datamodules.files.limits import whole_numbers
from datamodules.files.number_tables import read_numbers, read_svmlight
from datamodules.files.pixels import read_pixels
from tests.datamodules.files.test_pixels import COLOUR, DEEP, RANDOM, png_of_16_bits
from tests.rejections import Row, rejections


def numbers_in(root: Path, text: str) -> object:
    (root / "table.csv").write_text(text)
    return read_numbers(root / "table.csv", "Cells")


def svmlight_set(root: Path, text: str) -> object:
    (root / "set").write_text(text)
    return read_svmlight(root / "set", "Set", num_features=3)


def pixels_of(root: Path, kind: str, data_range: int | None) -> object:
    path = root / ("a.tif" if kind == "float" else "a.png")
    if kind == "clear of 16 bits":
        png_of_16_bits(path, RANDOM.integers(0, 65536, (5, 4, 4), dtype=np.uint16))
    elif kind == "damaged":
        path.write_bytes(b"\x89PNG")
    else:
        clear = np.dstack([COLOUR, np.arange(20, dtype=np.uint8).reshape(5, 4)])
        pixels = {"deep": DEEP, "colour": COLOUR, "float": DEEP.astype(np.float32), "clear": clear}[kind]
        Image.fromarray(pixels).save(path)
    return read_pixels(path, data_range=data_range)


# fmt: off
REJECTED: list[Row] = [
    ("paired what 1",
     lambda _: paired(["a.wav", "b.wav"], ["a.wav"], Path("x"), kinds=("reverb", "anechoic"), what="recording"),
     ValueError, "x: b has a reverb recording but no anechoic counterpart; their names must agree"),
    ("paired what 2",
     lambda _: paired(["a.wav"], ["a.wav", "b.wav"], Path("x"), kinds=("reverb", "anechoic"), what="recording"),
     ValueError, "x: b has an anechoic recording but no reverb counterpart"),
    ("ResizedCrop 1", lambda _: ResizedCrop(0, 8), ValueError, "image_size"),
    ("ResizedCrop 2", lambda _: ResizedCrop(8, 7), ValueError, "resize"),
    ("ResizedCrop 3", lambda _: ResizedCrop(8, 8, 0.0), ValueError, "min_area"),
    ("ResizedCrop 4", lambda _: ResizedCrop(8, 8, 1.5), ValueError, "min_area"),
    ("whole_numbers 1", lambda _: whole_numbers([0.0, np.nan], 0, 9, Path("a"), "label"), ValueError,
     "a has the label nan at position 1; it must be a whole number in 0 ... 9"),
    ("whole_numbers 2", lambda _: whole_numbers([np.inf, 1.0], 0, 9, Path("a"), "label"), ValueError,
     "the label inf at position 0"),
    ("whole_numbers 3", lambda _: whole_numbers([1.0, 0.5], 0, 9, Path("a"), "label"), ValueError,
     "the label 0.5 at position 1"),
    ("whole_numbers 4", lambda _: whole_numbers([3, 200], 0, 9, Path("a"), "label"), ValueError,
     "the label 200 at position 1"),
    ("whole_numbers 5", lambda _: whole_numbers([3, -1], 0, 9, Path("a"), "label"), ValueError,
     "the label -1 at position 1"),
    ("whole_numbers 6", lambda _: whole_numbers(np.array([2**63], np.uint64), 0, 9, Path("a"), "label"), ValueError,
     "the label 9223372036854775808 at position 0"),
    ("whole_numbers 7", lambda _: whole_numbers([10**30], 0, 9, Path("a"), "label"), ValueError,
     "labels of type object"),
    ("whole_numbers 8", lambda _: whole_numbers(["cat"], 0, 9, Path("a"), "label"), ValueError, "labels of type <U3"),
    ("whole_numbers 9", lambda _: whole_numbers([True, False], 0, 9, Path("a"), "label"), ValueError,
     "labels of type bool"),
    ("whole_numbers 10", lambda _: whole_numbers([1j], 0, 9, Path("a"), "label"), ValueError,
     "labels of type complex128"),
    ("numbers in 1", lambda root: numbers_in(root, "a,b\n1,2\n3,red\n"), ValueError,
     "Cells: .*column b of .* contains text: 'red'"),
    ("numbers in 2", lambda root: numbers_in(root, "a,b\n1,2\n,4\n"), ValueError,
     "Cells: .*column a of .* lacks a value in row 2"),
    ("numbers in 3", lambda root: numbers_in(root, "a,b\n1,inf\n"), ValueError,
     "Cells: .*column b of .* lacks a value in row 1"),
    ("numbers in 4", lambda root: numbers_in(root, "a,b\n"), ValueError, "Cells: .*has no rows"),
    ("svmlight set 1", lambda root: svmlight_set(root, "1 1:2\nyes 2:1\n"), ValueError, "Set: .*not an svmlight file"),
    ("svmlight set 2", lambda root: svmlight_set(root, "1 0:2\n"), ValueError, "Set: .*not an svmlight file.*index 0"),
    ("svmlight set 3", lambda root: svmlight_set(root, "1 1:2\n1 4:1\n"), ValueError,
     "Set: .*num_features is 3, but .* has a column 4"),
    ("svmlight set 4", lambda root: svmlight_set(root, "1 1:2\n1 2:nan\n"), ValueError,
     "Set: .*column 2 of .* not finite"),
    ("svmlight set 5", lambda root: svmlight_set(root, "nan 1:2\n"), ValueError,
     "Set: .*column label of .* lacks a value in row 1"),
    ("svmlight set 6", lambda root: svmlight_set(root, ""), ValueError, "Set: .*has no rows"),
    ("pixels of unknown range 1", lambda root: pixels_of(root, "deep", None), UnreadableImage,
     "a.(png|tif) .*has 16 bits, so its white value is unknown: set data.training.data_range"),
    ("pixels of unknown range 2", lambda root: pixels_of(root, "deep", 1023), UnreadableImage,
     "a.(png|tif) .*has the value .* above data_range 1023"),
    ("pixels of unknown range 3", lambda root: pixels_of(root, "colour", 1023), UnreadableImage,
     "a.(png|tif) .*has 8 bits, but data_range is 1023"),
    ("pixels of unknown range 4", lambda root: pixels_of(root, "float", None), UnreadableImage,
     "a.(png|tif) .*its values are of type F"),
    ("pixels of unknown range 5", lambda root: pixels_of(root, "clear", None), UnreadableImage,
     "a.(png|tif) .*parts of it are transparent"),
    ("pixels of unknown range 6", lambda root: pixels_of(root, "clear of 16 bits", 65535),
     UnreadableImage, "a.(png|tif) .*it has an alpha channel"),
    ("pixels of unknown range 7", lambda root: pixels_of(root, "damaged", None), UnreadableImage,
     "a.(png|tif) .*cannot be read as an image"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
