"""Prompt grids of a run that is killed within an epoch, with cached captions and freed text encoders."""

import json
import signal
from pathlib import Path

import pytest

from tests.conformance.runs import killed_at, run
from tests.diffusion.finetuning.test_bucket_runs import assert_same, command
from tests.two_processes import FORK

pytestmark = [pytest.mark.nightly, pytest.mark.usefixtures("no_pictures")]


def line(pipeline: Path, folder: Path, output: str) -> list[str | Path]:
    given = {"prompts": ["a fox", "the 3"], "num_seeds": 2, "every_n_steps": 3, "num_inference_steps": 2}
    grid = {"class_path": "callbacks.generation.PromptGrid", "init_args": given}
    return [*command(pipeline, folder, True, output), "--trainer.callbacks+", json.dumps(grid)]


def test_a_run_that_is_killed_draws_the_grids_of_a_whole_one(text_to_image: Path, tmp_path: Path) -> None:
    run(*line(text_to_image, tmp_path, "whole"))
    process = FORK.Process(target=killed_at, args=(5, *line(text_to_image, tmp_path, "killed")))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    run("fit", "--resume", tmp_path / "killed")
    whole, killed = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "figures" / "prompts").iterdir()}
        for name in ("whole", "killed")
    )
    assert sorted(whole) == [f"step_{step:06d}.png" for step in (0, 3, 6, 9, 12)]
    assert killed == whole
    assert_same(tmp_path / "whole", tmp_path / "killed")
    assert len(set(whole.values())) == 5
