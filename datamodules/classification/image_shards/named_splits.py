"""Base class of datasets whose training, validation and test splits are selected by arguments."""

from collections.abc import Callable, Mapping

from torch import Tensor

from datamodules.classification.image_sets import ImageSet, ImageSource


class NamedSplits(ImageSet):
    """Labelled images whose splits are selected by arguments.

    Each argument is a pattern of shard paths, or the name of a split of the package `datasets`. A subclass sets
    `num_classes` and `splits`, and implements `read_split`.
    """

    splits: Mapping[str, str | None]
    """The values of the arguments `train`, `validation` and `test`, by name. The value of a missing split is None."""

    def read_split(self, key: str) -> ImageSource:
        """Read the split `train`, `validation` or `test`."""
        raise NotImplementedError

    @property
    def has_test(self) -> bool:
        return self.splits["test"] is not None

    def training(self) -> ImageSource:
        return self.read_split("train")

    def validation(self) -> ImageSource | None:
        return None if self.splits["validation"] is None else self.read_split("validation")

    def test(self) -> ImageSource:
        if not self.has_test:
            raise FileNotFoundError(
                f"{type(self).__name__}: test is null; set it to a split, or hold out a part of the training images: "
                "set data.split.test_fraction, for example to 0.2"
            )
        return self.read_split("test")

    def check_labels(self, label: Tensor, place_of: Callable[[int], str]) -> None:
        """Reject labels that are out of range.

        Args:
            label: labels of a split, `[N]`.
            place_of: function that maps the position of a sample to its description in the error message.
        """
        wrong = (label < 0) | (label >= self.num_classes)
        if wrong.any():
            row = int(wrong.int().argmax())
            raise ValueError(
                f"{place_of(row)} has the label {int(label[row])}, but num_classes {self.num_classes} allows "
                f"0 ... {self.num_classes - 1}"
            )
