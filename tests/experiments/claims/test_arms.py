"""Arms: configurations with overrides, in claims, on the command line and in names of directories."""

import shlex
from pathlib import Path

import pytest

from experiments import commands
from experiments.claims.arms import Arm, arm, stated_arm
from experiments.claims.statements import commands_of, load_claims
from experiments.run_request import load_experiments
from tests.command import ROOT
from tests.experiments.claims.test_statements import stated
from tests.experiments.conftest import Config, Journal, table

KRUM = "lightning_modules.optimization.monna.Krum"


def test_an_arm_is_a_config_with_dotted_keys(config: Config) -> None:
    demo = config("demo")
    given = {"config": "demo.yaml", "model.rule": KRUM, "data.seed": None, "model.sizes": [1, 2], "model.rate": 0.5}
    found = stated_arm(given, demo.parent, "here")
    texts = ("--model.rule", KRUM, "--data.seed", "null", "--model.sizes", "[1, 2]", "--model.rate", "0.5")
    assert found == Arm(demo, texts)
    assert arm(str(found)) == found
    assert found.settings == {"model.rule": KRUM, "data.seed": None, "model.sizes": [1, 2], "model.rate": 0.5,
                              "model": {}, "trainer.max_epochs": 3}  # fmt: skip
    assert found.directory == "demo,rule=Krum,seed=null,sizes=_1_2_,rate=0.5"
    assert stated_arm("demo.yaml", demo.parent, "here") == Arm(demo) == arm(str(demo))


def test_a_path_with_spaces_is_no_list_of_arguments(tmp_path: Path) -> None:
    (path := tmp_path / "a b.yaml").write_text("model: {}")
    assert arm(str(path)) == Arm(path)


def test_names_are_those_of_the_class_or_of_the_given_name(config: Config) -> None:
    demo = config("demo")
    network = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3}}
    given = [
        {},
        {"model.class_path": KRUM},
        {"model.net": network},
        {"model.a.lr": 1, "model.b.lr": 2, "name": "two rates"},
    ]
    arms = [stated_arm({"config": "demo.yaml", **each}, demo.parent, "here") for each in given]
    found = load_experiments(arms)
    assert [each.name for each in found] == ["demo", "demo,model=Krum", "demo,net=Linear", "demo,two_rates"]
    assert [each.label for each in found] == ["demo", "Krum", "demo net=Linear", "demo two_rates"]
    with pytest.raises(ValueError, match=r"demo.yaml --model.net 1 is given twice"):
        load_experiments([Arm(demo, ("--model.net", "1"))] * 2)
    with pytest.raises(ValueError, match="has the name demo,x of another arm: add `name` to one of them"):
        load_experiments([Arm(demo, ("--model.net", str(value)), name="x") for value in (1, 2)])


def test_arms_of_one_config_are_compared(config: Config, fit: list[str], journal: Journal, tmp_path: Path) -> None:
    """The stand-in reads `--model.start`: 0.9 with the override, and 0.5 without."""
    folder, out = config("demo", start=0.5).parent, tmp_path / "out"
    claim = {"method": {"config": "demo.yaml", "model.start": 0.9}, "baseline": "demo.yaml"}
    file = stated(folder / "claim.yaml", {**claim, "name": "first"}, {**claim, "name": "second", "margin": 0.9})
    assert commands.run("claim", [str(file), "--output", str(out)], fit) == 1
    first, second = table(out / "claims.csv")
    assert (first["verdict"], second["verdict"]) == ("holds", "does not hold")
    assert (first["method"], first["baseline"]) == (f"{folder}/demo.yaml --model.start 0.9", f"{folder}/demo.yaml")
    assert (first["method_name"], float(first["method_mean"])) == ("demo start=0.9", pytest.approx(0.905))
    assert (out / "demo,start=0.9/seed_1/test_metrics.csv").is_file()
    assert len([line for line in journal() if line[2] == "started"]) == 4
    compared = [f"{folder}/demo.yaml --model.start 0.7", f"{folder}/demo.yaml"]
    assert commands.run("compare", [*compared, "--seeds", "0", "--output", str(tmp_path / "compared")], fit) == 0
    assert (tmp_path / "compared/demo,start=0.7/seed_0/test_metrics.csv").is_file()


def test_show_prints_commands_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of a claim, a published number and an exponent name files of this project and existing keys."""
    from tests.conformance.experiments import experiments

    assert commands.run("claim", ["--show", "ELR stays accurate", str(ROOT / "configs/sso/claim.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "# ELR stays accurate"
    shown = [shlex.split(line) for line in lines if not line.startswith("#")]
    assert len(shown) > 10
    for command in shown[:2] + shown[-1:]:
        assert command[:4] == ["python", "train.py", "fit", "--config"]
        assert command[-4:-2] + command[-2:-1] == ["--seed_everything", command[-3], "--test_after_fit"]
        experiments().parsed("--config", ROOT / command[4], *command[5:])


def test_an_exponent_has_a_command_for_each_value() -> None:
    file = ROOT / "configs/sgd_noise/claim.yaml"
    [one] = [claim for claim in load_claims(file) if claim.name == "perceptron with chi = 1, over P: signal"]
    tails = [line.partition("--test_after_fit true ")[2] for line in commands_of([one], "train.py")]
    assert tails == ["", *(f"--data.table.num_points {value}" for value in (1024, 4096, 16384))]
