"""Hessian eigenvalues of a classifier during training, compared with those of the explicit matrix."""

from typing import Any

import pytest
import torch

from callbacks.curvature import Curvature
from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.baselines import CrossEntropy
from lightning_modules.networks.mlp import MLP
from lightning_modules.training.chosen_samples import drawn_places
from tests.metrics.test_curvature import explicit
from tests.trainers import quiet


def trained(callback: Curvature, epochs: int = 1) -> CrossEntropy:
    torch.manual_seed(0)
    module = CrossEntropy(MLP(64, [2], 10), 10, optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    data = LabelledImages(Digits(train_size=300), batch_size=100)
    quiet(max_epochs=epochs, precision="64-true", callbacks=[callback]).fit(module, datamodule=data)
    return module


def test_the_extreme_eigenvalues_are_those_of_the_explicit_matrix() -> None:
    callback = Curvature(samples=50, steps=60, images_at_once=20)
    module = trained(callback)
    source: Any = Digits(train_size=300).training()
    data = LabelledImages(Digits(train_size=300), batch_size=100)
    data.setup("fit")
    places = drawn_places(data, 50, "Curvature", 0)
    image = source.fetch(places, None).double() / source.data_range
    values = torch.linalg.eigvalsh(explicit(module.network, [(image, source.label[places])]))
    assert callback.rows == [[1, pytest.approx(values[-1].item(), abs=1e-8), pytest.approx(values[0].item(), abs=1e-8)]]


def test_it_measures_every_n_epochs_and_the_last_one() -> None:
    callback = Curvature(every_n_epochs=2, samples=20, steps=4, starts=2)
    trained(callback, 5)
    assert [row[0] for row in callback.rows] == [2, 4, 5]
    assert len(callback.spectra) == 2
    resumed = Curvature()
    resumed.load_state_dict(callback.state_dict())
    assert resumed.rows == callback.rows
