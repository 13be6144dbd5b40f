from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from datamodules.files.png import digest_in_png, write_png
from datamodules.files.whole_files import DamagedFile


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_hold_all_levels_and_the_digest(tmp_path: Path, kind: type, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (channels, 5, 7), kind, endpoint=True)
    path = tmp_path / "folder" / "image.png"
    write_png(path, pixels, "abc123")
    assert torch.equal(decode_image(str(path), ImageReadMode.UNCHANGED).long(), torch.from_numpy(pixels.astype(int)))
    assert digest_in_png(path) == "abc123"
    if kind is np.uint8 or channels == 1:
        assert np.array_equal(np.atleast_3d(np.asarray(Image.open(path))).transpose(2, 0, 1), pixels)


def test_other_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one channel or three here, got 4"):
        write_png(tmp_path / "image.png", np.zeros((4, 2, 2), dtype=np.uint8), "")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_cut_or_changed_anywhere_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    write_png(path, np.random.default_rng(0).integers(0, 256, (3, 5, 7), np.uint8), "abc123")
    whole = path.read_bytes()
    for length in range(len(whole)):
        for cut in (whole[:length], whole[:length] + bytes(len(whole) - length)):
            path.write_bytes(cut)
            with pytest.raises(DamagedFile, match=r"image.png is not a whole PNG file"):
                digest_in_png(path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
        with pytest.raises(DamagedFile):
            digest_in_png(path)


def test_other_programs_read_the_texts(tmp_path: Path) -> None:
    path, texts = tmp_path / "image.png", {"prompt": "größer, \n 狐 " + "x" * 9999, "seed": "3"}
    write_png(path, np.zeros((1, 2, 2), dtype=np.uint8), "abc123", texts)
    with Image.open(path) as image:
        assert image.text == {"hash_of_given": "abc123", **texts}  # type: ignore[attr-defined]
    assert digest_in_png(path) == "abc123"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"seed", b"sead"))
    with pytest.raises(DamagedFile, match="not a whole PNG file"):
        digest_in_png(path)
