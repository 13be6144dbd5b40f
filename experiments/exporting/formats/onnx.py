"""model.onnx; requires the `onnx` extra"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from experiments.exporting.folder import Export, program_example
from experiments.exporting.program import TOLERANCE, difference, others

NEEDS = ("onnx", "onnxscript")
PROGRAM = "model.onnx"


def write(folder: Path, export: Export) -> str:
    """Write the program, and compare its outputs with those of the function if onnxruntime is installed."""
    path, exported = folder / PROGRAM, export.exported
    try:
        model: Any = torch.onnx.export(
            export.traced.program,
            input_names=list(exported.inputs),
            output_names=[exported.output],
            dynamo=True,
            verbose=False,
        )
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise ValueError(f"the model has no ONNX equivalent ({reason}): use --format torch") from error
    model.model.metadata_props["config.json"] = json.dumps(export.config)
    model.save(path)
    if find_spec("onnxruntime") is not None:
        _compare_outputs(path, export)
    given = ", ".join(f'"{name}": {name}' for name in exported.inputs)
    load = f'session = onnxruntime.InferenceSession("{path.name}")'
    call = f"session.run(None, {{{given}}})[0]"
    return program_example(export, "import numpy as np\nimport onnxruntime", load, call, _fill, _array)


def _fill(kind: str, shape: str) -> str:
    numpy = f"np.ones(({shape}))" if kind == "ones" else f"np.random.{kind}({shape})"
    return f'{numpy}.astype("float32")'


def _array(values: torch.Tensor) -> str:
    return f'np.array({values.tolist()}, dtype="{str(values.dtype).removeprefix("torch.")}")'


def _compare_outputs(path: Path, export: Export) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = list(export.exported.inputs)
    with torch.no_grad():
        for inputs in others(export.exported, export.traced):
            given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
            found = torch.from_numpy(session.run(None, given)[0])
            largest = difference(found, export.exported.function(*inputs))
            if largest > TOLERANCE:
                raise ValueError(
                    f"the outputs of the ONNX model differ by {largest:.1e} from the run's: use --format torch"
                )
