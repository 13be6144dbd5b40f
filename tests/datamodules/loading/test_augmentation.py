import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor
from torchvision.transforms import functional as transforms

from datamodules.loading.augmentation import crop_and_flip, sample_uniform

WORD = 1 << 64
GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(state: int) -> int:
    """Output of the generator in a state, in Python's integers (Steele, Lea and Flood, OOPSLA 2014)."""
    z = (state + GOLDEN) % WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


def reference_uniform(seed: int, epoch: int, index: int, count: int, stream: int) -> list[float]:
    """The definition without tensors: key from (seed, epoch, stream), state from the sample, then a sequence."""
    key = 0
    for word in (seed, epoch, stream):
        key = splitmix64(key ^ (word % WORD))
    state = splitmix64((index + key) % WORD)
    return [(splitmix64((state + k * GOLDEN) % WORD) >> 40) / 2**24 for k in range(1, count + 1)]


def test_the_generator_gives_the_published_sequence() -> None:
    """The first outputs of splitmix64 from state 1234567, which implementations of it are checked against."""
    outputs = [splitmix64((1234567 + k * GOLDEN) % WORD) for k in range(5)]
    assert outputs == [
        *(6457827717110365317, 3203168211198807973, 9817491932198370423),
        *(4593380528125082431, 16408922859458223821),
    ]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 10**6),
    st.lists(st.integers(0, 2**40), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_uniform_numbers_are_those_of_big_integers(
    seed: int, epoch: int, index: list[int], count: int, stream: int
) -> None:
    found = sample_uniform(seed, epoch, torch.tensor(index), count, stream)
    assert found.dtype == torch.float32
    assert found.tolist() == [reference_uniform(seed, epoch, each, count, stream) for each in index]


def test_uniform_numbers_are_uniform_and_independent() -> None:
    """Over samples, over visits of one sample, over the numbers of a sample, over seeds and over streams."""
    samples = sample_uniform(0, 0, torch.arange(20_000), count=3)
    one = torch.tensor([17])
    visits = torch.cat([sample_uniform(0, epoch, one, count=3) for epoch in range(3000)])
    seeds = torch.cat([sample_uniform(seed, 0, one, count=3) for seed in range(3000)])
    for numbers in (samples, visits, seeds):
        assert kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.01
        correlation = torch.corrcoef(numbers.T)[~torch.eye(3, dtype=torch.bool)]
        assert correlation.abs().max() < 4 / len(numbers) ** 0.5
    other_stream = sample_uniform(0, 0, torch.arange(20_000), count=3, stream=1)
    next_visit = sample_uniform(0, 1, torch.arange(20_000), count=3)
    pairs = torch.stack([each[:, 0] for each in (samples, other_stream, next_visit, samples.roll(1, dims=0))])
    assert torch.corrcoef(pairs)[~torch.eye(4, dtype=torch.bool)].abs().max() < 4 / 20_000**0.5
    assert samples.min() >= 0
    assert samples.max() < 1


def images(count: int, size: int = 32, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crops_are_torchvisions_at_the_same_place(padding: int, dtype: torch.dtype) -> None:
    image = images(200, size=8).to(dtype)
    uniform = sample_uniform(1, 0, torch.arange(200), count=3)
    found = crop_and_flip(image, uniform, padding)
    for one, (row, column, mirror), got in zip(image, uniform.tolist(), found, strict=True):
        padded = transforms.pad(one, [padding])
        expected = transforms.crop(padded, int(row * (2 * padding + 1)), int(column * (2 * padding + 1)), 8, 8)
        expected = transforms.hflip(expected) if mirror < 0.5 else expected
        assert torch.equal(got, expected)
    assert found.dtype == dtype


def test_images_need_not_be_square_and_mirroring_can_be_off() -> None:
    image = images(5)[:, :1, :6, :9]
    uniform = torch.tensor([[0.0, 0.0, 0.0], [0.999, 0.999, 0.0], [0.5, 0.5, 0.0], [0.0, 0.999, 0.9], [0.4, 0.0, 0.1]])
    found = crop_and_flip(image, uniform, padding=2, flip=False)
    assert found.shape == image.shape
    assert torch.equal(found[2], image[2])
    assert torch.equal(found[0, :, 2:, 2:], image[0, :, :-2, :-2])
    assert not found[0, :, :2].any()
    assert torch.equal(found[1, :, :-2, :-2], image[1, :, 2:, 2:])
