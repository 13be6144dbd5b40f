"""Interface of datasets that are read split by split: labelled images, images with masks, texts and tables."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar


class Source:
    """The samples of one split, wherever they are stored."""

    in_memory = False
    """Whether fetching a sample is so fast that DataLoader workers would not help."""
    unreadable: dict[int, str] | None = None
    """Rows of unreadable files, each with a sentence that gives the reason; None if an unreadable file ends the run."""


OneSource = TypeVar("OneSource", bound=Source)


class SplitSet(ABC, Generic[OneSource]):
    """A dataset: a plain object that reads its splits, independent of batching."""

    num_classes: int
    class_names: Sequence[str] | None = None  # may be known only after reading, if it comes from files

    def fetch_missing(self) -> None:
        """Download missing files, if requested. One rank of each machine calls it."""

    @abstractmethod
    def training(self) -> OneSource:
        """Read all training samples, before any split; error messages name missing or damaged files."""

    def validation(self) -> OneSource | None:
        """Read the validation samples; None if the dataset has none of its own."""
        return None

    @abstractmethod
    def test(self) -> OneSource:
        """Read the test samples with their true labels."""
