from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.corruptions.image_noise import CounterRNG, Gaussian
from datamodules.loading import Loading
from datamodules.randomness.counter import sample_uniform
from datamodules.restoration.image_pairs import ImagePairs, Patches, flipped_and_transposed
from datamodules.restoration.images import Images, PairSet, PatchSampling, Split
from tests.datamodules.recorder import Recorder
from tests.trainers import quiet

RANDOM = np.random.default_rng(0)
SIZES = ((20, 31), (25, 17), (20, 31), (16, 16))
CLEAN = [RANDOM.integers(0, 256, (1, *size), dtype=np.uint8) for size in SIZES]
NOISY = [RANDOM.integers(0, 256, (1, *size), dtype=np.uint8) for size in SIZES]


class Few(PairSet):
    """Four images of three sizes."""

    channels = 1

    def __init__(self, noisy: Sequence[np.ndarray] | None = None, data_range: int = 255) -> None:
        self.noisy, self.data_range = noisy, data_range

    def images(self, split: Split) -> Images:
        return Images("abcd", CLEAN, self.noisy, self.data_range)


def patches(data: ImagePairs, epochs: int = 1) -> list[dict[str, Any]]:
    module = Recorder()
    quiet(max_epochs=epochs).fit(module, data)
    return module.trained


def whole_images(data: ImagePairs) -> list[tuple[int, dict[str, Any]]]:
    module = Recorder()
    quiet().test(module, data)
    return list(zip(module.loaders, module.evaluated, strict=True))


def at(index: int, epoch: int = 0, size: int = 8) -> np.ndarray:
    """Cut the patch of a sample with plain indexing."""
    image = CLEAN[index // 3][0]
    row, column, *_ = sample_uniform(0, epoch, torch.tensor([index]), 2)[0].tolist()
    top, left = int(row * (image.shape[0] - size + 1)), int(column * (image.shape[1] - size + 1))
    return image[top : top + size, left : left + size]


def test_patches_lie_in_their_images_are_flipped_and_then_made_noisy() -> None:
    data = ImagePairs(Few(), noise=Gaussian(25), batch_size=5, patches=PatchSampling(size=8, per_image=3))
    batches = patches(data, epochs=2)
    assert [len(batch["index"]) for batch in batches] == [5, 5, 2] * 2
    for number, batch in enumerate(batches):
        epoch = number // 3
        for place, index in enumerate(batch["index"].tolist()):
            one = torch.tensor([index])
            ways = sample_uniform(0, epoch, one, 3, stream=1)
            stored = torch.from_numpy(at(index, epoch).copy())[None, None]
            clean = flipped_and_transposed(stored, ways).float() / 255
            torch.testing.assert_close(batch["clean"][place], clean[0], rtol=0, atol=0)
            noisy = Gaussian(25).sample(clean, CounterRNG(0, epoch, one))
            torch.testing.assert_close(batch["noisy"][place], noisy[0], rtol=0, atol=1e-6)


def test_fixed_noise_belongs_to_the_image_and_fresh_noise_to_the_visit() -> None:
    options: Any = {"noise": Gaussian(25), "batch_size": 4, "patches": PatchSampling(16, augmentation=False)}
    data = ImagePairs(Few(), noise_samples="fixed", **options)
    kept = [{int(b["index"][row]): (b["noisy"] - b["clean"])[row] for row in range(4)} for b in patches(data, 2)]
    fresh = [
        {int(b["index"][row]): (b["noisy"] - b["clean"])[row] for row in range(4)}
        for b in patches(ImagePairs(Few(), **options), 2)
    ]
    assert torch.equal(kept[0][3], kept[1][3])  # its patch is the whole image
    assert not torch.equal(fresh[0][3], fresh[1][3])
    assert abs(float(torch.stack([*kept[0].values()]).std()) - 25 / 255) < 0.01


def test_a_second_noisy_image_is_of_the_same_patch_with_noise_of_its_own() -> None:
    settings: dict[str, Any] = {"noise": Gaussian(25), "batch_size": 6, "patches": PatchSampling(8, per_image=3)}
    [*batches] = patches(ImagePairs(Few(), noise_samples="two", **settings))
    first, second = (torch.cat([batch[key] - batch["clean"] for batch in batches]) for key in ("noisy", "second_noisy"))
    assert float(second.std()) == pytest.approx(25 / 255, rel=0.1)
    assert abs(float((first * second).mean() / (first.std() * second.std()))) < 0.1
    without = patches(ImagePairs(Few(), **settings))
    assert "second_noisy" not in without[0]
    assert torch.equal(without[0]["noisy"], batches[0]["noisy"])


def test_images_too_large_for_the_device_are_cut_on_the_host_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"noise": Gaussian(25), "batch_size": 6, "patches": PatchSampling(8, per_image=3)}
    for fixed in (True, False):
        data = ImagePairs(Few(), noise_samples="fixed" if fixed else "new", **settings)
        on_device = patches(data)
        with monkeypatch.context() as patch:
            patch.setattr("datamodules.restoration.image_pairs.room", lambda device: 100)
            on_host = patches(small := ImagePairs(Few(), noise_samples="fixed" if fixed else "new", **settings))
        for one, other in ((data, True), (small, False)):
            assert isinstance(one.train_set, Patches)
            assert one.train_set.on_device is other
        for one, other in zip(on_device, on_host, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in ("noisy", "clean", "index"))


