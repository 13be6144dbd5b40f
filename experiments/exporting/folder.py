"""Write the folder of an export: the program or the weights, `config.json` and a README."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.files.whole_files import new_folder, write_text
from experiments.exporting.preprocessing import section, timm_keys
from experiments.exporting.program import SIDES, SMALLEST, TOLERANCE, Traced, difference, others
from experiments.exporting.weights import write_weights
from experiments.results import markdown, read_test_metrics

PROGRAMS = {"torch": "model.pt2", "onnx": "model.onnx"}
"""File name of the program for each format. The format safetensors has no program."""


def write_folder(
    output: Path,
    chosen: str,
    run: Path,
    module: nn.Module,
    exported: Any,
    traced: Traced,
    class_names: Sequence[str] | None,
    state: Mapping[str, Tensor] | None,
    preprocessed: dict[str, Any],
) -> None:
    """Write the folder of an export.

    Args:
        output: new folder.
        chosen: format, `torch`, `onnx` or `safetensors`.
        run: run directory.
        module: model of the run.
        exported: the `lightning_modules.interfaces.Exported` of the model. Its context manager, which loads the weights
            to be exported, must be active.
        traced: traced function of the model.
        class_names: names of the classes, if known.
        state: see `write_weights`.
        preprocessed: see `preprocessing`.

    Raises:
        ValueError: if the function cannot be converted to the format, or if the metrics file of the run is damaged.
        FileExistsError: if the folder exists.
    """
    table = run / "test_metrics.csv"
    metrics = read_test_metrics(table) if table.is_file() else {}
    config = config_of(exported, traced, type(module).__name__, class_names)
    config |= {"preprocessing": preprocessed} if preprocessed else {}
    with new_folder(output) as folder:
        if chosen in PROGRAMS:
            load = write_program(folder, chosen, traced, exported, config)
        else:
            more, load = write_weights(folder, module, traced.weights, traced.sizes, state)
            if "architecture" in more:
                more["pretrained_cfg"] |= timm_keys(preprocessed)
                more["label_names"] = config["class_names"]
            config |= more
        if not (folder / "config.json").exists():  # diffusers writes this file itself
            write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        code = example(chosen, load, exported, config, traced.sizes)
        summary = (type(module).__doc__ or "").partition("\n")[0]
        origin = f"Exported by noiseworks from the run {_plain(run.resolve().name)}."
        note = [size_note(traced, exported), *section(preprocessed)]
        text = readme(config, f"{summary}\n\n{origin}", code, "\n\n".join(note), metrics)
        write_text(folder / "README.md", text)


def check_packages(chosen: str) -> None:
    """Reject the format onnx if its packages are not installed.

    Raises:
        ValueError: if a package is missing. The message names the package.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None] if chosen == "onnx" else []
    if missing:
        raise ValueError(f"--format onnx needs {' and '.join(missing)}: pip install 'noiseworks[onnx]'")


class _Stream(io.FileIO):
    """A new file that keeps its first error, because PyTorch's writer aborts the process if an error is raised."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        written = 0
        try:
            while self.error is None and written < len(view):
                written += super().write(view[written:]) or 0
        except OSError as error:
            self.error = error
        return len(view)


def write_program(folder: Path, chosen: str, traced: Traced, exported: Any, config: Mapping[str, Any]) -> str:
    """Write a traced function to a program file. The file also contains `config.json`.

    Returns:
        Python code that loads the program as `program`.

    Raises:
        ValueError: if the function has an operation without an ONNX equivalent, or if the outputs of the ONNX model
            differ from those of the function.
    """
    path = folder / PROGRAMS[chosen]
    if chosen == "torch":
        with _Stream(path, "w") as stream:
            torch.export.save(traced.program, stream, extra_files={"config.json": json.dumps(config)})
        if stream.error is not None:
            raise stream.error
        return f'program = torch.export.load("{path.name}").module()\n'
    names = list(exported.inputs)
    try:
        model: Any = torch.onnx.export(
            traced.program, input_names=names, output_names=[exported.output], dynamo=True, verbose=False
        )
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise ValueError(f"the model has no ONNX equivalent ({reason}): use --format torch") from error
    model.model.metadata_props["config.json"] = json.dumps(config)
    model.save(path)
    _check_onnx(path, traced, exported)
    return f'session = onnxruntime.InferenceSession("{path.name}")\n'


def _check_onnx(path: Path, traced: Traced, exported: Any) -> None:
    if find_spec("onnxruntime") is None:
        return
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = list(exported.inputs)
    with torch.no_grad():
        for inputs in others(exported, traced):
            given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
            found = torch.from_numpy(session.run(None, given)[0])
            largest = difference(found, exported.function(*inputs))
            if largest > TOLERANCE:
                raise ValueError(
                    f"the outputs of the ONNX model differ by {largest:.1e} from the run's: use --format torch"
                )


def config_of(exported: Any, traced: Traced, method: str, class_names: Sequence[str] | None) -> dict[str, Any]:
    """Return the contents of `config.json`: inputs, output, accepted sizes and class names."""
    return {
        "method": method,
        "kind": exported.kind,
        "inputs": {
            name: {"shape": _shape(each.dimensions, traced), "description": each.description}
            for name, each in exported.inputs.items()
        },
        "outputs": {exported.output: {"shape": exported.dimensions.split(), "description": exported.description}},
        "multiple_of": traced.multiple,
        "class_names": class_names,
    }


def _shape(dimensions: str, traced: Traced) -> list[str | int]:
    """List the dimensions of an input: names of dynamic dimensions, and sizes of fixed dimensions."""
    fixed = {letter: size for letter, size in traced.sizes.items() if not (traced.multiple and letter in SIDES)}
    return [fixed.get(letter, letter) for letter in dimensions.split()]


def example(chosen: str, load: str, exported: Any, config: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """Return example code that uses an export. It must be run in the folder of the export."""
    if chosen == "safetensors":
        return load
    given = {}
    for name, each in exported.inputs.items():
        values = each.sample(2) if each.dimensions == "B" else None
        shape = ", ".join(str(2 if letter in "BN" else sizes[letter]) for letter in each.dimensions.split())
        kind = next((kind for kind in ("randn", "ones") if each.sample is getattr(torch, kind)), "rand")
        if values is not None and chosen == "torch":
            given[name] = f"torch.tensor({values.tolist()})"
        elif values is not None:
            given[name] = f'np.array({values.tolist()}, dtype="{str(values.dtype).removeprefix("torch.")}")'
        else:
            numpy = f"np.ones(({shape}))" if kind == "ones" else f"np.random.{kind}({shape})"
            given[name] = f"torch.{kind}({shape})" if chosen == "torch" else f'{numpy}.astype("float32")'
    lines = [f"{name} = {value}  # {exported.inputs[name].description}" for name, value in given.items()]
    if chosen == "torch":
        imports = ["import torch"]
        lines.append(f"{exported.output} = program({', '.join(given)})")
    else:
        imports = ["import numpy as np", "import onnxruntime"]
        named = ", ".join(f'"{name}": {name}' for name in given)
        lines.append(f"{exported.output} = session.run(None, {{{named}}})[0]")
    if exported.dimensions == "B K" and not config["class_names"]:
        lines.append(f"print({exported.output}.argmax(1))")
    elif exported.dimensions == "B K":
        imports = ["import json", "", *imports]
        lines.insert(0, 'names = json.load(open("config.json"))["class_names"]')
        lines.append(f"print([names[k] for k in {exported.output}.argmax(1).tolist()])")
    return "\n".join([*imports, "", load.strip(), *lines, ""])


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
