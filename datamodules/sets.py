"""The interface of data sets that are read split by split, of labelled images and of images with masks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar


class Source:
    """The samples of one split, wherever they are kept."""

    in_memory = False
    """Whether a sample is fetched so quickly that loader processes would not help."""
    unreadable: dict[int, str] | None = None
    """Rows of files that could not be read, each with a sentence that says why; None where one of them ends the run."""


OneSource = TypeVar("OneSource", bound=Source)


class SplitSet(ABC, Generic[OneSource]):
    """A data set: a plain object that reads its splits, and knows nothing of batches."""

    num_classes: int
    class_names: Sequence[str] | None = None  # of which a set whose files tell them may know only after reading

    def fetch_missing(self) -> None:
        """Download what is missing, if that was asked for. One process of a machine calls it."""

    @abstractmethod
    def training(self) -> OneSource:
        """Read the training samples, before any is held out; an error says what is missing or damaged, and where."""

    def validation(self) -> OneSource | None:
        """Read the validation samples of a set that has its own."""
        return None

    @abstractmethod
    def test(self) -> OneSource:
        """Read the test samples with their true labels."""
