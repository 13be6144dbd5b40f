"""Tables of samples with a target. They are split at random, and standardised with statistics of the training rows."""

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from datamodules.arguments import at_least, within
from datamodules.files.number_tables import refuse_constant
from datamodules.tables.table_set import Rows, TableSet


class SplitTable(TableSet):
    """Base class of tables that are split at random into training, validation and test rows.

    The rows are shuffled. The first ones are for testing, the next ones for validation, and the rest for training.
    Features and real-valued targets are scaled to mean 0 and variance 1 over the training rows. Every batch contains
    the original mean and standard deviation of the target as `target_mean` and `target_std`.

    Args:
        train_size: number of training rows. None means all rows that are not used for validation or testing.
        validation_fraction: fraction of all rows that are used for validation. 0 means no validation.
        test_fraction: fraction of all rows that are used for testing.
        seed: seed of the split; None means the DataModule's seed.
    """

    num_features: int
    classes = False
    """Whether the target is a class. Targets that are classes are not standardised."""

    def __init__(
        self,
        train_size: int | None = None,
        validation_fraction: float = 0.1,
        test_fraction: float = 0.1,
        seed: int | None = None,
    ) -> None:
        at_least(2, train_size=train_size)
        within(0, 1, "[)", validation_fraction=validation_fraction)
        within(0, 1, "()", test_fraction=test_fraction)
        within(0, 1, "[)", sum_of_fractions=validation_fraction + test_fraction)
        self.train_size = train_size
        self.validation_fraction = validation_fraction
        self.test_fraction = test_fraction
        self.seed = seed

    @abstractmethod
    def read(self) -> tuple[pd.DataFrame, pd.Series]:
        """Read the features, `[N, num_features]`, in float64, and the targets, `[N]`."""

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (self.num_features,), "target": ()}

    def training(self) -> Rows:
        return self._split()[0]

    def validation(self) -> Rows | None:
        return self._split()[1] if self.validation_fraction else None

    def test(self) -> Rows:
        return self._split()[2]

    def _split(self) -> tuple[Rows, Rows, Rows]:
        features, target = self.read()
        name, count = type(self).__name__, len(features)
        tested, validated = round(self.test_fraction * count), round(self.validation_fraction * count)
        left = count - tested - validated
        if min(tested, left) < 1 or (self.validation_fraction and not validated) or left < (self.train_size or 0):
            raise ValueError(
                f"{name}: train_size {self.train_size} with validation_fraction {self.validation_fraction} and "
                f"test_fraction {self.test_fraction} does not fit {count} rows: {tested} are for testing, "
                f"{validated} for validation and {left} remain for training"
            )
        order = np.random.default_rng([self.seed or 0, 0]).permutation(count)
        train = order[tested + validated :][: self.train_size]
        kept = features.iloc[train].assign(**{"the target": target.iloc[train]})
        refuse_constant(kept, f"{name}'s training rows")
        inputs = standardize_columns(features.to_numpy(), train)[0]
        truth: dict[str, Tensor] = {}
        if self.classes:
            outputs = torch.tensor(target.to_numpy(np.int64))
        else:
            outputs, mean, std = standardize_columns(target.to_numpy(), train)
            truth = {"target_mean": mean, "target_std": std}

        def rows(places: np.ndarray) -> Rows:
            return Rows({"features": inputs[places], "target": outputs[places]}, truth)

        return rows(train), rows(order[tested : tested + validated]), rows(order[:tested])


def standardize_columns(values: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Scale numbers, `[N, ...]`, to mean 0 and variance 1 over `rows`; also return their mean and deviation."""
    mean, std = values[rows].mean(axis=0), values[rows].std(axis=0)
    return torch.from_numpy((values - mean) / std), torch.as_tensor(mean), torch.as_tensor(std)
