"""The LightningModule of CoLiDE-EV, CoLiDE-NV and the least-squares baseline."""

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of
from datamodules.batches import GraphBatch
from datamodules.files.whole_files import write_text
from lightning_modules.full_precision import require_double
from lightning_modules.interfaces import ImageColumn, Table
from lightning_modules.method_module import MethodModule
from lightning_modules.probabilistic.colide.baselines import GOLEM, NOTEARS
from lightning_modules.probabilistic.colide.path import RegularizationPath, Schedule
from lightning_modules.probabilistic.colide.pictures import drawn_graph, heat
from lightning_modules.probabilistic.colide.recovery import recovery, to_dag
from lightning_modules.probabilistic.colide.score import Variant, covariance
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.iterations import OwnUpdates, iterate
from lightning_modules.training.logging import log_same, log_training
from lightning_modules.training.requirements import require_all_rows, require_one_process

LEGEND = "reversed: orange, too many: red, missing: grey"
COLUMNS = ("iteration", "objective", "acyclicity", "mean noise scale")


class CoLiDE(MethodModule):
    """Learn a linear directed acyclic graph and its noise scales from observations of its nodes.

    Args:
        nodes: number of nodes d of the graph.
        variant: `ev` estimates one noise scale for all nodes, `nv` estimates one scale for each node, and `ls` is least
            squares without noise scales (DAGMA).
        penalty: weight lambda of the L1 penalty on W.
        schedule: stages of the optimisation, their lengths and their learning rate.
        threshold: edges with absolute weights up to this value are removed after the last stage.
        iterations_per_step: number of iterations per training step; each training step logs once.
        solver: baseline that estimates the graph instead of CoLiDE; None selects CoLiDE. If a baseline is set, only the
            arguments `nodes`, `threshold` and `iterations_per_step` are used.

    Examples:
        >>> from lightning_modules.probabilistic.colide.path import Schedule
        >>> first, noise = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> model = CoLiDE(nodes=2, schedule=Schedule(warm_iterations=2000, iterations=2000, learning_rate=3e-3))
        >>> model.estimate_graph(torch.stack([first, 2 * first + noise], dim=1)).round().tolist()
        [[0.0, 2.0], [0.0, 0.0]]
    """

    sigma: Tensor

    def __init__(
        self,
        nodes: int,
        variant: Variant = "ev",
        penalty: float = 0.05,
        schedule: Schedule = Schedule(),
        threshold: float = 0.3,
        iterations_per_step: int = 1000,
        solver: NOTEARS | GOLEM | None = None,
    ) -> None:
        super().__init__()
        one_of(("ev", "nv", "ls"), variant=variant)
        at_least(0, penalty=penalty, threshold=threshold)
        at_least(1, nodes=nodes, iterations_per_step=iterations_per_step)
        self.automatic_optimization = False
        self.nodes = nodes
        self.threshold = threshold
        self.iterations_per_step = iterations_per_step
        self.path = solver or RegularizationPath(nodes, variant, penalty, schedule)
        self.weight = nn.Parameter(torch.zeros(nodes, nodes, dtype=torch.float64))
        self.register_buffer("sigma", torch.ones(nodes, dtype=torch.float64))
        self.history: list[list[float]] = []

    def setup(self, stage: str) -> None:
        require_double(self.trainer, "CoLiDE")
        require_one_process(self.trainer, "CoLiDE")
        require_all_rows(self.trainer, "CoLiDE")

    @torch.no_grad()
    def training_step(self, batch: GraphBatch, batch_idx: int) -> dict[str, Tensor]:
        self._observe(batch["features"])
        iterate(self, self.iterations_per_step, self.path.iterate)
        self._keep()
        objective = self.path.value()
        self.history.append([objective, self.path.acyclicity(), float(self.sigma.mean())])
        self.trainer.should_stop |= self.path.finished
        return {"loss": log_training(self, batch, torch.tensor(objective, device=self.device, dtype=torch.float64))}

    @evaluate_without_gradients
    def estimate_graph(self, features: Tensor) -> Tensor:
        """Estimate the weights of the acyclic graph, `[d, d]` in float64, from observations `[n, d]`.

        A second call continues from the result of the first, so use a new module for new data. The noise scales are
        then in `sigma`. The computation runs on the CPU; the result is on the module's device.
        """
        self._observe(features.double())
        while not self.path.finished:
            self.path.iterate()
        self._keep()
        return self()

    def _observe(self, features: Tensor) -> None:
        if features.shape[1] != self.nodes:
            raise ValueError(f"model.nodes is {self.nodes}, but the data have {features.shape[1]} columns")
        self.path.observe(covariance(features.cpu().numpy()))

    def _keep(self) -> None:
        self.weight.copy_(torch.from_numpy(self.path.weight))
        self.sigma.copy_(torch.from_numpy(self.path.sigma))

    def on_train_end(self) -> None:
        if not self.path.finished:
            rank_zero_warn(
                f"training ended in {self.path.progress}: increase trainer.max_epochs, "
                f"data.loading.passes_per_epoch or model.iterations_per_step"
            )

    def forward(self) -> Tensor:
        """Return the weights of the estimated acyclic graph, `[d, d]`."""
        return to_dag(self.weight.detach(), self.threshold)

    def test_step(self, batch: GraphBatch, batch_idx: int) -> dict[str, Tensor]:
        estimated = self()
        log_same(self, "test/edges", (estimated != 0).sum().double())
        if "w_true" in batch:
            true = batch["w_true"]
            for name, value in recovery(estimated != 0, true != 0)._asdict().items():
                log_same(self, f"test/{name}", value)
            log_same(self, "test/weight_error", (self.weight - true).norm() / true.norm())
        if "noise_std" in batch:
            log_same(self, "test/scale_error", ((self.sigma - batch["noise_std"]).abs() / batch["noise_std"]).mean())
        return {"estimated": estimated}

    def predict_step(self, batch: GraphBatch, batch_idx: int) -> Tensor:
        """Return the estimated graph, and write it to `graph.csv` in the run directory.

        Entry (i, j) is the weight of the edge from node i to node j.
        """
        estimated = self()
        if self.trainer.log_dir is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            text = pd.DataFrame(estimated.cpu().numpy()).to_csv(index=False)
            write_text(FilePath(self.trainer.log_dir, "graph.csv"), text)
        return estimated

    @property
    def tables(self) -> Mapping[str, Table]:
        """Return a table of the training progress.

        The columns contain the objective, the acyclicity and the mean noise scale after each training step.
        """
        if not self.history:
            return {}
        iteration = [(number + 1) * self.iterations_per_step for number in range(len(self.history))]
        columns = dict(zip(COLUMNS, [iteration, *zip(*self.history, strict=True)], strict=True))
        return {"path": Table(columns, logarithmic=["acyclicity"])}

    def image_columns(self, batch: GraphBatch, outputs: Any) -> Mapping[str, Tensor | ImageColumn]:
        """Show the true and the estimated weights, and draw the estimated graph over the true graph."""
        estimated = outputs["estimated"]
        true = batch.get("w_true", estimated)
        largest = true.abs().max()
        found = recovery(estimated != 0, true != 0)
        return {
            "true weights": heat(true, largest),
            "estimate": ImageColumn(heat(self.weight.detach(), largest), [f"SHD {found.shd}"]),
            "graph": ImageColumn(drawn_graph(estimated != 0, true != 0), [LEGEND]),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"path": self.path.state_dict(), "history": self.history}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.path.load_state_dict(checkpoint["path"])
        self.history = checkpoint["history"]

    def configure_optimizers(self) -> OwnUpdates:
        return OwnUpdates(self.parameters())
