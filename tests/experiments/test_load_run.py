"""Loading a run in Python: a notebook keeps its random state, and objects that cannot be pickled give a clear error."""

import os
import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import train
from callbacks.labels.merge import COLUMNS, NUMBERS
from experiments.load_run import load_run

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    demo = ("fit", "--config", "configs/elr/demo_baseline.yaml", "--trainer.max_epochs", "1", *QUIET)
    assert train.main([*demo, "--run_directory", str(directory)]) == 0
    return directory


def test_a_loaded_model_is_called_with_tensors(finished: Path) -> None:
    model, data = load_run(finished)
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    assert torch.equal(model.classify(batch["image"] / 16), model(batch["image"] / 16).softmax(dim=1))


@pytest.mark.parametrize("seed", [None, "7"])
def test_the_callers_random_numbers_stay_as_they_are(
    seed: str | None, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    for name in names:
        monkeypatch.delenv(name, raising=False)
        if seed is not None:
            monkeypatch.setenv(name, seed)
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    load_run(finished)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]
    assert [os.environ.get(name) for name in names] == [seed, seed]


def test_a_model_that_cannot_be_pickled_says_why(finished: Path) -> None:
    model, _ = load_run(finished)
    with pytest.raises(TypeError, match=r"cannot be pickled: save its state_dict\(\), and rebuild it with load"):
        pickle.dumps(model)


REJECTED = {
    "no class": "{class_path: lightning_modules.noisy_labels.elr.ERL}",
    "no argument": "{class_path: lightning_modules.noisy_labels.elr.ELR, init_args: {strenght: 1}}",
    "a type": "{class_path: datamodules.classification.digits.Digits}",
    "a range": "{class_path: lightning_modules.noisy_labels.elr.ELR, init_args: {strength: many}}",
}


@pytest.mark.parametrize("model", REJECTED.values(), ids=REJECTED)
@pytest.mark.parametrize("command", [("export",), ("label_report", "--html"), ("generate",)])
def test_a_rejected_run_is_one_sentence_in_each_command(
    model: str, command: tuple[str, ...], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    settings = yaml.safe_load((run / "config.yaml").read_text()) | {"model": yaml.safe_load(model)}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    (run / "label_report.csv").write_text(",".join((*NUMBERS, *COLUMNS)) + "\n" + "0," * 7 + "0\n")
    arguments = ["--resume", str(run), "--output", str(tmp_path / "out")] if command == ("generate",) else [str(run)]
    assert train.main([*command, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: model")
    assert "Traceback" not in error
