"""Write the folder of an export: the program or the weights, `config.json` and a README."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.files.whole_files import new_folder, write_text
from experiments.exporting.preprocessing import section
from experiments.exporting.program import SIDES, SMALLEST, Traced
from experiments.results import markdown, read_test_metrics
from experiments.saving.environment import UNKNOWN, environment, recorded_environments


@dataclass
class Export:
    """The traced model of a run, from which a format writes its files.

    Args:
        module: model of the run.
        exported: the `lightning_modules.interfaces.Exported` of the model.
        traced: traced function of the model.
        state: weights that the method uses, if they differ from the network's parameters because adapters are merged or
            weights are quantised. None means the network's state dict.
        class_names: names of the classes, if known.
        preprocessed: see `preprocessing`.
    """

    module: Any
    exported: Any
    traced: Traced
    state: Mapping[str, Tensor] | None
    class_names: Sequence[str] | None
    preprocessed: dict[str, Any]
    config: dict[str, Any] = field(init=False)
    """Contents of `config.json`: inputs, output, accepted sizes and class names. A format may add keys."""

    def __post_init__(self) -> None:
        exported = self.exported
        outputs = {"shape": exported.dimensions.split(), "description": exported.description}
        self.config = {
            "method": type(self.module).__name__,
            "kind": exported.kind,
            "inputs": {
                name: {"shape": _shape(each.dimensions, self.traced), "description": each.description}
                for name, each in exported.inputs.items()
            },
            "outputs": {exported.output: outputs},
            "multiple_of": self.traced.multiple,
            "class_names": self.class_names,
        }
        if self.preprocessed:
            self.config["preprocessing"] = self.preprocessed


def write_export(output: Path, chosen: Any, run: Path, export: Export) -> None:
    """Write the folder of an export.

    Args:
        output: new folder.
        chosen: the format, see `formats`.
        run: run directory.
        export: what is exported. Its context manager `exported.weights` must be active.
    """
    table = run / "test_metrics.csv"
    metrics = read_test_metrics(table) if table.is_file() else {}
    with new_folder(output) as folder:
        code = chosen.write(folder, export)
        if not (folder / "config.json").exists():  # diffusers writes this file itself
            write_text(folder / "config.json", json.dumps(export.config, indent=2) + "\n")
        summary = (type(export.module).__doc__ or "").partition("\n")[0]
        origin = f"Exported by noiseworks from the run {_plain(run.resolve().name)}.\n\n{origin_of_weights(run)}"
        note = [size_note(export.traced, export.exported), *section(export.preprocessed)]
        text = readme(export.config, f"{summary}\n\n{origin}", code, "\n\n".join(note), metrics)
        write_text(folder / "README.md", text)


def write_adapters(output: Path, chosen: Any, run: Path, module: Any) -> None:
    """Write the folder of an export that contains only adapters; the arguments are those of `write_export`."""
    with new_folder(output) as folder:
        code = chosen.write_adapters(folder, module)
        origin = f"Exported by noiseworks from the run {_plain(run.resolve().name)}.\n\n{origin_of_weights(run)}"
        write_text(folder / "README.md", f"# {type(module).__name__}: adapters\n\n{origin}\n```python\n{code}```\n")


def origin_of_weights(run: Path) -> str:
    """List the environments in which a run was trained, and the one in which it is exported."""
    trained = recorded_environments(run) or [UNKNOWN]
    return "".join([*(f"- trained in: {each}\n" for each in trained), f"- exported in: {environment()}\n"])


def _shape(dimensions: str, traced: Traced) -> list[str | int]:
    """List the dimensions of an input: names of dynamic dimensions, and sizes of fixed dimensions."""
    fixed = {letter: size for letter, size in traced.sizes.items() if not (traced.multiple and letter in SIDES)}
    return [fixed.get(letter, letter) for letter in dimensions.split()]


def program_example(
    export: Export,
    imports: str,
    load: str,
    call: str,
    filled: Callable[[str, str], str],
    array: Callable[[Tensor], str],
) -> str:
    """Return example code that runs a program in the folder of the export.

    Args:
        export: what is exported.
        imports: lines that import what the other code needs.
        load: code that loads the program.
        call: code that calls the program with the inputs, which are variables of their names.
        filled: code of an array, from `rand`, `randn` or `ones` and its shape.
        array: code of an array with the given values.
    """
    exported, lines = export.exported, []
    for name, each in exported.inputs.items():
        kind = next((kind for kind in ("randn", "ones") if each.sample is getattr(torch, kind)), "rand")
        sizes = (2 if letter in "BN" else export.traced.sizes[letter] for letter in each.dimensions.split())
        value = array(each.sample(2)) if each.dimensions == "B" else filled(kind, ", ".join(map(str, sizes)))
        lines.append(f"{name} = {value}  # {each.description}")
    lines.append(f"{exported.output} = {call}")
    if exported.dimensions == "B K" and not export.class_names:
        lines.append(f"print({exported.output}.argmax(1))")
    elif exported.dimensions == "B K":
        imports = f"import json\n\n{imports}"
        lines.insert(0, 'names = json.load(open("config.json"))["class_names"]')
        lines.append(f"print([names[k] for k in {exported.output}.argmax(1).tolist()])")
    return "\n".join([imports, "", load, *lines, ""])


def readme(config: Mapping[str, Any], summary: str, code: str, note: str, metrics: Mapping[str, float]) -> str:
    """Return the text of the README of an export."""
    rows = [
        [role, f"`{name}`", " x ".join(map(str, each["shape"])), each["description"]]
        for role, ports in (("input", config["inputs"]), ("output", config["outputs"]))
        for name, each in ports.items()
    ]
    measured = [[_plain(name), f"{value:.6g}"] for name, value in metrics.items()]
    parts = [
        f"# {config['method']}: {config['kind']}",
        summary,
        "## Example",
        f"```python\n{code}```",
        "## Inputs and output",
        markdown(["", "name", "shape", "content"], rows),
        note,
        "## Metrics of the run",
        markdown(["metric", "value"], measured) if measured else "The run has not been tested.",
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _plain(name: str) -> str:
    """Remove from a metric's name the characters that Markdown would interpret."""
    return re.sub(r"[^\w/.+-]", " ", name)[:100]


def size_note(traced: Traced, exported: Any) -> str:
    """Return a sentence about the image sizes that an export accepts."""
    used = {letter for each in exported.inputs.values() for letter in each.dimensions.split()}
    batch = "B, the batch size, is free" + (", and so is N, the number of noise samples." if "N" in used else ".")
    if not used & SIDES.keys():
        return batch
    if traced.multiple == 0:
        return f"{batch} Height and width are fixed."
    least = SMALLEST if traced.multiple == 1 else 2 * traced.multiple
    which = "" if traced.multiple == 1 else f"multiples of {traced.multiple}, "
    return f"{batch} Height and width are free: {which}at least {least}."
