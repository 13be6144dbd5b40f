"""Give truncated, changed and foreign files to every reader of user files, in a process with little memory.

Each file is read, or rejected in one sentence with its name: without a traceback or a signal, and within the limits of
memory and time. `hostile_child.py` lists the readers.
"""

import gzip
import io
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from datamodules.files.video_files import encode_frames
from tests.command import ROOT
from tests.datamodules.files.hostile_child import READERS

NUMBERS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
TEXTS = {
    "numbers": "a,b\n1,2\n3,4.5\n",
    "unnamed": "1 2\n3 4\n",
    "svmlight": "1 1:2 3:4\n-1 2:0.5\n",
    "prompts": '{"caption": "a cat", "index": 0, "seed": 1}\n{"caption": "b", "index": 2}\n',
    "prompts_csv": 'caption,index\n"a, b",0\nc,1\n',
    "table": "index,label,clean_label\n0,0,0\n1,2,0\n2,1,\n",
    "list": "a/b.jpg 0\nc d.jpg 8\n",
    "class_map": "n01440764 1\nn01443537 tench\n",
    "glue": "index\tsentence\tlabel\n0\ta b\t1\n1\tc\t0\n",
    "log": "idx\tlabel\tpredict\tradius\n0\t1\t1\t0.5\n1\t0\t-1\t0.0\n",
    "report": "row,given,proposed,suspected,score,in_sample,probability_given,probability_proposed,clean_label\n"
    "0,1,1,0,0.5,0,0.5,0.5,1\n1,0,1,1,0.25,0,0.25,0.75,\n",
}


def saved(write: Any, *arguments: Any, **options: Any) -> bytes:
    memory = io.BytesIO()
    write(memory, *arguments, **options)
    return memory.getvalue()


def hdf5() -> bytes:
    h5py = pytest.importorskip("h5py")
    memory = io.BytesIO()
    with h5py.File(memory, "w", userblock_size=512) as file:
        file.create_dataset("X", data=NUMBERS, compression="gzip", chunks=(2, 4, 3))
        file["#refs#/a"] = np.ones((2, 4))
        file.create_dataset("info/boxes", data=np.array([file["#refs#/a"].ref], dtype=h5py.ref_dtype).reshape(1, 1))
    content = bytearray(memory.getvalue())
    content[:128] = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    return bytes(content)


def parquet(image_key: str) -> bytes:
    import pyarrow
    import pyarrow.parquet

    image = saved(Image.fromarray(NUMBERS).save, "PNG")
    table = pyarrow.table({image_key: [{"bytes": image, "path": "a"}] * 3, "label": [0, 1, 2]})
    return saved(lambda memory: pyarrow.parquet.write_table(table, memory))