def test_the_eight_ways_are_equally_frequent() -> None:
    corner = torch.arange(4.0).view(1, 1, 2, 2).expand(4000, 1, 2, 2)
    ways = flipped_and_transposed(corner, sample_uniform(0, 0, torch.arange(4000), 3, stream=1)).flatten(1)
    different, count = ways.unique(dim=0, return_counts=True)
    assert len(different) == 8
    assert float((count - 500).abs().max()) < 100
    stored = corner[:8].to(torch.uint16)  # PyTorch cannot flip this dtype
    uniform = torch.rand(8, 3)
    assert torch.equal(flipped_and_transposed(stored, uniform).float(), flipped_and_transposed(corner[:8], uniform))


def test_patches_tell_the_level_of_their_noise_where_it_is_a_range() -> None:
    [*batches] = patches(
        ImagePairs(Few(), noise=Gaussian((5, 50)), batch_size=6, patches=PatchSampling(size=16, per_image=3))
    )
    for batch in batches:
        deviation = (batch["noisy"] - batch["clean"]).std(dim=(1, 2, 3)) * 255
        torch.testing.assert_close(deviation, batch["noise_level"].flatten(), rtol=0.25, atol=0)
    assert (
        "noise_level"
        not in patches(ImagePairs(Few(), noise=Gaussian(25), batch_size=4, patches=PatchSampling(size=16)))[0]
    )


def test_test_images_have_the_noise_of_the_published_tables() -> None:
    """As in the test scripts of KAIR, the generator is seeded with the same seed for each image."""
    data = ImagePairs(test={"first": Few(), "second": Few()}, noise=Gaussian((5, 50)), test_noise=Gaussian(50))
    batches = whole_images(data)
    assert data.test_names == ["first", "second"]
    assert [number for number, _ in batches] == [0] * 4 + [1] * 4
    for _, batch in batches:
        image = np.float32(CLEAN[int(batch["index"])][0, ..., None] / 255.0)
        np.random.seed(seed=0)  # noqa: NPY002
        image += np.random.normal(0, 50 / 255.0, image.shape)  # noqa: NPY002
        assert batch["noisy"].dtype == torch.float32
        np.testing.assert_array_equal(batch["noisy"][0, 0].numpy(), image[..., 0])
        assert batch["name"] == ["abcd"[int(batch["index"])]]
        assert batch["data_range"] == 255


@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_test_image_has_a_level_of_its_own_where_noise_is_a_range(batch_size: int) -> None:
    data = ImagePairs(test=Few(), noise=Gaussian((20, 55)), loading=Loading(evaluation_batch_size=batch_size))
    level = {}
    for _, batch in whole_images(data):
        for index, noisy in zip(batch["index"].tolist(), batch["noisy"][:, 0].numpy(), strict=True):
            field = np.random.RandomState(0).standard_normal(noisy.shape)  # the noise of the tables, for a single level
            level[index] = float((noisy * 255 - CLEAN[index][0]).ravel() @ field.ravel() / (field**2).sum())
    place = CounterRNG(0, 0, torch.arange(4)).uniform(torch.empty(4, 1, 1, 1).double()).flatten().tolist()
    expected = [20 * (55 / 20) ** one for one in place]  # log-uniform, from seed 0 and the position
    assert [level[index] for index in range(4)] == pytest.approx(expected, rel=1e-4)
    assert len({round(one) for one in expected}) == 4


def test_real_pairs_keep_their_own_noise() -> None:
    data = ImagePairs(
        Few(NOISY), Few(NOISY, data_range=510), batch_size=4, patches=PatchSampling(size=16, augmentation=False)
    )
    flipped = ImagePairs(Few(NOISY), batch_size=4, patches=PatchSampling(size=16))
    (batch,), (other,) = patches(data), patches(flipped)
    ways = sample_uniform(0, 0, batch["index"], 3, stream=1)
    for key in ("noisy", "clean"):
        assert torch.equal(other[key], flipped_and_transposed(batch[key], ways))
    [row] = (batch["index"] == 3).nonzero()[0]
    torch.testing.assert_close(batch["noisy"][row], torch.from_numpy(NOISY[3]) / 255.0)
    torch.testing.assert_close(batch["clean"][row], torch.from_numpy(CLEAN[3]) / 255.0)
    torch.testing.assert_close(whole_images(data)[3][1]["noisy"][0], torch.from_numpy(NOISY[3]) / 510.0)
