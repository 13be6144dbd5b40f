from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.restoration import aid
from datamodules.restoration.aid import AID, AIDThumbnails, selection
from tests.datamodules.restoration.test_reduced_images import write

IMAGES = {"Airport": 360, "BareLand": 310, "BaseballField": 220, "Church": 240, "Pond": 420, "Viaduct": 420}
"""Number of images in some classes."""


def test_a_hundred_images_of_each_kind_are_trained_on_and_thirty_others_tested_on() -> None:
    chosen = selection()
    assert {split: len(names) for split, names in chosen.items()} == {"training": 3000, "test": 900}
    assert len({name for names in chosen.values() for name in names}) == 3900
    for split, count in (("training", 100), ("test", 30)):
        kinds = [name.split("/")[0] for name in chosen[split]]
        assert {kinds.count(kind) for kind in kinds} == {count}
        assert len(set(kinds)) == 30
    for kind, images in IMAGES.items():
        own = {f"{kind}/{kind.lower()}_{number}.jpg" for number in range(1, images + 1)}
        assert {name for names in chosen.values() for name in names if name.startswith(f"{kind}/")} <= own


def test_centres_of_the_listed_images_are_read_and_what_is_missing_or_small_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "list.yaml"
    small.write_text("training: {Port: [2]}\ntest: {Port: [1, 3]}\n")
    monkeypatch.setattr(aid, "LIST", small)
    folder = tmp_path / "AID" / "Port"
    folder.mkdir(parents=True)
    for number in (1, 2):
        write(folder, f"port_{number}.jpg", 514, 516)
    images = AID(str(tmp_path)).images("training")
    assert images.names == ["Port/port_2"]
    pixels = np.array(Image.open(folder / "port_2.jpg"))
    np.testing.assert_array_equal(images.clean[0].transpose(1, 2, 0), pixels[1:513, 2:514])
    with pytest.raises(FileNotFoundError, match=r"AID: .*port_3.jpg does not exist, and 1 of 2 images are missing"):
        AID(str(tmp_path)).images("test")
    write(folder, "port_3.jpg", 500, 600)
    with pytest.raises(ValueError, match=r"port_3.jpg has 500 x 600 pixels; images of AID have 600 x 600"):
        AID(str(tmp_path)).images("validation")


def test_three_thumbnails_of_each_kind_are_trained_on_and_the_fourth_is_tested_on(tmp_path: Path) -> None:
    for kind in ("Port", "Pond"):
        (folder := tmp_path / "remote_sensing" / "aid_150" / kind).mkdir(parents=True)
        for number in range(1, 5):
            write(folder, f"{kind.lower()}_{number}.jpg", 10, 10)
    assert AIDThumbnails(str(tmp_path)).images("test").names == ["Pond/pond_4", "Port/port_4"]
    training = AIDThumbnails(str(tmp_path)).images("training")
    assert training.names == [f"{kind}/{kind.lower()}_{number}" for kind in ("Pond", "Port") for number in (1, 2, 3)]
    assert (
        training.stored[3]
        == np.array(Image.open(tmp_path / "remote_sensing/aid_150/Port/port_1.jpg")).transpose(2, 0, 1)
    ).all()
    with pytest.raises(FileNotFoundError, match=r"AIDThumbnails: .*aid_150 is not a folder"):
        AIDThumbnails(str(tmp_path / "remote_sensing")).images("test")
