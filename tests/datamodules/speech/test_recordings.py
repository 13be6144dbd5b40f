import numpy as np
import torch

from datamodules.speech.recordings import CropStore


def test_crops_lie_in_their_recordings_and_short_ones_have_zeros_around() -> None:
    whole = [np.arange(1, 21, dtype=np.int16), np.arange(101, 104, dtype=np.int16), np.arange(201, 206, dtype=np.int16)]
    store = CropStore(whole, 5)
    uniform = torch.tensor([0.0, 0.999999, 0.5, 0.7, 0.2])
    found = store.crop(torch.tensor([0, 0, 0, 1, 2]), uniform)
    assert found[0].tolist() == [1, 2, 3, 4, 5]
    assert found[1].tolist() == [16, 17, 18, 19, 20]
    assert found[2].tolist() == [9, 10, 11, 12, 13]
    assert found[3].tolist() == [0, 101, 102, 103, 0]
    assert found[4].tolist() == [201, 202, 203, 204, 205]
