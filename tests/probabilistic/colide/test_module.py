"""Training of CoLiDE: recovered graphs, reported values, and rejections."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.graphs.linear_sem import LinearSEM
from datamodules.graphs.sachs import Sachs
from datamodules.loading import Loading
from datamodules.tables.table_set import TableSet
from datamodules.tables.tables import Tables
from lightning_modules.probabilistic.colide import CoLiDE
from lightning_modules.probabilistic.colide.path import Schedule
from lightning_modules.probabilistic.colide.recovery import recovery
from tests.trainers import quiet

FAST = Schedule(warm_iterations=2000, iterations=7000, learning_rate=3e-3)


def learned(table: TableSet, directory: Path | None = None, **arguments: Any) -> tuple[CoLiDE, Any, dict[str, float]]:
    """Train and test."""
    module = CoLiDE(**{"nodes": table.row_shapes["features"][0], "schedule": FAST, **arguments})
    data = Tables(table, loading=Loading(passes_per_epoch=50))
    trainer = quiet(max_epochs=4, precision="64-true", **({"default_root_dir": directory} if directory else {}))
    trainer.fit(module, datamodule=data)
    (measured,) = trainer.test(module, datamodule=data, verbose=False)
    return module, trainer, dict(measured)


@pytest.mark.parametrize("variance", [1.0, 4.0])
def test_a_graph_and_its_noise_are_recovered(variance: float, tmp_path: Path) -> None:
    module, trainer, measured = learned(LinearSEM(8, 10, variance=variance, seed=1), tmp_path)
    assert module.path.finished
    assert trainer.current_epoch == 1  # the path ends the training
    assert measured["test/shd"] <= 1
    assert measured["test/tpr"] >= 0.9
    assert measured["test/fdr"] <= 0.1
    assert measured["test/scale_error"] < 0.02
    assert module.sigma.unique().numel() == 1
    path = module.tables["path"].columns
    assert path["iteration"][:2] == [1000, 2000]
    assert path["acyclicity"][-1] < 1e-4
    trainer.predict(module, datamodule=Tables(LinearSEM(8, 10, seed=1)))
    written = np.loadtxt(tmp_path / "graph.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(written, module().numpy())


def test_a_graph_is_estimated_from_a_data_matrix_as_in_training() -> None:
    table = LinearSEM(5, 5, seed=0)
    schedule = Schedule(warm_iterations=1500, iterations=1500, learning_rate=3e-3)
    module, _, _ = learned(table, schedule=schedule)
    alone = CoLiDE(5, schedule=schedule)
    found = alone.estimate_graph(torch.as_tensor(Tables(table).training_rows["features"]))
    assert torch.equal(found, module())
    assert torch.equal(alone.sigma, module.sigma)
    with pytest.raises(ValueError, match=r"model.nodes is 5, but the data have 3 columns"):
        CoLiDE(5).estimate_graph(torch.zeros(9, 3))


def test_pictures_show_weights_and_graphs() -> None:
    module, _, _ = learned(LinearSEM(5, 5, seed=0), schedule=Schedule(warm_iterations=100, iterations=100))
    outputs = {"estimated": module()}
    columns = module.image_columns({"w_true": torch.eye(5).roll(1, dims=1)}, outputs)  # type: ignore[typeddict-item]
    assert list(columns) == ["true weights", "estimate", "graph"]


def test_other_columns_are_named_and_an_unfinished_path_is_told() -> None:
    with pytest.raises(ValueError, match=r"model.nodes is 4, but the data have 5 columns"):
        learned(LinearSEM(5, 5), nodes=4)
    with pytest.warns(
        UserWarning, match="training ended in stage 1 of 4 of CoLiDE's path: increase trainer.max_epochs"
    ):
        learned(LinearSEM(5, 5), iterations_per_step=5)


@pytest.mark.data
@pytest.mark.parametrize(("variant", "shd"), [("ev", 13), ("nv", 12), ("ls", 16)])
def test_the_consensus_graph_of_sachs(variant: Any, shd: int) -> None:
    if "NOISEWORKS_DATA" not in os.environ:
        pytest.skip("NOISEWORKS_DATA is not set")
    table = Sachs()
    module, _, measured = learned(table, variant=variant, schedule=Schedule())
    assert measured["test/shd"] == shd
    assert recovery(module() != 0, table.test().truth["w_true"] != 0).shd == shd
