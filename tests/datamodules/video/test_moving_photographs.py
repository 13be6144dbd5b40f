import numpy as np

from datamodules.video.moving_photographs import MovingPhotographs, translating_crops


def test_crops_move_straight_and_stay_within_their_image() -> None:
    row, column = np.divmod(np.arange(400), 20)
    images = np.stack([row, column]).reshape(1, 2, 20, 20).astype(np.uint8)
    clips = translating_crops(images, 200, 4, 8, 3, np.random.default_rng(0)).astype(int)
    assert clips.shape == (200, 4, 2, 8, 8)
    corner = clips[:, :, :, 0, 0]
    speed = np.diff(corner, axis=1)
    assert (speed == speed[:, :1]).all()  # straight
    assert np.unique(speed).tolist() == [-3, -2, -1, 0, 1, 2, 3]
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"))
    assert (clips - corner[..., None, None] == grid).all()  # a crop is a part of its image
    assert (corner.min(), corner.max()) == (0, 12)


def test_splits_have_clips_of_their_own() -> None:
    photographs = MovingPhotographs(5, 3, num_frames=2, colour=True, seed=1)
    training, validation, test = (photographs.clips(split) for split in ("training", "validation", "test"))
    assert [len(clips.names) for clips in (training, validation, test)] == [5, 3, 3]
    assert training.stored[0].shape == (2, 3, 32, 32)
    assert not np.array_equal(validation.stored[0].read(0, 2), test.stored[0].read(0, 2))
    again = MovingPhotographs(5, 3, num_frames=2, colour=True, seed=1).clips("test")
    assert np.array_equal(again.stored[2].read(0, 2), test.stored[2].read(0, 2))
