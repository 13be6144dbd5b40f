import csv
import sys
from pathlib import Path

import pytest

from experiments import commands
from experiments.config_files import settings_of
from experiments.launching.dry_run import errors_of
from experiments.method_table import table_cells
from experiments.run_request import load_experiments
from experiments.sweeps.variations import Variation, variation, vary_experiments
from tests.command import ROOT
from tests.experiments.conftest import Config, Journal, Rejected


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_one_call_makes_the_table_of_methods_over_settings(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [
        config(name, folder=folder, start=start, per_seed=0.02)
        for folder, start in (("elr", 0.9), ("cross_entropy", 0.5))
        for name in ("cifar10", "cifar10_asymmetric")
    ]
    out = tmp_path / "out"
    arguments = [*map(str, configs), "--vary", "cifar10:model.start=0.8,0.4", "--seeds", "0", "1", "--output", str(out)]
    assert commands.run("compare", arguments, fit) == 0
    table = rows(out / "table.csv")
    assert table[0] == ["metric", "method", "cifar10 start 0.8", "cifar10 start 0.4", "cifar10_asymmetric"]
    assert table[1] == ["test/accuracy", "elr", "0.810 ± 0.014", "0.410 ± 0.014", "0.910 ± 0.014"]
    assert table[2] == ["test/accuracy", "cross_entropy", "0.810 ± 0.014", "0.410 ± 0.014", "0.510 ± 0.014"]
    assert [row[:2] for row in table[3:]] == [["test/memorized", "elr"], ["test/memorized", "cross_entropy"]]
    assert sorted(path.relative_to(out).as_posix() for path in out.glob("elr/**/seed_1")) == [
        "elr/cifar10/start=0.4/seed_1",
        "elr/cifar10/start=0.8/seed_1",
        "elr/cifar10_asymmetric/seed_1",
    ]
    means = {(row[0], row[1]): row[2] for row in rows(out / "summary.csv")}
    assert float(means["elr/cifar10/start=0.4", "test/accuracy"]) == pytest.approx(0.41)
    markdown = (out / "summary.md").read_text()
    assert "## test/accuracy ↑\n\n| method | cifar10 start 0.8 |" in markdown
    assert "| elr | 0.810 ± 0.014 | 0.410 ± 0.014 | **0.910 ± 0.014** |" in markdown
    assert (out / "table.png").read_bytes().startswith(b"\x89PNG")
    assert "test/accuracy ↑, mean ± std over 2 seeds" in capsys.readouterr().out


def test_a_failed_run_is_a_gap_in_the_table_and_is_continued_by_the_same_command(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path
) -> None:
    a, out = config("a", start=0.9, crash=[]), tmp_path / "out"
    arguments = [str(a), "--seeds", "0", "--output", str(out), "--vary", "model.crash=[],[0]"]
    assert commands.run("compare", arguments, fit) == 1
    assert rows(out / "table.csv")[1] == ["test/accuracy", "a", "0.9", "-"]
    assert commands.run("compare", arguments, fit) == 1
    events = [(line[0], line[2]) for line in journal() if line[2] in ("started", "resumed")]
    assert events == [("crash=_", "started"), ("crash=_0_", "started"), ("crash=_0_", "resumed")]


def test_of_several_keys_all_combinations_are_run(config: Config) -> None:
    experiments = load_experiments([config("a", start=0.9, per_seed=0.1)])
    both = vary_experiments(experiments, [variation("model.start=0.1,0.2"), variation("model.per_seed=1,2,3")])
    assert [each.name for each in both] == [f"a/start={s},per_seed={p}" for s in ("0.1", "0.2") for p in (1, 2, 3)]
    assert both[-1].overrides == ("--model.start", "0.2", "--model.per_seed", "3")
    assert {each.config_name for each in both} == {"a"}
    assert table_cells(both)["a start 0.2, per_seed 3"] == ("a start 0.2", "per_seed 3")


def test_a_folder_with_its_baseline_is_a_row_for_each_method_without_a_gap() -> None:
    names = ("elr/demo", "elr/demo_baseline", "elr_plus/demo")
    experiments = load_experiments([ROOT / f"configs/{name}.yaml" for name in names])
    place = table_cells(vary_experiments(experiments, [variation("data.label_noise.noise_rate=0.2,0.4")]))
    columns = ["noise_rate 0.2", "noise_rate 0.4"]
    assert list(place.values()) == [(row, column) for row in ("ELR", "CrossEntropy", "ELRPlus") for column in columns]
    datasets = [
        ROOT / f"configs/{folder}/{file}.yaml"
        for folder in ("elr", "cross_entropy")
        for file in ("cifar10", "cifar100")
    ]
    assert list(table_cells(load_experiments(datasets)).values()) == [
        (folder, file) for folder in ("elr", "cross_entropy") for file in ("cifar10", "cifar100")
    ]


def test_joined_keys_have_the_same_value_and_are_called_by_the_first(config: Config) -> None:
    experiments = load_experiments([config("a", start=0.9, per_seed=0.1)])
    both = vary_experiments(experiments, [variation("model.start+model.per_seed=1,2")])
    assert [each.name for each in both] == ["a/start=1", "a/start=2"]
    assert both[1].overrides == ("--model.start", "2", "--model.per_seed", "2")
    assert both[1].setting == (("start", "2"),)


def test_what_cannot_be_built_is_named_before_anything_runs_and_what_is_finished_is_not_built(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, out = config("a", start=0.9), tmp_path / "out"
    program = "import json, sys; print('noise'); given = json.load(sys.stdin); "
    program += "print(json.dumps(['too high' if float(a[3]) > 0.5 else None for a in given]))"
    check = [sys.executable, "-c", program]
    arguments = [str(a), "--seeds", "0", "--output", str(out), "--vary"]
    assert commands.run("compare", [*arguments, "model.start=0.1,0.6,0.7"], fit, check) == 2
    assert "a/start=0.6 cannot be run: too high (nor can a/start=0.7)" in capsys.readouterr().err
    assert not journal()
    assert not out.exists()
    assert commands.run("compare", [*arguments, "model.start=0.1,0.2"], fit, check) == 0
    assert (
        commands.run("compare", [*arguments, "model.start=0.1,0.2"], fit, [sys.executable, "-c", "raise ValueError"])
        == 0
    )
    assert (
        commands.run("compare", [*arguments, "model.start=0.3"], fit, [sys.executable, "-c", "raise ValueError('x')"])
        == 2
    )
    assert "the experiments could not be checked" in capsys.readouterr().err


@pytest.mark.nightly
def test_real_experiments_are_built_with_their_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(ROOT / "configs/elr/demo.yaml")
    arguments = [path, "--seeds", "0", "--output", str(tmp_path / "out"), "--vary"]
    assert (
        commands.run("compare", [*arguments, "data.label_noise.noise_rate=0.2,1.4", "--", "--model.strength", "2"]) == 2
    )
    error = capsys.readouterr().err
    assert "demo/noise_rate=1.4 cannot be run: noise_rate must be in [0, 1), got 1.4\n" in error
    assert not (tmp_path / "out").exists()


def test_a_key_that_the_config_does_not_write_is_one_that_its_classes_have() -> None:
    demo = ROOT / "configs/elr/demo.yaml"
    assert "model.half_precision_targets" not in settings_of(demo)
    keys = (
        "model.half_precision_targets=true",
        "model.network.dropout=0.1",
        "data.label_noise.fraction=0.5",
        "model.strenght=3",
    )
    every = [vary_experiments(load_experiments([demo]), [variation(key)])[0] for key in keys]
    found = errors_of([["--config", str(demo), *each.overrides] for each in every])
    assert found[0] is None
    assert "Option 'dropout' is not accepted. It accepts in_features, hidden_features, out_features" in str(found[1])
    assert "Option 'fraction' is not accepted. It accepts noise_rate" in str(found[2])
    assert "did you mean strength" in str(found[3])


def test_init_args_may_be_left_out_and_names_match_with_and_without_folders(tmp_path: Path) -> None:
    text = "data: {class_path: A, init_args: {label_noise: {class_path: B, init_args: {noise_rate: 0.4}}}}"
    for folder in ("elr", "lsa"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cifar10.yaml").write_text(text)
        (tmp_path / folder / "cifar10_asymmetric.yaml").write_text(text)
    paths = sorted(tmp_path.glob("*/*.yaml"))
    experiments = load_experiments(paths)
    for pattern, count in {"cifar10": 2, "elr/cifar10": 1, "*": 4, "elr/*": 2, "cifar*c": 2}.items():
        for key in ("data.label_noise.noise_rate", "data.init_args.label_noise.init_args.noise_rate"):
            new = vary_experiments(experiments, [variation(f"{pattern}:{key}=0.2,0.4")])
            assert len(new) == 4 + count, pattern
            assert {each.setting[0][0] for each in new if each.setting} == {"noise_rate"}


def test_values_are_yaml_whose_brackets_hold_commas_together() -> None:
    assert variation("cifar10:model.milestones=[40, 80],[80]") == Variation(
        "cifar10", "model.milestones", ("[40, 80]", "[80]")
    )
    assert variation("model.a=1e-3,true,text,0.20").values == ("1e-3", "true", "text", "0.2")


def test_short_names_are_as_long_as_it_takes_to_tell_keys_apart(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("{model: {rate: 1, b: {rate: 1}}, data: {size: 1}}")
    new = vary_experiments(
        load_experiments([path]), [variation(f"{key}=1") for key in ("model.rate", "model.b.rate", "data.size")]
    )
    assert [key for key, _ in new[0].setting] == ["model.rate", "b.rate", "size"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--vary", "b:model.start=0.1"], "b:model.start applies to no config; the configs are a"),
        (["--vary", "model.start=0.1,high"], "high is a text, but"),
        (["--vary", "model.start=0.1,0.10"], "model.start has 0.1 twice"),
        (["--vary", "model.start"], "must be KEY=VALUE,VALUE,..."),
        (["--vary", "seed_everything=1,2"], "--vary cannot set seed_everything: --seeds sets it"),
        (["--vary", "model.start=1", "--vary", "model.start=2"], "sets model.start of a more than once"),
        (["--vary", "model.start=1,2", "--", "--model.start", "3"], "--vary and --model.start after `--` both set"),
        (["--vary", "model.start=1,2", "--", "--model.init_args.start=3"], "both set model.start of a"),
        (["--vary", "model.text=a/b,a b"], "the same name, a/text=a_b"),
    ],
)
def test_a_wrong_variation_is_one_sentence_and_runs_nothing(
    more: list[str], said: str, config: Config, rejected: Rejected, tmp_path: Path
) -> None:
    path = config("a", start=0.9, text="x")
    rejected("compare", [str(path), "--seeds", "0", "--output", str(tmp_path / "out"), *more], said)
