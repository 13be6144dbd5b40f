"""Wherever a configuration is read, a file with a `base` has the effect of two `--config` arguments."""

from enum import Enum
from pathlib import Path

import pytest
import yaml

import train
from experiments.calls.parse import parse
from experiments.config_files import dump_yaml, load_yaml, mapping_of
from experiments.load_run import load_run
from experiments.run_request import Run, load_experiments, request
from tests.command import ROOT

DEMO = ROOT / "configs/elr/demo.yaml"
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a folder with ELR's demo and files based on it, and a second folder next to it."""
    texts = {
        "elr/demo.yaml": DEMO.read_text(),
        "elr/weak.yaml": "# Weaker.\nbase: demo.yaml\nmodel.init_args.strength: 0.5\ntrainer: {max_epochs: 1}\n",
        "plain/same.yaml": "# The same run on other data.\nbase: ../elr/demo.yaml\n",
        "plain/baseline.yaml": "base: ../elr/demo.yaml\nmodel.class_path: lightning_modules.baselines.CrossEntropy\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_base_is_one_earlier_config(folder: Path) -> None:
    parser = parse(["fit", "--config", str(DEMO)]).grammar.parser

    def resolved(*files: Path) -> str:
        arguments = ["fit", *(text for file in files for text in ("--config", str(file)))]
        return parser.dump(parser.parse_args(arguments), skip_validation=True)

    demo, weak, baseline = folder / "elr/demo.yaml", folder / "elr/weak.yaml", folder / "plain/baseline.yaml"
    assert "base" not in resolved(weak)
    assert resolved(folder / "plain/same.yaml") == resolved(demo)
    by_hand = folder / "elr/by_hand.yaml"
    for file in (weak, baseline):
        by_hand.write_text(file.read_text().replace("base:", "# base:"))
        assert resolved(file) == resolved(demo, by_hand)
        content = yaml.safe_load(resolved(file))["fit"]
        assert content["data"] == yaml.safe_load(resolved(demo))["fit"]["data"]
    arguments = content["model"]["init_args"]  # a replacement class keeps the arguments that it accepts
    assert arguments["num_classes"] == 10
    assert "strength" not in arguments


def test_a_run_shows_and_keeps_the_resolved_file_and_is_named_after_the_first_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    weak = "elr/weak.yaml"
    with pytest.raises(SystemExit):
        train.main(["fit", "--config", weak, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert train.main(["fit", f"--config={weak}", *QUIET]) == 0
    [directory] = folder.glob("runs/elr/weak/*")
    saved = yaml.safe_load((directory / "config.yaml").read_text())
    for content in (printed, saved):
        assert content["model"]["init_args"]["strength"] == 0.5
        assert content["data"]["class_path"] == yaml.safe_load(DEMO.read_text())["data"]["class_path"]
        assert "base" not in content
    assert load_run(directory)[0].strength == 0.5


REFUSED = {
    "elsewhere": ("base: ../../demo.yaml", "base is '../../demo.yaml', but must be a file of the same folder"),
    "absolute": ("base: /demo.yaml", "base is '/demo.yaml', but must be a file of the same folder"),
    "no file": ("base: [demo.yaml]", "base is ['demo.yaml'], but must be a file of the same folder"),
    "missing": ("base: none.yaml", "base is none.yaml, which does not exist"),
    "two levels": ("base: weak.yaml", "base is weak.yaml, which has a base itself"),
    "not first": ("trainer: {max_epochs: 1}\nbase: demo.yaml", "base: demo.yaml must be the first key"),
    "in one line": (
        "{base: demo.yaml, trainer: {max_epochs: 1}}",
        "base: demo.yaml must be the first key, on a line of its own",
    ),
    "a key twice": (
        "trainer:\n  max_epochs: 1\n  min_epochs: 1\n  max_epochs: 2\n",
        "is not valid YAML: the key max_epochs occurs twice in one mapping, in lines 2 and 4",
    ),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_another_base_is_refused_in_one_sentence(
    text: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "elr/wrong.yaml"
    file.write_text(text)
    for subcommand in (["fit", "--config", str(file)], ["compare", str(file), "--seeds", "0"]):
        assert train.main(subcommand) in (1, 2)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith(f"error: {file}")
        assert said in error


def test_a_changed_base_is_another_run(folder: Path) -> None:
    demo = DEMO.read_text().replace("seed_everything: 0\n", "")
    (folder / "elr/demo.yaml").write_text(demo)

    def run() -> Run:
        [experiment] = load_experiments([folder / "elr/weak.yaml"], ["--config", str(folder / "plain/baseline.yaml")])
        return Run(experiment, 0, folder / "out")

    assert set(request(run())["layers"]) == {str(folder / "elr/demo.yaml"), str(folder / "plain/baseline.yaml")} | {
        str(folder / "plain/../elr/demo.yaml")
    }
    before = request(run())
    (folder / "elr/demo.yaml").write_text(demo.replace("strength: 3.0", "strength: 2.0"))
    assert request(run()) != before


def test_experiments_are_called_by_their_method_and_those_of_one_method_by_their_file(folder: Path) -> None:
    demo, weak, baseline = folder / "elr/demo.yaml", folder / "elr/weak.yaml", folder / "plain/baseline.yaml"
    assert [each.label for each in load_experiments([demo, baseline])] == ["ELR", "CrossEntropy"]
    labels = [each.label for each in load_experiments([demo, weak, baseline])]
    assert labels == ["ELR demo", "ELR weak", "CrossEntropy"]


class Colour(Enum):
    RED = "red"


def test_settings_are_written_as_the_dumper_in_python_writes_them() -> None:
    values = {"rate": 1e-5, "none": None, "no": "no", "text": "a: b é", "nested": {"empty": {}, "list": [1, [True]]}}
    expected = yaml.safe_dump(values, default_flow_style=False, allow_unicode=True, sort_keys=False)
    assert dump_yaml(values) == expected
    assert load_yaml(expected) == values
    assert dump_yaml({"colour": Colour.RED}) == "colour: red\n"
    assert load_yaml("a: &a {k: 1}\nb: {<<: *a, k: 2}\nc: {<<: *a}") == {"a": {"k": 1}, "b": {"k": 2}, "c": {"k": 1}}


def test_references_to_references_are_bounded(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"bomb\.yaml expands to more than 1000000 values"):
        mapping_of(tmp_path / "bomb.yaml")
