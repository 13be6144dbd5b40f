from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.restoration.aid import AID
from tests.datamodules.restoration.test_reduced_images import write


def test_aid_is_chosen_alike_everywhere(tmp_path: Path) -> None:
    names = [f"{kind}/{kind.lower()}_{number}.jpg" for kind in ("Port", "Beach") for number in range(1, 141)]
    chosen = AID().selection(names)
    assert chosen == AID().selection(names[::-1])
    assert [len(chosen[split]) for split in ("training", "test")] == [200, 60]
    assert not set(chosen["training"]) & set(chosen["test"])
    with pytest.raises(ValueError, match="Port has 129 images; 130 of each kind"):
        AID().selection([name for name in names if "Port" in name][:129])
    with pytest.raises(FileNotFoundError, match="AID"):
        AID(str(tmp_path)).images("training")


def test_centres_of_aid_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AID, "trained", 1)
    monkeypatch.setattr(AID, "tested", 1)
    for number in (1, 2):
        (tmp_path / "AID" / "Port").mkdir(parents=True, exist_ok=True)
        write(tmp_path / "AID" / "Port", f"port_{number}.png", 514, 516)
    images = AID(str(tmp_path)).images("training")
    pixels = np.array(Image.open(tmp_path / "AID" / f"{images.names[0]}.png"))
    assert images.clean is not None
    np.testing.assert_array_equal(images.clean[0].transpose(1, 2, 0), pixels[1:513, 2:514])
    write(tmp_path / "AID" / "Port", "port_1.png", 500, 600)
    write(tmp_path / "AID" / "Port", "port_2.png", 500, 600)
    with pytest.raises(ValueError, match="500 x 600 pixels; AID's have 600 x 600"):
        AID(str(tmp_path)).images("test")
