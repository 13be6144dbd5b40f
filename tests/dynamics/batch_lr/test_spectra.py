"""Spectra of batches equal those of explicit Hessians; their summary statistics; which values are saved."""

import math
from statistics import fmean, pvariance
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.drawing.curves import draw_table
from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.dynamics.batch_lr import BatchLR, BatchSpectra
from lightning_modules.dynamics.batch_lr.spectra import MeasuredSpectra, Shift
from lightning_modules.dynamics.batch_lr.theory import NoiseStatistics, effective_batch
from lightning_modules.metrics.lanczos import unit_vector
from lightning_modules.networks.mlp import MLP
from tests.metrics.test_curvature import explicit, matrix_of
from tests.trainers import quiet

SAMPLES = 60
NOISE = NoiseStatistics(0.1, 0.2, 0.3, 0.4)


def measured(**arguments: Any) -> tuple[BatchLR, MeasuredSpectra, Tensor, Tensor]:
    """Train a small network for an epoch; return the module, its measurements, and all samples in order."""
    torch.manual_seed(0)
    spectra = BatchSpectra([10, 30], **{"draws": 3, "steps": 40, "noise_batch": 20, "directions": 150, **arguments})
    net = BatchLR(nn.Sequential(nn.AvgPool2d(4), MLP(4, [3], 10, "tanh")), 10, spectra=spectra)
    data = LabelledImages(Digits(train_size=SAMPLES), batch_size=20)
    quiet(max_epochs=1, precision="64-true").fit(net, datamodule=data)
    places, source = spectra.places(data), Digits(train_size=SAMPLES).training()
    found = net._measured
    assert found is not None
    return net, found, source.fetch(places, None).double() / 16, source.label[places]


def test_eigenvalues_of_all_samples_and_of_batches_are_those_of_explicit_matrices() -> None:
    net, found, image, label = measured()
    values = torch.linalg.eigvalsh(explicit(net.network, [(image, label)]))
    assert found.full == (pytest.approx(float(values[0])), pytest.approx(float(values[-1])))
    spectra: Any = net.spectra
    for least, greatest, size in zip(found.least, found.greatest, (10, 30), strict=True):
        ends = []
        for draw in range(3):
            chosen = torch.randperm(SAMPLES, generator=spectra._generator(size, draw))[:size]
            ends.append(torch.linalg.eigvalsh(explicit(net.network, [(image[chosen], label[chosen])]))[[0, -1]])
        stacked = torch.stack(ends)
        assert [least.value, greatest.value] == pytest.approx(stacked.mean(dim=0).tolist())
        assert greatest.error == pytest.approx(float(stacked[:, 1].std()) / math.sqrt(3))


def test_the_scatter_of_products_is_that_of_explicit_hessians() -> None:
    net, found, image, label = measured()
    parts = [(image[at : at + 20], label[at : at + 20]) for at in (0, 20, 40)]
    noise = torch.stack([explicit(net.network, [part]) for part in parts]) - explicit(net.network, parts)
    z = torch.stack([unit_vector(len(noise[0]), 0, 2, number, like=noise) for number in range(150)])
    scatter = (noise @ z.T).square().sum(dim=1).mean()
    assert found.hessian.variance == pytest.approx(float(scatter))
    frobenius = noise.square().sum(dim=(1, 2)).mean() / len(noise[0])  # P sigma^2 / b, averaged over z
    assert found.row_variance / effective_batch(20, SAMPLES) == pytest.approx(float(frobenius), rel=0.15)
    losses = [F.cross_entropy(net.network(part), own).item() for part, own in parts]
    assert found.loss == pytest.approx((fmean(losses), pvariance(losses)))
    assert found.trace is None


def test_the_trace_of_the_gauss_newton_matrix_gives_its_law() -> None:
    net, found, image, label = measured(matrix="gauss_newton", directions=100)
    explicitly = matrix_of(net.network, [(image, label)], "gauss_newton")
    assert found.size == len(explicitly)
    assert found.trace == pytest.approx(float(explicitly.trace()), rel=0.2)
    assert found.metrics()["covariance_constant"] == pytest.approx(found.trace - found.full[1])
    shown = pd.DataFrame(found.tables()["batch_spectra"].columns)
    curve = shown[shown["eigenvalue"] == "Marchenko-Pastur noise"]["greatest eigenvalue"]
    assert curve.iloc[0] > curve.iloc[-1] > found.full[1]
    assert MeasuredSpectra.restore_state(found.checkpoint_state()) == found


def test_densities_are_of_all_samples_and_of_the_smallest_batches() -> None:
    _, found, _, _ = measured(directions=1)
    density = pd.DataFrame(found.density)
    assert list(density["matrix"].unique()) == ["all samples", "batches of 10"]
    for _, own in density.groupby("matrix"):
        mass = torch.trapezoid(torch.tensor(own["density"].to_numpy()), torch.tensor(own["eigenvalue"].to_numpy()))
        assert float(mass) == pytest.approx(1, abs=1e-3)


def law(exponent: float) -> MeasuredSpectra:
    shifts = [Shift(size, 0.5 + 16 * size**exponent, 0.0) for size in (8, 16, 32, 64, 900)]
    density = {"eigenvalue": [0.0, 1.0], "matrix": ["all samples"] * 2, "density": [1.0, 0.5]}
    return MeasuredSpectra(10_000, (-0.1, 0.5), shifts, shifts, 0.02, NOISE, NOISE, density)


def test_a_law_of_one_over_b_has_the_factor_one_and_its_constant() -> None:
    found = law(-1.0).metrics()
    assert found["shift_factor"] == pytest.approx(1)
    assert found["shift_exponent"] == pytest.approx(-1)
    assert found["fitted_constant"] == pytest.approx(16, rel=0.01)
    assert found["isotropic_constant"] == pytest.approx(0.04)
    assert found["isotropic_share"] == pytest.approx(0.02 / 8 / 0.5 / 2, rel=0.01)
    root = law(-0.5).metrics()
    assert (root["shift_factor"], root["shift_exponent"]) == (pytest.approx((900 / 8) ** 0.5), pytest.approx(-0.5))
    few = law(-1.0)._replace(samples=90 * 10)
    assert [each.batch_size for each in few.small()] == [8, 16, 32, 64]


def test_tables_hold_measurements_and_curves_and_are_drawn() -> None:
    tables = law(-1.0).tables()
    curves = pd.DataFrame(tables["batch_spectra"].columns)
    fitted = curves[curves["eigenvalue"].str.startswith("fitted")]
    assert fitted["greatest eigenvalue"].iloc[0] == pytest.approx(2.5, rel=0.01)
    assert len(curves[curves["eigenvalue"] == "measured"]) == 5
    for table in tables.values():
        draw_table(table)


def test_what_is_kept_is_plain_and_restored() -> None:
    found = law(-1.0)
    assert MeasuredSpectra.restore_state(found.checkpoint_state()) == found
    assert type(found.checkpoint_state()["greatest"][0]) is tuple
