"""An order of an epoch for images that are read in groups, as from streamed shards."""

import numpy as np
from numpy.typing import NDArray


def order_in_lanes(group: NDArray[np.int64], lanes: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Shuffle the images of an epoch so that consecutive images are in few row groups.

    Args:
        group: row group of each image, `[N]`.
        lanes: number of row groups from which images are mixed.
        random: generator of the order.

    Returns:
        Positions of all images, `[N]`. As long as no lane has ended, the image at place j is from lane j modulo
        `lanes`. A lane is a sequence of random row groups, each of them shuffled.
    """
    order = np.argsort(group, kind="stable")
    _, first = np.unique(group[order], return_index=True)
    groups = np.split(order, first[1:])
    queue = [random.permutation(groups[each]) for each in random.permutation(len(groups))]
    sequences = [np.concatenate(queue[lane::lanes]) for lane in range(min(lanes, len(queue)))]
    place = np.concatenate([np.arange(len(each)) for each in sequences])
    return np.concatenate(sequences)[np.argsort(place, kind="stable")]
