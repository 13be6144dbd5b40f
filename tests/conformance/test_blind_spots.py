"""Autocast, gradient scaler, pinned memory, late copies and compiled networks work on the simulated device."""

from pathlib import Path

import pytest

from tests.conformance.on_device import on_device
from tests.conformance.runs import losses, run, written
from tests.conformance.test_simulated_device import SHORT

SPOTS = """
import torch
import torch.nn.functional as F
from tests.conformance import copies, host_syncs, simulated_device
DEVICE = simulated_device.DEVICE

sent = torch.ones(3).pin_memory()
there = sent.to(DEVICE, non_blocking=True)
assert (there + 1).sum().item() == 6  # the host has synchronised
sent.zero_()
assert there.sum().item() == 3
late = torch.ones(3)
there = late.to(DEVICE, non_blocking=True)
late.zero_()
try:
    there.sum().item()
except copies.ChangedTooEarly as error:
    print(error)
else:
    raise AssertionError("a changed tensor was not seen")
back = torch.arange(3, device=DEVICE).double().to("cpu", non_blocking=True)
assert back.isnan().all()
again = back.to(DEVICE, non_blocking=True)  # in the device's order
assert again.tolist() == [0, 1, 2] and back.tolist() == [0, 1, 2]
back = torch.ones((), device=DEVICE).to("cpu", non_blocking=True)
torch.simulated.synchronize()
assert back.item() == 1

loaded = list(torch.utils.data.DataLoader(torch.arange(4.0), batch_size=2, pin_memory=True))
assert all(batch.is_pinned() for batch in loaded) and loaded[1].to(DEVICE, non_blocking=True).tolist() == [2, 3]

layer, x = torch.nn.Linear(3, 2).to(DEVICE), torch.ones(4, 3, device=DEVICE)
for dtype in (torch.float16, torch.bfloat16):
    with torch.autocast(DEVICE.type, dtype=dtype):
        assert layer(x).dtype == (x @ x.T).dtype == dtype
        assert layer(x).softmax(1).dtype == F.mse_loss(layer(x), torch.ones(4, 2, device=DEVICE)).dtype == torch.float32
        assert torch.cat([layer(x), torch.ones(4, 2, device=DEVICE)]).dtype == torch.float32
        assert (x.double() @ x.double().T).dtype == torch.float64
        try:
            F.binary_cross_entropy(x / 2, x)
        except RuntimeError as error:
            assert "unsafe to autocast" in str(error)
        else:
            raise AssertionError("binary cross-entropy in half precision was not refused")
optimizer, scaler = torch.optim.SGD(layer.parameters(), lr=0.1), torch.amp.GradScaler(DEVICE.type, init_scale=1024.0)
before = layer.weight.detach().clone()
for factor in (1.0, float("inf")):  # one step is taken, and one is skipped
    optimizer.zero_grad()
    with torch.autocast(DEVICE.type, dtype=torch.float16):
        loss = layer(x).float().square().mean()
    scaler.scale(loss * factor).backward()
    scaler.step(optimizer)
    scaler.update()
assert scaler.get_scale() == 512
assert not layer.weight.isnan().any() and not torch.equal(layer.weight, before)

seen, square = [], torch.eye(3, device=DEVICE)
simulated_device.BEFORE.append(lambda *operator: seen.append(host_syncs.kind_of(*operator)))
for kind, waits in (
    ("item", lambda: float(square.sum())),
    ("item", lambda: bool(square.any())),
    ("item", lambda: torch.equal(square, square + 1)),
    ("item", lambda: torch.allclose(square, square)),
    ("item", lambda: torch.linalg.eigh(square)),
    ("item", lambda: torch.linalg.eigvalsh(square)),
    ("item", lambda: torch.linalg.svdvals(square)),
    ("item", lambda: torch.linalg.lstsq(square, square)),
    ("item", lambda: torch.linalg.inv(square)),
    ("item", lambda: torch.linalg.cholesky(square)),
    ("nonzero", lambda: square.nonzero()),
    ("nonzero", lambda: square[square > 0]),
    ("nonzero", lambda: square.unique()),
    ("to the host", lambda: square.cpu()),
    ("to the device", lambda: torch.ones(3).to(DEVICE)),
    ("to the device", lambda: square[[0, 1]]),
    (None, lambda: square.masked_fill(square > 0, 2.0) + torch.linalg.cholesky_ex(square)[0] + square.new_ones(3)),
    (None, lambda: torch.ones(3).to(DEVICE, non_blocking=True)),
):
    seen.clear()
    waits()
    counted = {each for each in seen if each}
    assert counted == ({kind} if kind else set()), (kind, counted)
"""


def test_what_the_device_sees() -> None:
    assert "a tensor [3] was changed before its copy" in on_device(("-c", SPOTS))


@pytest.mark.nightly
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("name", ["elr", "adversarial_training", "score_sde", "wta_crs", "ofq", "monna"])
def test_mixed_precision_trains(name: str, precision: str, tmp_path: Path) -> None:
    config = written(name, tmp_path, {**SHORT, "trainer.precision": precision})
    fit = ("fit", "--config", config, "--run_directory", tmp_path / "run")
    if (name, precision) == ("monna", "16-mixed"):
        on_device(fit, fails="trainer.precision 16-mixed scales the loss, but momenta need unscaled gradients")
        return
    on_device(fit)
    assert losses(tmp_path / "run")
    assert all(loss == loss for loss in losses(tmp_path / "run"))


@pytest.mark.nightly
def test_a_compiled_network_trains_on_the_device(tmp_path: Path) -> None:
    """The results equal those on the CPU.

    Dynamo also compiles the Python code of the simulated device. It therefore prints a warning, and no single graph
    covers the whole network.
    """
    run("fit", "--config", written("elr", tmp_path, SHORT), "--run_directory", tmp_path / "plain")
    config = written("elr", tmp_path, {**SHORT, "compile": "eager"})
    on_device(("fit", "--config", config, "--run_directory", tmp_path / "compiled"))
    assert losses(tmp_path / "compiled") == losses(tmp_path / "plain") != []
