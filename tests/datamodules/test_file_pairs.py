from pathlib import Path

from datamodules.file_pairs import match_pairs, stem_of


def test_files_match_by_what_their_names_have_in_common() -> None:
    found = match_pairs(
        ["b_low.png", "a_low.jpg"], ["a_high.png", "b_high.png"], Path("x"), lambda name: name.split("_")[0]
    )
    assert found == [("a_low.jpg", "a_high.png"), ("b_low.png", "b_high.png")]
    assert stem_of("deep/a.b.wav") == "deep/a.b"
