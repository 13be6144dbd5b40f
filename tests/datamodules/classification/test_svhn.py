from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from datamodules.classification.svhn import SVHN


def write_svhn(folder: Path, split: str, number: int) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(number).integers(256, size=(32, 32, 3, number), dtype=np.uint8)
    label = (np.arange(number) % 10 + 1)[:, None].astype(np.uint8)  # 1 ... 10
    savemat(folder / f"{split}_32x32.mat", {"X": image, "y": label})
    return image


@pytest.mark.parametrize("folder", ["", "svhn"])
def test_svhn_is_read_as_torchvision_reads_it(folder: str, tmp_path: Path) -> None:
    image = write_svhn(tmp_path / folder, "test", 12)
    write_svhn(tmp_path / folder, "train", 20)
    data = SVHN(str(tmp_path))
    source = data.test()
    assert source.image.shape == (12, 3, 32, 32)
    assert source.label.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    np.testing.assert_array_equal(source.image[5].numpy().transpose(1, 2, 0), image[..., 5])
    assert len(data.training().label) == 20
