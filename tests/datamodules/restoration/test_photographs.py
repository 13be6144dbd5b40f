import numpy as np
import pytest

from datamodules.restoration.photographs import Photographs


@pytest.mark.parametrize("colour", [False, True])
def test_ten_photographs_train_and_three_others_test(colour: bool) -> None:
    photographs = Photographs(image_size=32, colour=colour)
    training, test = photographs.images("training"), photographs.images("test")
    assert (len(training.names), list(test.names)) == (10, ["china", "coffee", "moon"])
    assert not {*training.names} & {*test.names}
    for images in (training, test):
        assert {image.shape for image in images.clean} == {(photographs.channels, 32, 32)}
        assert {image.dtype for image in images.clean} == {np.dtype(np.uint8)}
        assert min(image.std() for image in images.clean) > 3


def test_other_photographs_can_be_tested() -> None:
    photographs = Photographs(8, tested=["moon", "astronaut"])
    assert list(photographs.images("validation").names) == ["astronaut", "moon"]
    assert len(photographs.images("training").names) == 11
    with pytest.raises(ValueError, match=r"tested must be one of astronaut, brick, .*, got 'sun'"):
        Photographs(8, tested=["sun"]).images("test")
