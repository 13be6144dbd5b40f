"""Tables bundled with scikit-learn. No download is required."""

from typing import Any

import numpy as np
import pandas as pd
import sklearn.datasets

from datamodules.tables.split_table import SplitTable


def in_float64(bunch: Any) -> tuple[pd.DataFrame, pd.Series]:
    """Return the features and the target of a scikit-learn table in float64."""
    return pd.DataFrame(bunch.data, columns=bunch.feature_names, dtype=np.float64), pd.Series(bunch.target)


class Diabetes(SplitTable):
    """Ten measurements of each of 442 diabetes patients. The target is the progression of the disease after a year."""

    num_features = 10

    def read(self) -> tuple[pd.DataFrame, pd.Series]:
        return in_float64(sklearn.datasets.load_diabetes(scaled=False))


class BreastCancer(SplitTable):
    """569 tumours with 30 cell measurements each. The target is 1 for benign and -1 for malignant tumours."""

    num_features = 30
    classes = True

    def read(self) -> tuple[pd.DataFrame, pd.Series]:
        features, benign = in_float64(sklearn.datasets.load_breast_cancer())
        return features, 2 * benign - 1


class Wine(SplitTable):
    """13 measurements of each of 178 wines. The target is the cultivar, 0 to 2."""

    num_features = 13
    classes = True

    def read(self) -> tuple[pd.DataFrame, pd.Series]:
        return in_float64(sklearn.datasets.load_wine())
