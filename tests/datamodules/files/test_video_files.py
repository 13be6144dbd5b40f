"""Videos are written and read back."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.files.video_files import UnreadableVideo, decode_frames, encode_frames, facts_of, require_encoder

FRAMES = np.stack([np.full((32, 48, 3), 20 * number, dtype=np.uint8) for number in range(7)])


def test_a_video_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    encode_frames(path, FRAMES, rate=12.5, options={"crf": "4"})
    facts = facts_of(path)
    assert (facts.height, facts.width, facts.rate, len(facts.times)) == (32, 48, 12.5, 7)
    np.testing.assert_allclose(decode_frames(path, "a").astype(int), FRAMES, atol=4)
    for first in range(7):
        part = decode_frames(path, "a", start=facts.times[first], count=3)
        assert np.array_equal(part, decode_frames(path, "a")[first : first + 3])
    grey = decode_frames(path, "a", grey=True)
    assert grey.shape == (7, 32, 48, 1)
    with pytest.raises(UnreadableVideo, match="a has no frame that can be decoded"):
        decode_frames(path, "a", start=facts.times[-1] + 1)


def test_what_is_no_video_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing of the kind" * 50)
    with pytest.raises(UnreadableVideo, match=r"bad\.mp4 cannot be read as a video"):
        facts_of(tmp_path / "bad.mp4")
    with pytest.raises(UnreadableVideo, match="bad cannot be read as a video"):
        decode_frames(tmp_path / "bad.mp4", "bad")
    with pytest.raises(ValueError, match="needs frames of even height and width, got 31 x 48"):
        encode_frames(tmp_path / "odd.mp4", FRAMES[:, 1:], rate=1)
    with pytest.raises(ValueError, match="cannot encode with the codec none such"):
        require_encoder("none such")


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'noiseworks\[video\]'"):
        facts_of(Path("a.mp4"))
