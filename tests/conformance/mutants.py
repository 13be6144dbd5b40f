"""Inserts faults into modules when they are imported; these faults appear on a GPU, but not on a CPU."""

from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, NamedTuple

from tests.command import ROOT


class Mutant(NamedTuple):
    """A fault, and how the test suite detects it.

    Args:
        file: path of the file in the project.
        old: text that occurs exactly once in the file.
        new: replacement for this text.
        method: row of the method whose demo triggers the fault.
        says: message of the check that fails, or if the run completes, the kind of host synchronisation that it counts.
        command: command that triggers the fault.
        ranks: world size.
    """

    file: str
    old: str
    new: str
    method: str
    says: str
    command: str = "fit"
    ranks: int = 1


MUTANTS = {
    "a mask without device": Mutant(
        "lightning_modules/baselines/noise2void.py",
        "dtype=torch.bool, device=noisy.device)",
        "dtype=torch.bool)",
        "noise2void",
        "DifferentDevices",
    ),
    "counts without device": Mutant(
        "callbacks/early_learning/counts.py",
        "dtype=torch.int64, device=bins[0].device)\n    ones",
        "dtype=torch.int64)\n    ones",
        "elr",
        "DifferentDevices",
    ),
    "a generator of the CPU in training": Mutant(
        "lightning_modules/efficiency/wta_crs/module.py",
        "torch.Generator(self.device)",
        "torch.Generator()",
        "wta_crs",
        "Expected a generator of the tensor's device",
    ),
    "a generator of the CPU in votes": Mutant(
        "lightning_modules/robustness/certificates/votes.py",
        "self.generator = torch.Generator(device)",
        "self.generator = torch.Generator()",
        "drs",
        "DifferentDevices",  # random numbers are created on the device of their generator
        command="test",
    ),
    "item() in a method's step": Mutant(
        "lightning_modules/noisy_labels/elr.py",
        "loss = cross_entropy + self.strength",
        "loss = cross_entropy + 0 * cross_entropy.item() + self.strength",
        "elr",
        "item",
    ),
    "a number read where losses are logged": Mutant(
        "lightning_modules/training/logging.py",
        "mean.add(value, size)",
        "mean.add(torch.tensor(float(value)), size)",
        "noise2void",
        "item",
    ),
    "rows of the CPU gathered": Mutant(
        "lightning_modules/distributed/per_sample.py",
        "padded = local.new_zeros(max(counts), *local.shape[1:])",
        "padded = torch.zeros(max(counts), *local.shape[1:], dtype=local.dtype)",
        "elr",
        "RefusedByNCCL",
        ranks=2,
    ),
    "a flag of the CPU reduced": Mutant(
        "callbacks/guards/finite_loss.py",
        "torch.tensor(first, device=trainer.strategy.root_device)",
        "torch.tensor(first)",
        "cross_entropy",
        "RefusedByNCCL",
        ranks=2,
    ),
    "images drawn where the module has left the device": Mutant(
        "callbacks/image_grid.py",
        "with on_root_device(trainer, pl_module):",
        "if True:",
        "adele",
        "DifferentDevices",
    ),
    "a table of the device's numbers at the end": Mutant(
        "lightning_modules/probabilistic/colide/module.py",
        "pd.DataFrame(estimated.cpu().numpy())",
        "pd.DataFrame(estimated.numpy())",
        "colide",
        "numpy",
        command="predict",
    ),
}


def seed(mutant: Mutant) -> None:
    """From now on, insert the fault whenever its module is imported, in this process and in its forks."""
    place = str(ROOT / mutant.file)
    text = Path(place).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file} has {text.count(mutant.old)} times {mutant.old!r}"
    get_code = SourceFileLoader.get_code

    def code_of(self: SourceFileLoader, name: str) -> Any:
        if self.path != place:
            return get_code(self, name)
        return compile(text.replace(mutant.old, mutant.new), place, "exec")

    SourceFileLoader.get_code = code_of  # type: ignore[method-assign]
