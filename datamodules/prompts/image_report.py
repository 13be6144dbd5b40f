"""Report about images with captions before training: sizes, upscaling, cropping, captions and duplicates."""

import hashlib
from collections.abc import Sequence

import numpy as np

from datamodules.prompts.captioned_set import CaptionedRows
from datamodules.prompts.cropped_images import CroppedImages

MOST_NAMES = 3
"""Largest number of images that a row of the report names."""


def report_images(samples: CaptionedRows) -> list[list[str]]:
    """Describe the images of a split in rows of a fact and its value. All files are read, to find equal ones.

    The result is empty if the images are not in files, or are streamed.
    """
    captioned, source = samples.captioned, samples.captioned.source
    if not isinstance(source, CroppedImages) or captioned.lanes is not None:
        return []
    row, count = np.unique(samples.row.numpy(), return_counts=True)
    names = source.names or list(map(str, range(len(source.label))))
    found = []
    for number in np.unique(source.bucket[row]):
        own, (height, width) = source.bucket[row] == number, source.bucket_sizes[number]
        share = f"{own.sum():,} of {len(row):,} images, {count[own].sum():,} of {count.sum():,} samples of an epoch"
        found.append([f"{width} x {height} pixels", share])
    scale, lost = _measure_crops(source)
    enlarged = sorted((each for each in row.tolist() if scale[each] > 1), key=lambda each: -scale[each])
    found.append(["upscaled", list_names([f"{names[each]} by {scale[each]:.2f}" for each in enlarged], len(row))])
    most = max(row.tolist(), key=lambda each: lost[each])
    found.append(["cropped away", f"{lost[row].mean():.1%} of the pixels, most of {names[most]}: {lost[most]:.1%}"])
    digests = [hashlib.sha256(content).hexdigest() for part in source.parts for content in part.source.encoded()]
    first: dict[str, str] = {}
    pairs = {names[each]: first.setdefault(digests[each], names[each]) for each in row.tolist()}
    found.append(["duplicates", list_names([f"{a} = {b}" for a, b in pairs.items() if a != b], len(pairs))])
    if captioned.captions is None:
        return [*found, ["captions", "none"]]
    texts = {names[each]: captioned.captions[each] for each in row.tolist()}
    found.append(["captions", f"{len(set(texts.values())):,} different captions of {len(texts):,} images"])
    return [
        *found,
        ["empty captions", list_names([name for name, text in texts.items() if not text.strip()], len(texts))],
    ]


def _measure_crops(source: CroppedImages) -> tuple[np.ndarray, np.ndarray]:
    """Compute by which factor each image is resized, and which share of the resized image is cropped away."""
    found = []
    for part in source.parts:
        for (height, width), number in zip(part.size.tolist(), part.bucket.tolist(), strict=True):
            crop = part.crops[number]
            across, down = crop.resize_images(width, height)
            found.append((max(across / width, down / height), 1 - crop.width * crop.height / (across * down)))
    scale, lost = np.array(found).T
    return scale, lost


def list_names(names: Sequence[str], total: int) -> str:
    """Return how many images there are among a total, with the first names."""
    more = ", ..." if len(names) > MOST_NAMES else ""
    return f"{len(names):,} of {total:,}" + f": {', '.join(names[:MOST_NAMES])}{more}" * bool(names)
