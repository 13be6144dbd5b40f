"""Collectives reject what NCCL rejects, and accept what it accepts."""

from pathlib import Path

import pytest
import yaml

from tests.conformance.on_device import on_device
from tests.conformance.runs import class_path, methods, written
from tests.conformance.settings_matrix import on_page
from tests.conformance.test_simulated_device import SHORT, rest

MIXED = """
import torch
import torch.distributed as dist
from tests.conformance import collectives
collectives.like_nccl()
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
there, here = torch.ones(4, 2, device="simulated:0"), torch.ones(4, 2)
gloo = dist.new_group(backend="gloo")
dist.all_reduce(there)
dist.all_gather([there.clone()], there)
dist.all_reduce(here, group=gloo)
dist.all_gather_object([None], {"any": here})
for mixed in (
    lambda: dist.all_reduce(here),
    lambda: dist.broadcast(here, 0),
    lambda: dist.all_gather([here], there),
    lambda: dist.all_gather([there], here),
    lambda: dist.all_to_all_single(there, here),
    lambda: dist.all_reduce(there.T),
    lambda: dist.all_reduce(there.to(torch.int16)),
    lambda: dist.all_reduce(there.long(), dist.ReduceOp.BOR),
    lambda: dist.all_reduce(here, group=dist.new_group()),
):
    try:
        mixed()
    except collectives.RefusedByNCCL:
        continue
    raise AssertionError("nothing was raised")
assert collectives.REACHED[0] == ("all_reduce", "simulated:0", torch.float32, (4, 2), "nccl"), collectives.REACHED[0]
assert collectives.REACHED[3] == ("all_reduce", "cpu", torch.float32, (4, 2), "gloo"), collectives.REACHED
dist.destroy_process_group()
"""


def test_what_nccl_refuses_is_refused() -> None:
    on_device(("-c", MIXED))


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(methods()))
def test_two_ranks_train_test_and_predict_on_the_device(name: str, tmp_path: Path) -> None:
    method = methods()[name]
    kind = class_path(method).rpartition(".")[-1]
    other = "trainer.strategy must be" in on_page()[kind]["ddp"].said or kind == "NoiseMask"  # tuned at the end
    two = {"trainer.devices": 2, "trainer.strategy": yaml.safe_load(method.strategy) if other else "ddp"}
    config = written(name, tmp_path, {**SHORT, **method.pretrained, **two})
    fit = ("fit", "--config", config, "--run_directory", tmp_path / name)
    if method.alone:
        on_device(fit, ranks=2, fails="run seeds in parallel instead")
    else:
        on_device(fit, *rest(name, tmp_path / name), ranks=2)
