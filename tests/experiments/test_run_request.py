import json
from pathlib import Path

import pytest

from experiments import commands
from experiments.run_request import load_experiments, setting_of, unique_names
from tests.experiments.conftest import Config, table


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": 0.8}, "model.start 0.9, but now it is 0.8"),
        ({"per_seed": 0.5}, "model.per_seed absent, but now it is 0.5"),
        ({"max_epochs": 7}, "trainer.max_epochs 3, but now it is 7"),
    ],
)
def test_another_config_is_refused_by_key_and_values(
    change: dict, said: str, config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    path = config("a", start=0.9)
    assert commands.run("compare", [str(path), "--seeds", "0", "--output", str(out)], fit) == 0
    before = (out / "a/seed_0/test_metrics.csv").read_bytes()
    capsys.readouterr()
    config("a", **{"start": 0.9, **change})
    assert commands.run("compare", [str(path), "--seeds", "0", "1", "--output", str(out)], fit) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{out}/a/seed_0 contains a run with {said}" in error
    assert (out / "a/seed_0/test_metrics.csv").read_bytes() == before
    assert not (out / "a/seed_1").exists()


def test_other_overrides_are_refused_and_a_comment_is_not_another_config(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = config("a", start=0.9), tmp_path / "out"
    arguments = [str(path), "--seeds", "0", "--output", str(out)]
    assert commands.run("compare", [*arguments, "--", "--trainer.max_epochs", "2"], fit) == 0
    assert json.loads((out / "a/seed_0/config.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert commands.run("compare", [*arguments, "--", "--trainer.max_epochs", "4"], fit) == 2
    assert '--trainer.max_epochs "2", but now it is "4"' in capsys.readouterr().err
    assert commands.run("compare", arguments, fit) == 2
    assert '--trainer.max_epochs "2", but now it is absent' in capsys.readouterr().err
    path.write_text("# a comment\n" + path.read_text())
    assert commands.run("compare", [*arguments, "--", "--trainer.max_epochs", "2"], fit) == 0


def test_a_layered_config_is_part_of_what_was_asked_for(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = tmp_path / "trainer.yaml"
    layer.write_text("trainer: {accelerator: cpu}")
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(tmp_path / "out"), "--", "--config"]
    assert commands.run("compare", [*arguments, str(layer)], fit) == 0
    layer.write_text("trainer: {accelerator: gpu}")
    assert commands.run("compare", [*arguments, str(layer)], fit) == 2
    assert f'{layer}: trainer.accelerator "cpu", but now it is "gpu"' in capsys.readouterr().err


def test_the_order_of_layered_configs_counts(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("trainer: {accelerator: cpu}")
    second.write_text("trainer: {precision: 32}")
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(tmp_path / "out"), "--"]
    assert commands.run("compare", [*arguments, f"--config={first}", f"--config={second}", "--x", "1"], fit) == 0
    assert commands.run("compare", [*arguments, f"--config={second}", f"--config={first}", "--x", "1"], fit) == 2
    assert "contains a run with" in capsys.readouterr().err


def test_same_names_are_told_apart_by_folder(config: Config, fit: list[str], tmp_path: Path) -> None:
    a, b = config("demo", folder="elr", start=0.9), config("demo", folder="adele", start=0.8)
    out = tmp_path / "out"
    assert commands.run("compare", [str(a), str(b), "--seeds", "0", "--output", str(out)], fit) == 0
    assert [row["config"] for row in table(out / "runs.csv")] == ["elr/demo"] * 2 + ["adele/demo"] * 2
    assert (out / "adele/demo/seed_0/test_metrics.csv").exists()


def test_names_are_the_shortest_tails_that_differ(tmp_path: Path) -> None:
    assert unique_names([tmp_path / "x/a", tmp_path / "x/b"]) == ["a", "b"]
    assert unique_names([tmp_path / "p/x/a", tmp_path / "q/x/a", tmp_path / "q/x/b"]) == ["p/x/a", "q/x/a", "q/x/b"]
    with pytest.raises(ValueError, match="x/a"):
        unique_names([tmp_path / "x/a", tmp_path / "x/../x/a"])


@pytest.mark.parametrize("flag", ["--config=", "--config", "-c", "its base", "its text"])
@pytest.mark.parametrize(
    ("key", "value", "sets"),
    [
        ("seed_everything", 7, "--seeds"),
        ("run_directory", "x", "--output"),
        ("resume", "x", "--output"),
        ("test_after_fit", False, "compare"),
        ("ckpt_path", "x.ckpt", "compare"),
    ],
)
def test_a_layer_sets_nothing_that_the_comparison_sets(
    flag: str, key: str, value: object, sets: str, config: Config, fit: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    layer = tmp_path / "layer.yaml"
    layer.write_text(json.dumps({key: value}))
    given = str(layer)
    if flag == "its base":
        (tmp_path / "own.yaml").write_text("base: layer.yaml\ntrainer: {accelerator: cpu}\n")
        given = str(tmp_path / "own.yaml")
    elif flag == "its text":
        given = layer.read_text()
    layers = [f"--config={given}"] if flag == "--config=" else [flag if flag[0] == "-" else "--config", given]
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "1", "--output", str(tmp_path / "out"), "--", *layers]
    assert commands.run("compare", arguments, fit) == 2
    assert capsys.readouterr().err == f"error: --config {given} cannot set {key}: {sets} sets it for each run\n"
    assert not (tmp_path / "out").exists()


def test_a_layer_by_its_short_name_is_part_of_a_setting(config: Config, tmp_path: Path) -> None:
    layer = tmp_path / "layer.yaml"
    layer.write_text("trainer: {devices: 4}")
    for overrides in (("-c", str(layer)), ("--config", str(layer)), ("--config", "trainer: {devices: 4}")):
        (experiment,) = load_experiments([config("a", start=0.9)], overrides)
        assert setting_of(experiment, "trainer.devices") == 4
