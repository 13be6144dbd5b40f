from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.classification.folder_sets import Faces


def test_the_last_images_of_any_subfolder_test(tmp_path: Path) -> None:
    for number in range(5):
        file = tmp_path / "ffhq" / f"{number // 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 50 * number, dtype=np.uint8)).save(file)
    faces = Faces("ffhq", str(tmp_path), image_size=8, num_test=2)
    assert faces.image_shape == (3, 8, 8)
    training, test = faces.training(), faces.test()
    assert training.names == ["0/0.png", "0/1.png", "1/2.png"]
    assert test.names == ["1/3.png", "2/4.png"]
    assert test.fetch(torch.tensor([1]), None).unique().tolist() == [200]
    with pytest.raises(ValueError, match="num_test must be less than the 5 images"):
        Faces("ffhq", str(tmp_path), num_test=5).training()
    with pytest.raises(FileNotFoundError, match=r"data_dir: .*celebahq is not a folder"):
        Faces("celebahq", str(tmp_path)).training()
