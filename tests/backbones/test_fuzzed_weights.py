"""Damaged and foreign files are either read, or rejected in one sentence, within memory and time limits."""

import io
import multiprocessing
import resource
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from callbacks.generation.measurement import read_statistics
from datamodules.files.array_files import read_npy, read_npz
from datamodules.files.tensor_files import read_tensors
from datamodules.files.text_files import read_json_object
from datamodules.files.torch_script import read_torch_script
from lightning_modules.backbones.weights import check_safetensors
from tests.datamodules.files.hostile_files import FOREIGN, LEGACY, PTH, SAFE, SAFETENSORS, SAVED

pytestmark = pytest.mark.nightly
GIGABYTES, SECONDS, EXAMPLES = 2, 300, 1500


def written(save: Callable[..., Any], *content: Any, **named: Any) -> bytes:
    save(stream := io.BytesIO(), *content, **named)
    return stream.getvalue()


def scripted() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(3, 2)), stream := io.BytesIO())
    return stream.getvalue()


STATISTICS = {"mu": np.zeros(4), "sigma": np.eye(4), "count": 9, "extractor": "null"}
READERS: dict[str, tuple[Callable[[Path], Any], str, Callable[[], list[bytes]]]] = {
    "npy": (read_npy, ".npy", lambda: [written(np.save, np.arange(9))]),
    "npz": (
        lambda path: read_npz(path, ["mu"], ["sigma"]),
        ".npz",
        lambda: [written(save, **STATISTICS) for save in (np.savez, np.savez_compressed)],
    ),
    "statistics": (read_statistics, ".npz", lambda: [written(np.savez, **STATISTICS)]),
    "json": (read_json_object, ".json", lambda: [b'{"a": [1, 2.5, {"b": null}], "c": "text"}']),
    "safetensors": (read_tensors, ".safetensors", lambda: [SAFE, *SAFETENSORS.values()]),
    "header": (check_safetensors, ".safetensors", lambda: [SAFE, *SAFETENSORS.values()]),
    "pth": (read_tensors, ".pth", lambda: [SAVED, LEGACY, *PTH.values()]),
    "script": (read_torch_script, ".pt", lambda: [scripted()]),
}


def damaged(data: st.DataObject, contents: list[bytes]) -> bytes:
    content = bytearray(data.draw(st.sampled_from([*contents, *FOREIGN.values()])))
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(content)), st.integers(0, len(content)))))
    how = data.draw(st.sampled_from(["whole", "cut", "without a part", "a part twice", "with more"]))
    parts = {
        "whole": content,
        "cut": content[:end],
        "without a part": content[:start] + content[end:],
        "a part twice": content[:end] + content[start:],
        "with more": content + data.draw(st.binary(max_size=64)),
    }
    return bytes(parts[how])


def fuzz(name: str) -> None:
    """Read damaged files of one kind in this child process, whose memory may grow only by a fixed budget."""
    read, suffix, contents = READERS[name]
    torch.set_num_threads(1)
    known = contents()
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + (GIGABYTES << 30),) * 2)
    path = Path(tempfile.mkdtemp(), f"file{suffix}")

    @settings(max_examples=EXAMPLES, deadline=5000, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        path.write_bytes(damaged(data, known))
        try:
            read(path)
        except ValueError as error:
            said = str(error)
        else:
            return
        assert str(path) in said
        assert "\n" not in said

    check()


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_one_sentence(name: str) -> None:
    child = multiprocessing.get_context("spawn").Process(target=fuzz, args=(name,))
    child.start()
    child.join(SECONDS)
    running = child.is_alive()
    child.kill()
    assert not running, f"{name} took more than {SECONDS} seconds"
    assert child.exitcode == 0
