"""The course of training: errors of the trackers against exact derivatives, and its tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.distributed.world import all_reduce_sum
from lightning_modules.interfaces import Table
from lightning_modules.optimization.mbbo.blocks import BlockProblem, Blocks


def tracking_errors(blocks: Blocks, problem: BlockProblem, x: Tensor, z: Tensor, everything: Any) -> dict[str, Tensor]:
    """Measure the distances of s from grad g and of z from grad F at these iterates.

    Args:
        blocks: of this process; every process calls it.
        problem: derivatives.
        x: upper variable, `[n]`.
        z: its tracked gradient, `[n]`.
        everything: all samples of these blocks, as a batch.
    """
    y = blocks.y
    errors = (blocks.s - problem.lower_gradient(x, y, everything)).square().sum(1)
    hessian, right = problem.lower_hessian(x, y, everything), problem.upper_gradient(y, everything)
    solved = torch.linalg.solve_ex(hessian, right)[0]  # positive definite; a check would have the host wait
    exact = -all_reduce_sum(problem.cross_product(x, y, solved, everything)) / blocks.count
    return {"error of s": (all_reduce_sum(errors.sum()) / blocks.count).sqrt(), "error of z": (z - exact).norm()}


def course_tables(history: Sequence[Mapping[str, Tensor]], corrupted: bool) -> dict[str, Table]:
    """Tabulate the objective, errors of trackers and, if any label is false, mean weights of clean and flipped ones.

    Args:
        history: numbers by name, a row after each step.
        corrupted: whether any label is false.
    """
    columns = {name: [row[name].item() for row in history] for name in history[0]}
    weights = {name: columns.pop(f"{name} weight") for name in ("clean", "flipped")}
    made = {"course": Table(columns, logarithmic=[name for name in columns if name.startswith("error")])}
    if corrupted:
        samples = [name for name in weights for _ in history]
        weight = [*weights["clean"], *weights["flipped"]]
        made["weights"] = Table({"iteration": columns["iteration"] * 2, "samples": samples, "mean weight": weight})
    return made
