"""Shifted test sets: test images of the same classes from other distributions."""

from collections.abc import Mapping

from torch import Tensor

from datamodules.classification.image_sets import ImageSet, ImageSource


def check_labels(label: Tensor, num_classes: int, split: str) -> None:
    """Reject an empty set and labels outside 0 ... `num_classes` - 1.

    Raises:
        ValueError: if the set is empty or a label is out of range. The message names the split.
    """
    if len(label) == 0:
        raise ValueError(f"the {split} set is empty")
    lowest, highest = int(label.min()), int(label.max())
    if lowest < 0 or highest >= num_classes:
        raise ValueError(
            f"labels of the {split} set are in {lowest}...{highest}, but num_classes {num_classes} allows "
            f"only 0...{num_classes - 1}"
        )


def with_checked_labels(source: ImageSource, num_classes: int, split: str) -> ImageSource:
    """Return a source whose labels are checked by `check_labels`."""
    check_labels(source.label, num_classes, split)
    return source


def check_shifted_tests(images: ImageSet, further: Mapping[str, ImageSet]) -> None:
    """Check the lists, folders and labels of all shifted test sets, to report missing data before training.

    Args:
        images: the dataset, which may have shifted test sets of its own.
        further: further datasets with the same classes. Their test images are shifted test sets.

    Raises:
        FileNotFoundError: if a shifted test set is missing. The message names the expected path.
        ValueError: if there are no shifted test sets, or one of them is damaged, has invalid labels or has images of a
            different shape.
    """
    labels = images.shifted_labels() | {name: each.test().label for name, each in further.items()}
    if not labels:
        raise ValueError(f"{type(images).__name__} has no shifted test set")
    for name, label in labels.items():
        check_labels(label, images.num_classes, name)
    for name, each in further.items():
        if tuple(each.image_shape) != tuple(images.image_shape):
            raise ValueError(
                f"ood_test_sets.{name} has images {list(each.image_shape)}, but training images are "
                f"{list(images.image_shape)}"
            )


def shifted_tests(images: ImageSet, further: Mapping[str, ImageSet]) -> dict[str, ImageSource]:
    """Read all shifted test sets, by name, and check their labels; for the arguments, see `check_shifted_tests`."""
    sources = images.ood_test_sets() | {name: each.test() for name, each in further.items()}
    return {name: with_checked_labels(source, images.num_classes, name) for name, source in sources.items()}
