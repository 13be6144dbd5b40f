import numpy as np

from datamodules.classification.digits import Digits
from datamodules.restoration.classified_images import ClassifiedImages


def test_images_are_those_of_the_classification_set() -> None:
    digits = Digits()
    for split, source in (("training", digits.training()), ("validation", digits.test()), ("test", digits.test())):
        images = ClassifiedImages(digits).images(split)  # type: ignore[arg-type]
        assert images.data_range == 16
        assert images.clean is not None
        assert np.array_equal(np.stack(images.clean), source.image.numpy())
        assert len(set(images.names)) == len(source.label)
