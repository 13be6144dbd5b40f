import numpy as np
from scipy.ndimage import gaussian_filter

from datamodules.normals.degraded import Degraded
from datamodules.normals.height_fields import HeightFields

SURFACES = HeightFields(num_test=3, image_size=12)


def test_images_are_degraded_and_normals_stay() -> None:
    good = SURFACES.source("test")
    image, normal = good.read(1)
    changed = {
        "same": Degraded(SURFACES),
        "dark": Degraded(SURFACES, exposure=0.1),
        "bright": Degraded(SURFACES, exposure=3.0),
        "blurred": Degraded(SURFACES, blur=2.0),
        "compressed": Degraded(SURFACES, jpeg_quality=5),
    }
    seen = {}
    for name, one in changed.items():
        source = one.source("test")
        assert (source.names, source.sizes, source.in_memory) == (good.names, good.sizes, True)
        seen[name], same = source.read(1)
        assert seen[name].dtype == np.uint8
        assert seen[name].shape == image.shape
        assert (same == normal).all()
    assert (seen["same"] == image).all()
    assert np.abs(seen["dark"] - image / 10).max() <= 0.5
    assert (seen["bright"] == np.minimum(3 * image.astype(int), 255)).all()
    blurred = [gaussian_filter(channel.astype(float), 2.0, mode="nearest") for channel in image]
    assert np.abs(seen["blurred"] - blurred).max() <= 0.5
    assert 0 < np.abs(seen["compressed"].astype(int) - image).mean() < 40
