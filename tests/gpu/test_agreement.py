"""Numerical agreement of CPU and GPU: networks, and complete trainings in float64, single and half precision."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.networks.dncnn import DnCNN
from lightning_modules.networks.ncsnpp import NCSNpp
from tests.conformance.attempts import attempt, sentence
from tests.conformance.runs import methods, state, written
from tests.gpu.draws_on_the_host import DrawsOnTheHost
from tests.gpu.place import Place, largest_difference

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "CIFARResNet 20": (lambda: CIFARResNet(20), (3, 32, 32)),
    "DnCNN": (lambda: DnCNN(1), (1, 40, 40)),
    "ViT-Ti/16": (lambda: timm.create_model("vit_tiny_patch16_224", num_classes=10), (3, 224, 224)),
    "NCSN++ of width 32": (lambda: NCSNpp(width=32, num_blocks=1, dropout=0.0), (3, 32, 32)),
}
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Tolerances for outputs and for gradients, relative to the largest absolute value; TF32 is off."""
TRAINED = (
    "elr",
    "cross_entropy",
    "adele",
    "consistency",
    "score_sde",
    "cbsn",
    "wta_crs",
    "lsa",
    "noise2score",
    "monna",
)
TRAINING = 1e-6
"""Tolerance of the whole checkpoint after training in float64, whose steps amplify rounding errors."""


def passes(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Compute outputs and all gradients."""
    level = [torch.linspace(0.1, 0.9, len(image)).to(image)] if isinstance(network, NCSNpp) else []
    output = network(image, *level)
    output.float().square().mean().backward() if output.dtype == torch.bfloat16 else output.square().mean().backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"output": output, **gradients}


@pytest.mark.gpu(minutes=2)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str, dtype: torch.dtype, at: Place) -> None:
    """Numerical agreement of CPU and GPU: outputs and gradients of networks."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    make, shape = NETWORKS[name]
    here = make().to(dtype)
    image = torch.rand(4, *shape).to(dtype)
    there = copy.deepcopy(here).to(at.device)
    difference = largest_difference(passes(here, image), passes(there, image.to(at.device)))
    tolerance = TOLERANCES[dtype]
    label = f"{name}, {str(dtype).removeprefix('torch.')}"
    at.keep(label, f"{difference:.1e}", f"<= {tolerance:g}", difference <= tolerance)


@pytest.mark.gpu(minutes=4)
@pytest.mark.parametrize("name", TRAINED)
def test_training(name: str, at: Place, tmp_path: Path) -> None:
    """Numerical agreement of CPU and GPU: the whole checkpoint of a demo trained in float64.

    Random numbers are drawn on the CPU. A rehearsal compares the CPU with itself.
    """
    if at.rehearse and name != TRAINED[0]:
        pytest.skip("a rehearsal trains one demo")
    alike = {**methods()[name].alike, "trainer.precision": "64-true", "trainer.devices": 1}
    states = []
    for which, accelerator in enumerate(("cpu", at.accelerator)):
        run = tmp_path / str(which)
        path = written(name, tmp_path, {**alike, "trainer.accelerator": accelerator})
        with DrawsOnTheHost("cuda") if accelerator == "gpu" else nullcontext():
            status, said = attempt("fit", "--config", path, "--run_directory", run)
        if status:
            return at.keep(name, f"on the {accelerator}: {sentence(said)}", f"<= {TRAINING:g}", False)
        kept = state(run)
        states.append({key: kept[key] for key in kept.keys() - {"callbacks", "loops", "metrics_table"}})
    difference = largest_difference(*states)
    at.keep(name, f"{difference:.1e}", f"<= {TRAINING:g}", difference <= TRAINING)
