from pathlib import Path

import pytest

from datamodules.files.file_pairs import paired, stem_of


def test_files_match_by_what_their_names_have_in_common() -> None:
    found = paired(["b_low.png", "a_low.jpg"], ["a_high.png", "b_high.png"], Path("x"), lambda name: name.split("_")[0])
    assert found == [("a_low.jpg", "a_high.png"), ("b_low.png", "b_high.png")]
    assert stem_of("deep/a.b.wav") == "deep/a.b"


@pytest.mark.parametrize(
    ("noisy", "clean", "message"),
    [
        (["a.wav", "b.wav"], ["a.wav"], "x: b has a reverb recording, no anechoic counterpart; names must agree"),
        (["a.wav"], ["a.wav", "b.wav"], "x: b has an anechoic recording, no reverb counterpart"),
    ],
)
def test_a_file_without_its_other_is_named(noisy: list[str], clean: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired(noisy, clean, Path("x"), kinds=("reverb", "anechoic"), what="recording")
