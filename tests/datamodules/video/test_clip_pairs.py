"""Windows of clips and whole clips: keys, positions, order and world sizes."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule

from datamodules.corruptions.clip_degradation import Chain, RandomNoise, ResizeToEnd
from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.video.clip_pairs import ClipPairs, append_reversed, flip_frames
from datamodules.video.clips import ArrayFrames, Clips, ClipSet, WindowSampling
from datamodules.video.drawn_noise import DrawnNoise
from datamodules.video.moving_photographs import MovingPhotographs
from tests.grouped import grouped
from tests.trainers import quiet

HALVED = Chain([ResizeToEnd(["area"])], scale=2)
NOISY = Chain([ResizeToEnd(["area"]), RandomNoise()], scale=2)


class Numbered(ClipSet):
    """Three clips whose pixels encode clip, frame, row and column; `pairs` adds reduced versions of the clips."""

    channels = 3
    scale = 2

    def __init__(self, pairs: bool = False, frames: int = 5, side: int = 8) -> None:
        self.pairs = pairs
        self.shape = (frames, side)

    def clips(self, split: Any) -> Clips:
        frames, side = self.shape
        clips = []
        for number in range(3):
            clip = np.zeros((frames, 3, side, side), dtype=np.uint8)
            clip[:, 0] = (10 * number + np.arange(frames))[:, None, None]
            clip[:, 1], clip[:, 2] = np.arange(side)[:, None], np.arange(side)
            clips.append(clip)
        small = [ArrayFrames(clip[..., ::2, ::2]) for clip in clips] if self.pairs else None
        return Clips(["a", "b", "c"], [ArrayFrames(clip) for clip in clips], small, 2, in_memory=True)


def batches(data: ClipPairs, stage: str = "fit", dtype: torch.dtype = torch.float32) -> list[dict[str, Any]]:
    data.trainer = quiet()
    data.trainer.strategy._lightning_module = LightningModule().to(dtype)
    data.setup(stage)
    loader: Any = data.train_dataloader() if stage == "fit" else data.test_dataloader()[0]
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def test_windows_of_both_clips_are_cut_and_turned_alike() -> None:
    data = ClipPairs(Numbered(pairs=True), batch_size=30, windows=WindowSampling(num_frames=2, size=4, per_clip=10))
    [batch] = batches(data)
    assert batch.keys() == {"noisy", "clean", "index", "global_batch_size"}
    assert batch["clean"].shape == (30, 2, 3, 4, 4)
    assert (data.clip_shape, batch["noisy"].shape) == ((2, 3, 2, 2), (30, 2, 3, 2, 2))
    clean, noisy = ((batch[key] * 255).round().long() for key in ("clean", "noisy"))
    number = clean[:, :, 0, 0, 0]
    assert torch.equal(number // 10, (batch["index"] // 10)[:, None].expand(-1, 2))
    assert (number[:, 1] - number[:, 0] == 1).all()
    for row in range(30):
        wanted = {tuple(pixel) for pixel in noisy[row, 0].flatten(1).T.tolist()}
        found = {tuple(pixel) for pixel in clean[row, 0].flatten(1).T.tolist()}
        assert wanted == {pixel for pixel in found if pixel[1] % 2 == pixel[2] % 2 == 0}
    turns = {tuple((one - one.amin(dim=(1, 2), keepdim=True))[1:].flatten().tolist()) for one in clean[:, 0]}
    assert len(turns) == 8


def test_a_clip_goes_on_backwards() -> None:
    data = ClipPairs(
        Numbered(), degradation=HALVED, batch_size=3, windows=WindowSampling(num_frames=3, mirrored=True, size=4)
    )
    [batch] = batches(data)
    assert batch["noisy"].shape == (3, *data.clip_shape) == (3, 6, 3, 2, 2)
    assert torch.equal(batch["clean"], batch["clean"].flip(1))
    assert torch.equal(batch["noisy"][:, 0], batch["noisy"][:, 5])
    np.testing.assert_array_equal(append_reversed(np.arange(3), True), [0, 1, 2, 2, 1, 0])
    square = np.array([[0, 1], [2, 3]])
    np.testing.assert_array_equal(flip_frames(square, np.array([True, False, True])), [[1, 3], [0, 2]])


def test_degraded_clips_follow_from_seed_epoch_and_position_whatever_the_world() -> None:
    data = ClipPairs(
        MovingPhotographs(6),
        degradation=NOISY,
        batch_size=6,
        windows=WindowSampling(num_frames=3, size=16),
        loading=Loading(seed=3),
    )
    [first] = batches(data)
    assert first["noisy"].dtype == torch.float32
    assert torch.equal(first["noisy"].mul(255).round() / 255, first["noisy"])
    order = first["index"].argsort()
    windows = data.train_set
    shares = [windows[Request(torch.tensor(share), 0, 6)] for share in ([4, 0, 2], [1, 3, 5])]
    index = torch.cat([share["index"] for share in shares]).argsort()
    for key in ("noisy", "clean"):
        apart = torch.cat([share[key] for share in shares])[index].float() / 255
        assert torch.equal(apart, first[key][order])
    assert not torch.equal(
        windows[Request(torch.arange(6), 1, 6)]["noisy"], windows[Request(torch.arange(6), 0, 6)]["noisy"]
    )
    other = ClipPairs(
        MovingPhotographs(6),
        degradation=NOISY,
        batch_size=6,
        windows=WindowSampling(num_frames=3, size=16),
        loading=Loading(seed=4),
    )
    assert not torch.equal(batches(other)[0]["noisy"], first["noisy"])


def test_tested_clips_are_whole_or_in_parts_and_alike_for_every_seed() -> None:
    def tested(seed: int, **options: Any) -> list[dict[str, Any]]:
        data = ClipPairs(test=Numbered(side=9), degradation=NOISY, **grouped(ClipPairs, {"seed": seed, **options}))
        return batches(data, "test", torch.float64)

    whole, again = tested(0), tested(1)
    assert [batch["name"] for batch in whole] == [["a"], ["b"], ["c"]]
    assert whole[0]["clean"].shape == (1, 5, 3, 8, 8)  # the last row and column do not form a pixel
    assert whole[0]["noisy"].dtype == torch.float64
    assert all(torch.equal(one["noisy"], other["noisy"]) for one, other in zip(whole, again, strict=True))
    parts = tested(0, evaluation_frames=2, evaluation_batch_size=6)
    assert [(batch["name"], batch["first"]) for batch in parts] == [
        (["a", "a", "b", "b", "c", "c"], [0, 2, 0, 2, 0, 2]),
        (["a", "b", "c"], [4, 4, 4]),
    ]
    clean = torch.cat([parts[0]["clean"][:2].flatten(0, 1), parts[1]["clean"][0]])
    assert torch.equal(clean, whole[0]["clean"][0])


def test_clips_get_noise_of_their_own_and_tested_ones_that_of_another_source() -> None:
    sources = {"noise": DrawnNoise("stripes"), "test_noise": DrawnNoise("waves")}
    sets = {"training": MovingPhotographs(4), "test": MovingPhotographs(1, 3)}
    data = ClipPairs(**sets, degradation=HALVED, **sources, batch_size=4, windows=WindowSampling(num_frames=3, size=16))
    [batch] = batches(data)
    assert batch["noise"].shape == batch["noisy"].shape == (4, 3, 1, 8, 8)
    assert len(batch["noise"].flatten(1).unique(dim=0)) == 4
    tested = batches(data, "test")
    assert [one["noise"].shape for one in tested] == [(1, 4, 1, 16, 16)] * 3
    [again] = batches(
        ClipPairs(**sets, degradation=HALVED, batch_size=4, windows=WindowSampling(num_frames=3, size=16))
    )
    assert torch.equal(again["noisy"], batch["noisy"])  # adding noise does not change the other random numbers
