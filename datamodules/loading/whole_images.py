"""Base class of DataModules for training on patches and evaluation on whole images.

The images may have different sizes and come from several datasets.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from datamodules.files.data_directory import Paths
from datamodules.loading.arguments import Loading
from datamodules.loading.one_size_batches import OneSizeBatches
from datamodules.loading.seeded_batches import RequestedSet, SeededBatches


class SizedSet(RequestedSet, Protocol):
    """Dataset of whole images, indexed by a `Request`.

    All images of a request have the same size.
    """

    @property
    def sizes(self) -> Sequence[tuple[int, ...]]:
        """Height and width of each image."""
        ...


class WholeImageSets(SeededBatches):
    """DataModule whose validation, test and prediction batches contain whole images of one size per batch.

    Args:
        training: training dataset. None for a run that only tests or predicts.
        test: test dataset, or a dict of test datasets by name.
        validation: validation dataset. None means no validation.
        predict_dir: folder of images to predict, one file, or a list. None predicts the test images.
        batch_size: global training batch size, over all ranks.
        loading: how batches are read, and the seed.
    """

    def __init__(
        self, training: Any, test: Any, validation: Any, predict_dir: Paths | None, batch_size: int, loading: Loading
    ) -> None:
        super().__init__(batch_size, loading)
        self.evaluation_batch_size = loading.evaluation_batch_size or 1
        self.training = training
        self.tests: Mapping[str, Any] = (
            test if isinstance(test, dict) else {} if test is None else {type(test).__name__: test}
        )
        self.validation = validation
        self.predict_dir = predict_dir
        self.test_sets: dict[str, SizedSet] | None = None

    @abstractmethod
    def whole(self, one: Any, split: Any) -> SizedSet:
        """Read the whole images of a dataset."""

    @abstractmethod
    def new_images(self, folder: Paths) -> SizedSet:
        """Find the images to predict in a folder."""

    @property
    def test_names(self) -> list[str]:
        """Names of the test sets, in the order of the test DataLoaders."""
        return list(self.tests)

    def setup(self, stage: str) -> None:
        _ = self.seed  # fixes the seed, so that later calls of `seed_everything` have no effect
        if stage == "predict" and self.predict_dir is not None:
            self.predict_set = self.predict_set or self.new_images(self.predict_dir)
        elif stage in ("test", "predict"):
            if self.test_sets is None:
                self.set_up_test()
        elif self.train_set is None and self.validation_set is None:
            if self.training is None and stage == "fit":
                raise ValueError("data.training is not given, so there is nothing to train on")
            self.set_up_training()

    def set_up_test(self) -> None:
        if not self.tests:
            raise ValueError("data.test is not given, so there is nothing to test on")
        self.test_sets = {name: self.whole(one, "test") for name, one in self.tests.items()}

    def test_dataloader(self) -> list[DataLoader]:  # type: ignore[override]
        return [self.evaluation_loader(one) for one in self.require_sets(self.test_sets, "test").values()]

    def predict_dataloader(self) -> list[DataLoader]:  # type: ignore[override]
        return self.test_dataloader() if self.predict_set is None else [self.evaluation_loader(self.predict_set)]

    def evaluation_loader(self, samples: Any) -> DataLoader:
        batches = OneSizeBatches(samples.sizes, self.evaluation_batch_size, *self.processes())
        return self._loader(samples, batches)  # type: ignore[arg-type]

    @property
    def pixel_type(self) -> torch.dtype:
        """The dtype of the module, or float32 for modules in half precision, which cannot represent all 256 levels."""
        return torch.promote_types(self.module_dtype, torch.float32)
