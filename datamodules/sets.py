"""Interface of datasets that are read one split at a time: labelled images, images with masks, texts and tables."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar


class Source:
    """The samples of one split, in memory or in files."""

    in_memory = False
    """Whether fetching samples is so fast that DataLoader workers would not help."""
    unreadable: dict[int, str] | None = None
    """Why files are unreadable, by row. If this is None, an unreadable file stops the run with an error."""


class FetchedSet:
    """A dataset that may have files to download."""

    def fetch_missing(self) -> None:
        """Download missing files, if requested. This method is called on one rank of each machine; the others wait."""


OneSource = TypeVar("OneSource", bound=Source)


class SplitSet(FetchedSet, ABC, Generic[OneSource]):
    """Interface of datasets. Datasets read their splits, but do not form batches."""

    num_classes: int
    class_names: Sequence[str] | None = None  # if read from files, they may be known only after reading

    @abstractmethod
    def training(self) -> OneSource:
        """Read all training samples, including any held out later. Error messages name missing or damaged files."""

    def validation(self) -> OneSource | None:
        """Read the validation samples. Return None if the dataset has no validation set."""
        return None

    @abstractmethod
    def test(self) -> OneSource:
        """Read the test samples with their true labels."""
