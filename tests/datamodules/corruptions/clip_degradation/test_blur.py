"""Each frame is blurred with its own kernel; the kernel's parameters follow a random walk from frame to frame."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datamodules.corruptions.clip_degradation.blur import PROBABILITIES, RandomBlur, filter_frames, reflected_indices

CLIP = torch.rand(3, 2, 14, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_frames_are_correlated_with_their_kernels() -> None:
    kernel = torch.rand(3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wide = F.pad(CLIP, (2, 2, 2, 2), mode="reflect")
    one_by_one = [F.conv2d(frame[:, None], each[None, None])[:, 0] for frame, each in zip(wide, kernel, strict=True)]
    torch.testing.assert_close(filter_frames(CLIP, kernel), torch.stack(one_by_one))


def test_lines_are_reflected_as_often_as_needed() -> None:
    assert reflected_indices(4, 2, torch.device("cpu")).tolist() == [2, 1, 0, 1, 2, 3, 2, 1]
    assert reflected_indices(2, 4, torch.device("cpu")).tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert reflected_indices(1, 2, torch.device("cpu")).tolist() == [0] * 5


def test_families_come_as_often_as_they_should_and_walk_little() -> None:
    blur = RandomBlur(kernel_sizes=[11])
    jumps = []
    for seed in range(60):
        kernel = blur.kernels(np.random.default_rng(seed), 5)
        assert kernel.shape == (5, 11, 11)
        torch.testing.assert_close(kernel.sum(dim=(1, 2)), torch.ones(5, dtype=torch.float64))
        jumps.append(float((kernel[1:] - kernel[:-1]).abs().sum(dim=(1, 2)).max()))
    assert 0 < np.median(jumps) < 0.1
    assert np.array_equal(*(blur.kernels(np.random.default_rng(5), 4) for _ in range(2)))
    negative = sum(bool((blur.kernels(np.random.default_rng(seed), 1) < -1e-9).any()) for seed in range(300))
    assert 15 <= negative <= 48  # only sinc filters, a tenth of the kernels, have negative taps


@pytest.mark.parametrize("family", list(PROBABILITIES))
def test_each_family_is_drawn_with_parameters_of_its_own(family: str) -> None:
    blur = RandomBlur({family: 1.0}, kernel_sizes=[9])
    kernel = blur.kernels(np.random.default_rng(2), 3)
    same = torch.isclose(kernel, kernel.transpose(1, 2)).all()
    assert bool(same) == ("aniso" not in family)
    assert not torch.equal(kernel[0], kernel[1])
    mean = filter_frames(CLIP, kernel).mean(dim=(2, 3))
    torch.testing.assert_close(mean, CLIP.mean(dim=(2, 3)), rtol=0.2, atol=0)


def test_clips_are_left_alone_with_the_rest_of_the_probability() -> None:
    blur, end = RandomBlur(probability=0.8), (1, 1)
    kept = sum(torch.equal(blur.apply(CLIP, np.random.default_rng(seed), end), CLIP) for seed in range(200))
    assert 20 <= kept <= 62
