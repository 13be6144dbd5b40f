import numpy as np
import torch

from datamodules.corruptions.clip_degradation import Chain, RandomNoise, ResizeToEnd
from datamodules.loading.global_batches import Request
from datamodules.video.clips import ArrayFrames, Clips
from datamodules.video.drawn_noise import DrawnNoise
from datamodules.video.whole_clips import WholeClips, random_of


def test_numbers_of_a_clip_are_its_own() -> None:
    drawn = {random_of(*key).random() for key in ((0, 0, 0, 1), (1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 1, 1), (0, 0, 0, 2))}
    assert len(drawn) == 5
    assert random_of(3, 1, 4, 1).random() == random_of(3, 1, 4, 1).random()


def test_parts_have_their_places_degradation_and_noise() -> None:
    clips = Clips(["a"], [ArrayFrames(np.full((5, 1, 10, 12), 99, dtype=np.uint8))])
    chain = Chain([ResizeToEnd(), RandomNoise(poisson=0)], scale=4)
    parts = WholeClips(clips, chain, DrawnNoise(), longest=2)
    assert parts.parts == [(0, 0, 2), (0, 2, 2), (0, 4, 1)]
    batch = parts[Request(torch.tensor([0, 1]), 0, 2)]
    assert (batch["clean"].shape, batch["noisy"].shape) == ((2, 2, 1, 8, 12), (2, 2, 1, 2, 3))
    assert batch["noise"].shape == batch["noisy"].shape
    assert (batch["name"], batch["first"]) == (["a", "a"], [0, 2])
    assert not torch.equal(batch["noisy"][0], batch["noisy"][1])
    assert torch.equal(parts[Request(torch.tensor([1]), 7, 1)]["noisy"][0], batch["noisy"][1])
