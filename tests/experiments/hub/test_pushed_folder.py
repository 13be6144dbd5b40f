"""A pushed folder loads on other machines, and contains no information about the original machine."""

import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import train
from datamodules.files.whole_files import owned_path
from experiments.hub.portable_settings import portable
from experiments.load_run import load_run
from tests.experiments.hub.conftest import QUIET, push


def test_it_has_settings_weights_metrics_a_picture_and_a_card(pushed: Path) -> None:
    names = {path.relative_to(pushed).as_posix() for path in pushed.rglob("*")}
    assert names == {
        *("README.md", "config.yaml", "model.safetensors", "metrics.csv", "test_metrics.csv", "early_learning.png")
    }


def test_no_local_path_and_no_secret_is_in_it(pushed: Path, own_run: Path, home: Path) -> None:
    for path in pushed.rglob("*"):
        content = path.read_bytes()
        for private in (str(home), home.name, str(own_run), str(Path.cwd()), "hf_qwertyuiop"):
            assert private.encode() not in content, f"{private} in {path.name}"
    settings = yaml.safe_load((pushed / "config.yaml").read_text())
    assert settings["data"]["init_args"]["images"]["init_args"]["data_dir"] == "my_images"
    assert settings["trainer"]["default_root_dir"] is None


def test_it_loads_where_there_are_no_images(
    pushed: Path, own_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, data = load_run(pushed)
    assert data.class_names == ["cat", "dog"]
    expected = load_run(own_run)[0].state_dict()
    assert expected.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    with pytest.raises(FileNotFoundError, match="my_images/train does not exist"):
        data.setup("fit")


def test_its_folder_is_tested_again_by_the_command_line(pushed: Path, own_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(pushed, folder)
    (folder / "test_metrics.csv").unlink()
    images = own_run.parents[1] / "my_images"
    assert train.main(["test", "--resume", str(folder), "--data.images.data_dir", str(images), *QUIET]) == 0
    assert (folder / "test_metrics.csv").read_text() == (own_run / "test_metrics.csv").read_text()


def test_the_card_has_what_the_hub_reads_and_a_reader_asks(pushed: Path) -> None:
    card = ModelCard.load(pushed / "README.md")
    card.data.to_dict()
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "noiseworks"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.tags == ["noiseworks", "elr"]
    for said in (
        "ELR",
        "2007.00151",
        "| test/accuracy ↑ |",
        "| holds |",
        "load_run(",
        "early_learning.png",
        "my_images",
    ):
        assert said in card.text, said


def test_secrets_and_local_paths_elsewhere_are_rejected(
    own_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(own_run, run)
    monkeypatch.setenv("SERVICE_API_KEY", "a-key-of-a-service")
    for private, said in (("a-key-of-a-service", "the value of SERVICE_API_KEY"), (str(run), "the path of your run")):
        (run / "metrics.csv").write_text(f"epoch,step,note\n0,1,{private}\n")
        assert push(run, "--output", tmp_path / "out") == 2
        assert f"metrics.csv contains {said}" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_secrets_in_settings_are_removed() -> None:
    settings = {"trainer": {"logger": {"init_args": {"api_key": "abc", "num_tokens": 77}}}, "model": {"token": "abc"}}
    found, _ = portable(settings)
    assert found["model"] == {"token": None}
    assert found["trainer"]["logger"] is None


@pytest.mark.parametrize(
    ("path", "name"),
    [("/home/me/x/net.pth", "net.pth"), ("~/data", "data"), ("C:\\Users\\me\\net.pth", "net.pth"), ("file:/a/b", "b")],
)
def test_local_paths_become_names(path: str, name: str) -> None:
    found, named = portable({"model": {"init_args": {"network": {"init_args": {"path": path, "text": "a / b"}}}}})
    assert found["model"]["init_args"]["network"]["init_args"] == {"path": name, "text": "a / b"}
    assert named == {"model.network.path": name}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN"], "give OWNER/NAME to upload the run, or --output FOLDER"),
        (["RUN", "cats"], "the repository must be OWNER/NAME, got 'cats'"),
        (["RUN", "--output", "new", "--private"], "--private and --revision need OWNER/NAME"),
        (["RUN", "--output", "."], ". exists already, and is never overwritten: remove it, or choose another --output"),
        (["RUN", "--output", "new", "--checkpoint", "best"], "best.ckpt does not exist"),
        (["RUN", "--output", "new", "--picture", "no.png"], "has no picture no.png; it has early_learning.png"),
        (["none", "--output", "new"], "none is not a run directory: none/config.yaml does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    arguments: list[str],
    said: str,
    own_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert push(*(str(own_run) if each == "RUN" else each for each in arguments)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


def test_an_output_has_one_owner_and_neither_kills_nor_full_disks_leave_anything(
    own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").touch()  # left by a push that was killed
    with owned_path(out):
        assert push(own_run, "--output", out) == 2
    assert f"{out} is in use by process {os.getpid()} on " in capsys.readouterr().err
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))  # an error of the operating system, as of a full disk
    try:
        assert push(own_run, "--output", out) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "could not be written: File too large; free some space" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert push(own_run, "--output", out) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "README.md").is_file()


def test_links_out_of_the_run_are_rejected(own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(own_run, run)
    (tmp_path / "secret.png").write_bytes((run / "figures" / "early_learning.png").read_bytes())
    (run / "figures" / "a.png").symlink_to(tmp_path / "secret.png")
    assert push(run, "--output", tmp_path / "out") == 2
    assert "a.png is a link that leads out of the run directory" in capsys.readouterr().err


def test_a_damaged_file_of_weights_is_named(own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first eight bytes of a safetensors file are the length of its header, here 2**64 - 1 bytes."""
    run = shutil.copytree(own_run, tmp_path / "run")
    (run / "pipeline").mkdir()
    (run / "pipeline" / "x.safetensors").write_bytes(b"\xff" * 8)
    assert push(run, "--output", tmp_path / "out") == 2
    assert "x.safetensors is not a readable file of weights" in capsys.readouterr().err
