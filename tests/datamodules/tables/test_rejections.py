from pathlib import Path
from typing import Any

import pytest

from datamodules.classification.digits import Digits
from datamodules.corruptions.value_noise import ConstantFlips
from datamodules.tables.depleted_sign import DepletedSign
from datamodules.tables.feature_noise import FeatureNoise
from datamodules.tables.halfspaces import Halfspaces
from datamodules.tables.ill_conditioned_map import IllConditionedMap
from datamodules.tables.low_rank_measurements import LowRankMeasurements
from datamodules.tables.planar_densities import TwoMoons
from datamodules.tables.ratings import MovieLens
from datamodules.tables.singular_distributions import Circle
from datamodules.tables.streams import DriftingClasses, LinearLosses, StagedRegression
from datamodules.tables.tables import Tables
from datamodules.tables.trusted_rows import TrustedRows
from datamodules.tables.uci import UCI
from tests.datamodules.tables.test_ratings import written
from tests.datamodules.tables.test_signed_images import digits
from tests.datamodules.tables.test_split_table import Numbers
from tests.datamodules.tables.test_svmlight import written as written_of_svmlight
from tests.datamodules.tables.test_tables import Lines, fitted
from tests.datamodules.tables.test_trusted_rows import cancer
from tests.datamodules.tables.test_uci import ROWS
from tests.datamodules.tables.test_uci import written as written_of_uci
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("DepletedSign num_points", lambda _: DepletedSign(num_points=0), ValueError, "num_points must be at least"),
    ("DepletedSign dim", lambda _: DepletedSign(num_points=10, dim=1), ValueError, "dim must be at least"),
    ("DepletedSign depletion", lambda _: DepletedSign(num_points=10, depletion=-0.5), ValueError,
     "depletion must be at least"),
    ("DepletedSign num_test", lambda _: DepletedSign(num_points=10, num_test=0), ValueError,
     "num_test must be at least"),
    ("FeatureNoise num_points", lambda _: FeatureNoise(num_points=0), ValueError, "num_points must be at least 1"),
    ("FeatureNoise num_weak", lambda _: FeatureNoise(num_weak=17), ValueError,
     r"num_weak must be in \[0, 16\], got 17"),
    ("FeatureNoise num_weak_test", lambda _: FeatureNoise(num_test=10, num_weak_test=11), ValueError,
     r"num_weak_test must be in \[0, 10\]"),
    ("FeatureNoise dim", lambda _: FeatureNoise(dim=2), ValueError, "dim must be at least 3"),
    ("FeatureNoise weak_norm", lambda _: FeatureNoise(weak_norm=0.0), ValueError, "weak_norm must be positive"),
    ("FeatureNoise noise_std", lambda _: FeatureNoise(noise_std=-0.1), ValueError, "noise_std must be at least 0"),
    ("FeatureNoise replicas", lambda _: FeatureNoise(replicas=0), ValueError, "replicas must be at least 1"),
    ("Halfspaces dim", lambda _: Halfspaces(ConstantFlips(), dim=1), ValueError, "dim"),
    ("Halfspaces samples", lambda _: Halfspaces(ConstantFlips(), samples=1), ValueError, "samples"),
    ("Halfspaces marginal", lambda _: Halfspaces(ConstantFlips(), marginal="cauchy"), ValueError, "marginal"),
    ("Halfspaces test_samples", lambda _: Halfspaces(ConstantFlips(), test_samples=0), ValueError, "test_samples"),
    ("IllConditionedMap least", lambda _: IllConditionedMap(least=0.0), ValueError, "least must be in"),
    ("IllConditionedMap outputs", lambda _: IllConditionedMap(outputs=1), ValueError, "outputs must be at least 2"),
    ("LowRankMeasurements eigenvalues 1", lambda _: LowRankMeasurements(dim=2, eigenvalues=[1.0] * 3), ValueError,
     "number_of_eigenvalues must be in"),
    ("LowRankMeasurements eigenvalues 2", lambda _: LowRankMeasurements(eigenvalues=[1.0, 0.0]), ValueError,
     "eigenvalues must be positive, got 0.0"),
    ("LowRankMeasurements measurements", lambda _: LowRankMeasurements(measurements=0), ValueError,
     "measurements must be at least 1"),
    ("TwoMoons samples", lambda _: TwoMoons(samples=0), ValueError, "samples"),
    ("training 1", lambda root: written(root, "u.data", "1\t2\t0\t5\n").training(), ValueError,
     "has a rating of 0; ratings must be positive"),
    ("training 2", lambda root: written(root, "u.data", "1\t2\tx\t5\n").training(), ValueError,
     "column rating of .* contains text: 'x'"),
    ("training 3", lambda root: written(root, "u.data", "1\t2\t3\t5\n").training(), ValueError,
     "no user has at least min_ratings = 3 ratings"),
    ("MovieLens data_dir", lambda root: MovieLens("ml-1m", data_dir=str(root)).training(), FileNotFoundError,
     r"ml-1m has none of u.data, ratings.dat, ratings.csv: download ml-1m.zip"),
    ("training 4", lambda _: digits(num_points=0).training(), ValueError, "num_points must be at least 1"),
    ("training 5", lambda _: digits(positive=[]).training(), ValueError,
     r"positive must list some but not all of the classes 0...9, got \[\]"),
    ("training 6", lambda _: digits(positive=list(range(10))).training(), ValueError,
     "positive must list some but not all"),
    ("training 7", lambda _: digits(positive=[10]).training(), ValueError, "positive must list some but not all"),
    ("training 8", lambda _: digits(num_test=898).training(), ValueError,
     "num_points 900 plus num_test 898 exceed the 1797 images of Digits"),
    ("Circle samples", lambda _: Circle(samples=0), ValueError, "samples"),
    ("Circle noise_std", lambda _: Circle(noise_std=-0.1), ValueError, "noise_std"),
    ("Circle test_samples", lambda _: Circle(test_samples=1501), ValueError, "test_samples"),
    ("Numbers test_fraction 1", lambda _: Numbers(test_fraction=0).training(), ValueError,
     r"test_fraction must be in \(0, 1\), got 0"),
    ("Numbers train_size 1", lambda _: Numbers(train_size=1).training(), ValueError,
     "train_size must be at least 2, got 1"),
    ("Numbers test_fraction 2", lambda _: Numbers(validation_fraction=0.5, test_fraction=0.5).training(), ValueError,
     "sum_of_fractions must be in"),
    ("Numbers train_size 2", lambda _: Numbers(train_size=33).training(), ValueError,
     "train_size 33 .* does not fit 40 rows: 4 are for testing, 4 for validation and 32 remain for training"),
    ("Numbers validation_fraction", lambda _: Numbers(validation_fraction=0.01).training(), ValueError,
     "does not fit 40 rows: 4 are for testing, 0 for validation"),
    ("LinearLosses dim", lambda _: LinearLosses(dim=1), ValueError, "dim must be at least 2"),
    ("LinearLosses sigma", lambda _: LinearLosses(sigma=-1), ValueError, "sigma must be at least 0"),
    ("LinearLosses drift", lambda _: LinearLosses(drift="walks"), ValueError,
     "drift must be one of turns, jumps, signs, got 'walks'"),
    ("StagedRegression stages", lambda _: StagedRegression(stages=0), ValueError, "stages must be at least 1"),
    ("DriftingClasses", lambda _: DriftingClasses(Digits(), 0), ValueError, "rounds must be at least 1"),
    ("training 9", lambda root: written_of_svmlight(root, "1 1:1\n1 2:1\n").training(), ValueError,
     "must have two labels, .*got 1: 1"),
    ("training 10", lambda root: written_of_svmlight(root, "1 1:1\n2 2:1\n3 2:1\n").training(), ValueError,
     "must have two labels, .*1, 2, 3"),
    ("Tables batch_size", lambda _: Tables(Lines(), batch_size=0), ValueError, "batch_size must be at least 1"),
    ("Tables passes_per_epoch", lambda _: Tables(Lines(), passes_per_epoch=0), ValueError, "passes_per_epoch"),
    ("Tables", lambda _: fitted(Tables(Lines()), overfit_batches=1), ValueError,
     "overfit_batches is not supported, since Tables"),
    ("TrustedRows trusted_size", lambda _: TrustedRows(cancer(), train_size=0, trusted_size=100), ValueError,
     "train_size must be at least 1"),
    ("TrustedRows flipped", lambda _: TrustedRows(cancer(), train_size=300, trusted_size=100, flipped=1.1), ValueError,
     "flipped must be in"),
    ("TrustedRows kept_positives",
     lambda _: TrustedRows(cancer(), train_size=300, trusted_size=100, kept_positives=0.0), ValueError,
     "kept_positives must be in"),
    ("TrustedRows seed", lambda _: TrustedRows(cancer(), 400, 163, seed=0).training(), ValueError,
     "leave none of the 563 rows of BreastCancer to test with"),
    ("training 11", lambda root: written_of_uci(root, data=ROWS.replace("\t16 ", "\tmany ")).training(), ValueError,
     "UCI: column 1 of .*data.txt contains text: 'many'"),
    ("training 12", lambda root: written_of_uci(root, data=ROWS.replace("\t16 ", "\tnan ")).training(), ValueError,
     "UCI: column 1 of .* lacks a value in row 5"),
    ("training 13", lambda root: written_of_uci(root, data=ROWS + "1 2 3\n").training(), ValueError,
     "UCI: column 3 of .* lacks a value in row 21"),
    ("training 14", lambda root: written_of_uci(root, data=ROWS + "1 2 3 4 5\n").training(), ValueError,
     "UCI: .*data.txt is not a readable table"),
    ("training 15", lambda root: written_of_uci(root, data="").training(), ValueError,
     "UCI: .*data.txt is not a readable table"),
    ("training 16", lambda root: written_of_uci(root, features="0\n2\n").training(), ValueError,
     "UCI's training rows: column 2 is constant, 5 in every row"),
    ("training 17", lambda root: written_of_uci(root, target="4\n").training(), ValueError,
     r"must have one target column .* 4 columns in total; got features \[0, 1\] and target \[4\]"),
    ("training 18", lambda root: written_of_uci(root, target="1\n").training(), ValueError,
     "must have one target column"),
    ("UCI", lambda root: UCI("yacht", str(root)).training(), FileNotFoundError,
     r"UCI: .*uci/yacht/data.txt does not exist; set data_dir"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
