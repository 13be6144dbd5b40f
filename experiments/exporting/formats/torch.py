"""model.pt2, loaded by torch.export.load; needs only PyTorch"""

import io
import json
from pathlib import Path
from typing import Any

import torch

from experiments.exporting.folder import Export, program_example

PROGRAM = "model.pt2"


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


def write(folder: Path, export: Export) -> str:
    with _Stream(folder / PROGRAM, "w") as stream:
        torch.export.save(export.traced.program, stream, extra_files={"config.json": json.dumps(export.config)})
    if stream.error is not None:
        raise stream.error
    load = 'program = torch.export.load("model.pt2").module()'
    call = f"program({', '.join(export.exported.inputs)})"
    return program_example(
        export,
        "import torch",
        load,
        call,
        filled=lambda kind, shape: f"torch.{kind}({shape})",
        array=lambda values: f"torch.tensor({values.tolist()})",
    )
