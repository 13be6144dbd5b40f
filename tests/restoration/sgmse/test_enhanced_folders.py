"""The command line reads a folder of recordings and writes a folder of enhanced recordings."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import train
from tests.command import ROOT
from tests.datamodules.speech.folders import write
from tests.two_processes import FORK, in_two_processes

LENGTHS = {"a.wav": 800, "below/b.wav": 333, "c.flac": 801, "d.wav": 20, "e.wav": 650}
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")

pytestmark = pytest.mark.nightly


def predict(folder: Path, out: Path, *arguments: str) -> int:
    small = ("--model.network.block_out_channels", "[8, 16]", "--model.num_steps", "3", "--ckpt_path", "none")
    quietly = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
    line = ("predict", "--config", ROOT / "configs/sgmse/demo.yaml", "--data.predict_dir", folder)
    batch = ("--data.loading.evaluation_batch_size", "1", "--run_directory", out)
    return train.main([str(argument) for argument in (*line, *batch, *small, *quietly, *arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, (name, length) in enumerate(LENGTHS.items()):
        write(tmp_path / "given" / name, length, seed=number, sample_rate=2000)
    return tmp_path / "given"


def contents(out: Path) -> dict[str, np.ndarray]:
    return {name: soundfile.read(out / "enhanced" / name, dtype="int16")[0] for name in LENGTHS}


def test_two_processes_write_what_one_writes_and_batches_up_to_rounding(folder: Path, tmp_path: Path) -> None:
    one, two, together = tmp_path / "one", tmp_path / "two", tmp_path / "together"
    assert predict(folder, one) == 0
    assert in_two_processes(predict, folder, two, *TWO) == [0, 0]
    for name, length in LENGTHS.items():
        assert soundfile.info(one / "enhanced" / name).frames == length
        assert (one / "enhanced" / name).read_bytes() == (two / "enhanced" / name).read_bytes()
    assert predict(folder, together, "--data.loading.evaluation_batch_size", "4") == 0
    for name, found in contents(together).items():
        np.testing.assert_allclose(found.astype(int), contents(one)[name].astype(int), atol=2)


def test_a_killed_prediction_continues(folder: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    steps = ("--model.num_steps", "20")
    assert predict(folder, whole, *steps) == 0
    process: Any = FORK.Process(target=predict, args=(folder, killed, *steps))
    process.start()
    while process.is_alive() and not any((killed / "enhanced").rglob("[a-e].*")):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    there = {path: path.stat().st_mtime_ns for path in (killed / "enhanced").rglob("[a-e].*")}
    assert 0 < len(there) < len(LENGTHS)
    assert predict(folder, killed, *steps) == 0
    assert all(path.stat().st_mtime_ns == before for path, before in there.items())
    for name, found in contents(killed).items():
        np.testing.assert_array_equal(found, contents(whole)[name])


def test_files_that_can_not_be_enhanced_are_told_at_the_end(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.wav").write_bytes(b"RIFF and no more")
    soundfile.write(folder / "silent.wav", np.zeros(300), 2000)
    soundfile.write(folder / "stereo.wav", np.ones((300, 2)), 2000)
    write(folder / "fast.wav", 300, sample_rate=4000)
    out = tmp_path / "out"
    assert predict(folder, out) == 1
    said = capsys.readouterr().err
    assert "all recordings are written except 4" in said
    for part in ("broken.wav cannot be read", "silent.wav is silent", "stereo.wav has 2 channels", "fast.wav has 4000"):
        assert part in said
    assert {*contents(out)} == {*LENGTHS}