def tar() -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (
            ("0.png", saved(Image.fromarray(NUMBERS).save, "PNG")),
            ("0.cls", b"1"),
            ("\u00e9.png", saved(Image.fromarray(NUMBERS).save, "PNG")),
            ("\u00e9.json", b'{"label": 2}'),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return memory.getvalue()


def whole() -> dict[str, bytes]:
    """Return the content of a small valid file for each reader."""
    labels = {"clean_label": np.arange(3), "worse_label": np.array([1, 1, 2])}
    slices = ({"a": NUMBERS[..., 0]}, {"a": NUMBERS[..., 1]})
    noise = np.ones((1, 2, 4, 4), np.float32)
    sound = 0.5 * np.sin(np.arange(800))
    return {
        "crop": saved(Image.fromarray(NUMBERS.repeat(4, 0).repeat(4, 1)).save, "JPEG"),
        "pixels": saved(Image.fromarray(NUMBERS).save, "PNG"),
        "mask": saved(Image.fromarray(NUMBERS[..., 0]).save, "PNG"),
        "resized_mask": saved(Image.fromarray(NUMBERS[..., 0]).save, "PNG"),
        "slice": saved(np.save, NUMBERS[..., 0].astype(np.float32)),
        "slices": pickle.dumps(slices),
        "normals": saved(np.save, NUMBERS.astype(np.float32)),
        "raw": saved(np.savez, bayer=np.full((4, 4), 9, np.uint16), black=1, white=10, pattern="RGGB"),
        "pair": saved(np.savez_compressed, noise, noise, caption=np.array("a cat")),
        "batch": saved(np.savez, data=np.zeros((2, 3072), np.uint8), labels=np.array([1, 1000])),
        "pickle": pickle.dumps(labels, 2),
        "labels": saved(lambda memory: torch.save(labels, memory)),
        "old_labels": saved(lambda memory: torch.save(labels, memory, _use_new_zipfile_serialization=False)),
        "mat": saved(savemat, {"X": NUMBERS}),
        "packed_mat": saved(savemat, {"X": NUMBERS}, do_compression=True),
        "hdf5": hdf5(),
        "cells": hdf5(),
        "wav": saved(soundfile.write, sound, 16_000, format="WAV"),
        "flac": saved(soundfile.write, sound, 16_000, format="FLAC"),
        "video": saved(encode_frames, np.zeros((3, 16, 16, 3), np.uint8), 25.0),
        "parquet": parquet("img"),
        "parquet_shard": parquet("image"),
        "tar_shard": tar(),
        "packed_svmlight": gzip.compress(TEXTS["svmlight"].encode()),
        **{name: text.encode() for name, text in TEXTS.items()},
    }


WHOLE = whole()
HUGE = [
    b"1e999",
    b"nan",
    b"inf",
    b"-1",
    str(2**63).encode(),
    str(10**30).encode(),
    b"9" * 400,
    b"[" * 5000,
    b"\xff\xfe",
]


@st.composite
def hostile(draw: st.DrawFn, name: str) -> bytes:
    """Draw a file, usually of the reader `name`, and up to four times truncate it or change, repeat or remove bytes."""
    content = bytearray(WHOLE[draw(st.sampled_from([name] * 9 + sorted(WHOLE)))])
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        end = min(place + draw(st.integers(1, 8)), len(content))
        change = draw(st.sampled_from(["cut", "flip", "max", "zero", "double", "remove", "huge"]))
        if change == "cut":
            del content[place:]
        elif change == "flip" and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif change in ("max", "zero"):
            content[place:end] = (b"\xff" if change == "max" else b"\0") * (end - place)
        elif change == "double":
            content[place:place] = content[place:end]
        elif change == "remove":
            del content[place:end]
        elif change == "huge":
            content[place:end] = draw(st.sampled_from(HUGE))
    return bytes(content)


def outcomes(folder: Path) -> list[str]:
    """Read the files of a folder in a separate process, and return the outcome of each."""
    command = [sys.executable, "-m", "tests.datamodules.files.hostile_child", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=570)
    assert ended.returncode == 0, f"{ended.returncode} at {ended.stdout.splitlines()[-1:]}: {ended.stderr[-500:]}"
    return ended.stdout.splitlines()


@pytest.mark.nightly
def test_every_reader_reads_its_own_file(tmp_path: Path) -> None:
    for name, content in WHOLE.items():
        (tmp_path / f"{name}.0.{READERS[name][0]}").write_bytes(content)
    assert WHOLE.keys() == READERS.keys()
    assert [line for line in outcomes(tmp_path) if not line.endswith("\tread")] == []


@pytest.mark.nightly
def test_hostile_files_are_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    """All files are created first, because starting a process for each would take seconds."""
    for name, (suffix, _) in READERS.items():
        made: list[bytes] = []

        @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(hostile(name))
        def make(content: bytes) -> None:
            made.append(content)  # noqa: B023 - called in this round

        make()
        for number, content in enumerate(made):
            (tmp_path / f"{name}.{number:03}.{suffix}").write_bytes(content)
    faults = [line for line in outcomes(tmp_path) if "\tRAISED" in line]
    assert faults == [], f"{len(faults)} files, which are in {tmp_path}"
