"""Videos of moving digits that bounce off the frame's borders in random directions (stochastic moving MNIST).

Source: Denton and Fergus, Stochastic Video Generation with a Learned Prior, ICML 2018, arXiv 1802.07687.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from datamodules.arguments import at_least
from datamodules.classification.image_sets import ImageSet, ImageSource
from datamodules.randomness.counter import CounterRNG
from datamodules.sequences.sequence_set import SequenceSet, SequenceSource


def bouncing_places(uniform: Tensor, room: int, max_speed: int) -> Tensor:
    """Compute random paths of objects. At a wall, the velocity of an object is sampled anew.

    Positions and velocities at the start are random. An object that leaves [0, room) along one axis is moved back to
    the wall. Its new velocity is random: between 1 and max_speed along this axis, pointing away from the wall, and
    between -max_speed and max_speed along the other axis. The first axis counts rows, and the second axis counts
    columns.

    Args:
        uniform: uniform numbers in [0, 1), `[N, F, 4]`. The numbers at the first time determine the initial position
            and velocity. Those at later times determine the velocities after bounces.
        room: number of positions along each axis.
        max_speed: largest velocity along an axis, in whole pixels per frame.

    Returns:
        Row and column at each time, `[N, F, 2]`, int64.
    """
    within_room = (uniform[:, 0, :2] * room).long()
    any_way = (uniform * (2 * max_speed + 1)).long() - max_speed
    away = (uniform * max_speed).long() + 1
    place, velocity, places = within_room, any_way[:, 0, 2:], []
    for time in range(uniform.shape[1]):
        for axis in (0, 1) if time else ():
            below, above = place[:, axis] < 0, place[:, axis] >= room
            hit, drawn = below | above, 2 * axis
            normal = torch.where(below, away[:, time, drawn], -away[:, time, drawn])
            redrawn = torch.stack([normal, any_way[:, time, drawn + 1]], dim=1)
            velocity = torch.where(hit[:, None], redrawn if axis == 0 else redrawn.flip(1), velocity)
        place = place.clamp(0, room - 1)
        places.append(place)
        place = place + velocity
    return torch.stack(places, dim=1)


def paste_digits(digit: Tensor, place: Tensor, image_size: int) -> Tensor:
    """Paste digits into black frames. Overlapping values are added and clipped to 255.

    Args:
        digit: images of digits, `[B, n, S, S]`, uint8.
        place: row and column of the top left corner of each digit, `[B, n, F, 2]`.
        image_size: height and width of a frame.

    Returns:
        Videos `[B, F, 1, image_size, image_size]`, uint8.
    """
    size, times = digit.shape[-1], place.shape[2]
    framed = F.pad(digit, (0, 1, 0, 1))[:, :, None].expand(-1, -1, times, -1, -1)  # the added row and column are black
    at = torch.arange(image_size)
    rows, columns = ((at - place[..., axis, None]) for axis in (0, 1))
    rows, columns = (torch.where((inside >= 0) & (inside < size), inside, size) for inside in (rows, columns))
    placed = framed.gather(3, rows[..., None].expand(*rows.shape, size + 1))
    placed = placed.gather(4, columns[..., None, :].expand(*rows.shape, image_size))
    return placed.sum(dim=1, dtype=torch.int64).clamp(max=255).to(torch.uint8)[:, :, None]


class DrawnVideos(SequenceSource):
    """Videos that are generated on access. A video depends only on (seed, split, epoch, position).

    Args:
        law: dataset that defines the distribution of the videos.
        images: digits from which the videos are made.
        count: number of videos.
        stream: index of the split. It selects the random numbers of the split.
    """

    def __init__(self, law: "MovingDigits", images: ImageSource, count: int, stream: int) -> None:
        self.law = law
        self.images = images
        self.count = count
        self.stream = stream

    def __len__(self) -> int:
        return self.count

    def fetch(self, index: Tensor, epoch: int) -> Tensor:
        law = self.law
        numbers = CounterRNG(law.seed or 0, epoch, index, self.stream)
        count = law.num_digits * (1 + 4 * law.num_times)
        uniform = numbers.uniform(torch.empty(len(index), count, dtype=torch.float64))  # float32 may round to 1
        uniform = uniform.unflatten(1, (law.num_digits, -1)).flatten(0, 1)
        chosen = (uniform[:, 0] * len(self.images.label)).long()
        digit = (self.images.fetch(chosen, None).int() * 255 // self.images.data_range).to(torch.uint8)
        digit = resize(digit, [law.digit_size, law.digit_size]).unflatten(0, (-1, law.num_digits))[:, :, 0]
        room = law.image_size - law.digit_size
        place = bouncing_places(uniform[:, 1:].unflatten(1, (-1, 4)), room, law.max_speed)
        return paste_digits(digit, place.unflatten(0, (-1, law.num_digits)), law.image_size)


class MovingDigits(SequenceSet):
    """Videos of digits that move straight until they hit a wall. A frame is the sum of its digits.

    Training videos are made from the training images, and are new in each pass. Test videos are made from the test
    images.

    Args:
        images: dataset of grey images of digits.
        num_digits: number of digits per video.
        image_size: height and width of a frame, in pixels.
        digit_size: height and width to which digits are resized, in pixels.
        max_speed: largest velocity along each axis, in pixels per frame.
        num_times: number of frames of a video.
        interval: time between successive frames.
        num_training: number of training videos per epoch. None means the number of training images.
        num_test: number of test videos. None means the number of test images.
        seed: seed of the videos. None means the seed of the DataModule.
    """

    def __init__(
        self,
        images: ImageSet,
        num_digits: int = 2,
        image_size: int = 64,
        digit_size: int = 32,
        max_speed: int = 4,
        num_times: int = 25,
        interval: float = 0.1,
        num_training: int | None = None,
        num_test: int | None = None,
        seed: int | None = None,
    ) -> None:
        at_least(1, num_digits=num_digits, digit_size=digit_size, max_speed=max_speed)
        at_least(1, num_training=num_training, num_test=num_test)
        at_least(2, num_times=num_times)
        at_least(digit_size + 1, image_size=image_size)
        if images.image_shape[0] != 1:
            raise ValueError(
                f"images must be grey, but those of {type(images).__name__} have {images.image_shape[0]} channels"
            )
        self.images = images
        self.num_digits = num_digits
        self.image_size = image_size
        self.digit_size = digit_size
        self.max_speed = max_speed
        self.shape = (1, image_size, image_size)
        self.num_times = num_times
        self.interval = interval
        self.num_training = num_training
        self.num_test = num_test
        self.seed = seed

    def fetch_missing(self) -> None:
        self.images.fetch_missing()

    def training(self) -> DrawnVideos:
        images = self.images.training()
        return DrawnVideos(self, images, self.num_training or len(images.label), 1000)

    def test(self) -> DrawnVideos:
        images = self.images.test()
        return DrawnVideos(self, images, self.num_test or len(images.label), 2000)
