"""Numerical agreement of CPU and GPU: networks, and complete trainings in float64, single and half precision."""

import copy
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.networks.dncnn import DnCNN
from lightning_modules.networks.ncsnpp import NCSNpp
from tests.conformance.attempts import attempt, sentence
from tests.conformance.runs import methods, state, written
from tests.gpu.draws_on_the_host import DrawsOnTheHost
from tests.gpu.place import Place, Row, largest_difference

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


def networks(at: Place) -> None:
    """Compare forward and backward passes of networks on the CPU and on the device."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    chosen = list(NETWORKS)[: at.of(len(NETWORKS), 2)]
    for name in chosen:
        make, shape = NETWORKS[name]
        for dtype, tolerance in TOLERANCES.items():
            label = f"{name}, outputs and gradients in {str(dtype).removeprefix('torch.')}"
            if at.has(label):
                continue
            torch.manual_seed(0)
            here = make().to(dtype)
            image = torch.rand(4, *shape).to(dtype)
            there = copy.deepcopy(here).to(at.device)
            difference = largest_difference(passes(here, image), passes(there, image.to(at.device)))
            at.keep(Row(label, f"{difference:.1e}", f"<= {tolerance:g}", difference <= tolerance))


def trainings(at: Place) -> None:
    """Train demos on the CPU and on the device, drawing random numbers on the CPU, and compare their checkpoints."""
    names = TRAINED[: at.of(len(TRAINED), 1)]
    labels = {name: f"{name}, a demo trained in float64, all that its checkpoint holds" for name in names}
    for name, label in at.pending(labels):
        with tempfile.TemporaryDirectory() as directory:
            at.keep(trained(name, label, at, Path(directory)))


def trained(name: str, label: str, at: Place, directory: Path) -> Row:
    alike = {**methods()[name].alike, "trainer.precision": "64-true", "trainer.devices": 1}
    for accelerator in ("cpu", at.accelerator):
        which = directory / f"on_{accelerator}"
        if which.exists():  # a rehearsal compares the CPU with itself
            which = directory / "again"
        path = written(name, directory, {**alike, "trainer.accelerator": accelerator})
        drawn = DrawsOnTheHost("cuda") if accelerator == "gpu" else nullcontext()
        with drawn:
            status, said = attempt("fit", "--config", path, "--run_directory", which)
        if status:
            return Row(label, f"on the {accelerator}: {sentence(said)}", f"<= {TRAINING:g}", False)
    one, other = (
        {key: value for key, value in state(directory / which).items() if key not in ("callbacks", "loops")}
        for which in ("on_cpu", at.of("on_gpu", "again"))
    )
    one.pop("metrics_table", None), other.pop("metrics_table", None)
    difference = largest_difference(one, other)
    return Row(label, f"{difference:.1e}", f"<= {TRAINING:g}", difference <= TRAINING)


def agreement(at: Place) -> None:
    networks(at)
    trainings(at)
