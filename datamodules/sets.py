"""Interface of datasets that are read split by split, such as labelled images, images with masks, texts and tables."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar


class Source:
    """The samples of one split, in memory or in files."""

    in_memory = False
    """Whether fetching a sample is so fast that DataLoader workers would not help."""
    unreadable: dict[int, str] | None = None
    """Rows of unreadable files, each with a sentence that gives the reason; None if an unreadable file ends the run."""


OneSource = TypeVar("OneSource", bound=Source)


class SplitSet(ABC, Generic[OneSource]):
    """Interface of datasets. Datasets read their splits and do no batching."""

    num_classes: int
    class_names: Sequence[str] | None = None  # may be known only after reading, if it comes from files

    def fetch_missing(self) -> None:
        """Download missing files, if requested. One rank of each machine calls this method."""

    @abstractmethod
    def training(self) -> OneSource:
        """Read all training samples, including those held out later. Error messages name missing or damaged files."""

    def validation(self) -> OneSource | None:
        """Read the validation samples. Return None if the dataset has no validation set."""
        return None

    @abstractmethod
    def test(self) -> OneSource:
        """Read the test samples with their true labels."""
