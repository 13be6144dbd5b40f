"""Random linear measurements of a low-rank positive semidefinite matrix. Some measurements have gross errors."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from datamodules.arguments import at_least, positive, within
from datamodules.corruptions.value_noise import ValueNoise
from datamodules.tables.table_set import Rows, TableSet


class LowRankMeasurements(TableSet):
    """Measurements y_i = <A_i, X*> + s_i, where A_i is standard normal and X* = V diag(eigenvalues) V^T.

    The test set equals the training set, because testing only evaluates the estimated matrix.

    Args:
        dim: number d of rows and of columns of X*.
        eigenvalues: nonzero eigenvalues of X*, all positive. The number of eigenvalues is the rank of X*.
        measurements: number m of measurements, which are the rows of the table.
        noise: distribution of the errors s_i. None means that there are no errors.
        seed: seed of X*, A_i and s_i. None means the seed of the DataModule.
    """

    def __init__(
        self,
        dim: int = 20,
        eigenvalues: Sequence[float] = (1.0, 1.0),
        measurements: int = 1600,
        noise: ValueNoise | None = None,
        seed: int | None = None,
    ) -> None:
        at_least(1, dim=dim, measurements=measurements)
        within(1, dim, number_of_eigenvalues=len(eigenvalues))
        positive(eigenvalues=min(eigenvalues))
        self.dim = dim
        self.eigenvalues = eigenvalues
        self.measurements = measurements
        self.noise = noise
        self.seed = seed

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (self.dim, self.dim), "target": (), "clean_target": (), "corrupted": ()}

    def training(self) -> Rows:
        random = np.random.default_rng([self.seed or 0, 0])
        directions, _ = np.linalg.qr(random.standard_normal((self.dim, len(self.eigenvalues))))
        x_star = directions * np.asarray(self.eigenvalues) @ directions.T
        features = random.standard_normal((self.measurements, self.dim, self.dim))
        exact = features.reshape(self.measurements, -1) @ x_star.ravel()
        error = np.zeros(self.measurements) if self.noise is None else self.noise.draw((self.measurements,), random)
        columns = {"features": features, "target": exact + error, "clean_target": exact, "corrupted": error != 0}
        truth = {"x_star": torch.from_numpy(x_star)}
        return Rows({name: torch.from_numpy(column) for name, column in columns.items()}, truth)

    def test(self) -> Rows:
        return self.training()
