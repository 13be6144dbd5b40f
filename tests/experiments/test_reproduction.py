from pathlib import Path

import pytest
import yaml

from experiments import commands, reproduction
from experiments.reproduction import Published, cells, load, page, read, write
from tests.command import ROOT
from tests.experiments.conftest import Config, Journal


def stated(path: Path, **changes: object) -> Path:
    """Write a file with one experiment; `changes` replace the values of keys, and None removes a key."""
    result = {"metric": "test/accuracy", "published": 0.9, "direction": "higher", "margin": 0.01}
    entry = {"name": "Our name", "paper": "Table 1", "config": "demo.yaml", "seeds": [0, 1], "results": [result]}
    for key, value in changes.items():
        (result if key in reproduction.RESULT_KEYS else entry)[key] = value
    kept = {key: value for key, value in entry.items() if value is not None}
    kept["results"] = [{key: value for key, value in result.items() if value is not None}] if entry["results"] else []
    path.write_text(yaml.safe_dump([kept]))
    return path


@pytest.mark.parametrize(
    ("direction", "published", "mean", "verdict"),
    [
        ("higher", 0.9, 0.95, "reproduced"),
        ("higher", 0.9, 0.87, "reproduced"),  # exactly the margin, although 0.9 - 0.87 > 0.03 in floats
        ("higher", 0.9, 0.8699, "not reached"),
        ("lower", 0.9, 0.85, "reproduced"),
        ("lower", 0.9, 0.9301, "not reached"),
        ("equal", 0.9, 0.9301, "not reached"),
        ("equal", 0.9, 0.8699, "not reached"),
        ("equal", 0.9, 0.88, "reproduced"),
        ("higher", 0.9, float("nan"), "not reached"),
    ],
)
def test_a_number_is_reproduced_within_its_margin(direction: str, published: float, mean: float, verdict: str) -> None:
    assert Published("test/x", published, direction, 0.03).verdict(mean) == verdict


def test_runs_are_compared_recorded_and_kept(config: Config, fit: list[str], journal: Journal, tmp_path: Path) -> None:
    folder = config("demo", start=0.895).parent  # 0.895 and 0.905: the mean is 0.9
    file = stated(folder / "reproduced.yaml", uncertainty=0.02, overrides=["--trainer.max_epochs", "2"], tried="no.")
    record, out = tmp_path / "reproduced.csv", tmp_path / "out"
    command = [str(file), "--output", str(out), "--record", str(record)]
    for _ in range(2):
        assert commands.run("reproduce", command, fit) == 0
        assert len([line for line in journal() if line[2] == "started"]) == 2
    [row] = read(record)
    assert read(out / "reproduced.csv") == [row]
    assert float(row["mean"]) == pytest.approx(0.9)
    assert (row["verdict"], row["seeds"], row["overrides"]) == ("reproduced", "0 1", "--trainer.max_epochs 2")
    assert float((out / "our_name/cpu_seconds.txt").read_text()) > 0
    assert cells(row) == ["Our name", "Table 1", "test/accuracy", "0.9 ± 0.02", "0.9000 ± 0.0071", "0, 1",
                          row["cpu_hours"], "at most 0.01 below", "reproduced: no."]  # fmt: skip
    assert f"| [M](m.md) | [Our name](../{row['config']}) | Table 1 |" in page([row], {"method": "[M](m.md)"})


@pytest.mark.parametrize(("reach", "verdict"), [(16, "reproduced"), (8, "not reached")])
def test_an_exponent_is_fitted_over_a_varied_key(
    reach: int, verdict: str, config: Config, fit: list[str], tmp_path: Path
) -> None:
    """If the metric is infinite for one value of the key, no exponent is fitted, not even to the other values."""
    file = stated(config("demo", start=0.5, width=1, reach=reach).with_name("reproduced.yaml"), metric="test/risk",
                  published=-0.5, direction="equal", vary={"model.width": [1, 2, 4, 16]})  # fmt: skip
    record = tmp_path / "reproduced.csv"
    command = [str(file), "--output", str(tmp_path / "out"), "--record", str(record)]
    assert commands.run("reproduce", command, fit) == (verdict == "not reached")
    [row] = read(record)
    assert (row["metric"], row["verdict"]) == ("exponent of test/risk in width", verdict)
    assert (row["overrides"], row["seeds"]) == ("--vary model.width=1,2,4,16", "0 1")
    assert (tmp_path / "out/our_name/width=4/seed_1/test_metrics.csv").is_file()
    if verdict == "reproduced":  # -0.5 for seed 0; for seed 1, the slope of log (2.1 + 0.01 w^(1/2)) is 0.0052 more
        assert (float(row["mean"]), float(row["std"])) == pytest.approx((-0.4974, 0.0037), abs=1e-4)
    else:
        assert row["mean"] == ""


def test_a_method_without_training_is_tested(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = stated(config("demo", start=0.895).with_name("reproduced.yaml"), command="test"), tmp_path / "out"
    command = [str(file), "--output", str(out)]
    assert commands.run("reproduce", command, fit) == 0
    assert [line[2] for line in journal() if line[2] in ("started", "epoch", "finished")] == ["started", "finished"] * 2
    [row] = read(out / "reproduced.csv")
    assert (row["verdict"], float(row["mean"])) == ("reproduced", pytest.approx(0.9))
    stated(file, command=None)
    assert commands.run("reproduce", command, fit) == 2
    assert 'contains a run with command "test", but now it is "fit"' in capsys.readouterr().err


def test_a_number_that_is_not_reached_stays_and_the_status_says_so(
    config: Config, fit: list[str], tmp_path: Path
) -> None:
    folder = config("demo", start=0.5, crash=[]).parent
    config("broken", crash=[1])
    record = tmp_path / "reproduced.csv"
    for name in ("demo", "broken"):
        file = stated(folder / f"{name}_reproduced.yaml", config=f"{name}.yaml", name=name)
        command = [str(file), "--output", str(tmp_path / "out"), "--record", str(record)]
        assert commands.run("reproduce", command, fit) == 1
    first, second = read(record)
    assert (first["verdict"], second["verdict"]) == ("not reached", "did not run")
    assert (second["mean"], second["published"]) == ("", "0.9")
    write(record, [{**first, "mean": "", "verdict": "did not run"}])
    assert read(record) == [first, second]
    text = page([first, second], {"method": "[M](m.md)"})
    assert "Of 2 numbers from 1 papers, 0 are reproduced and 1 are not reached." in text


def test_a_metric_that_the_runs_lack_is_named(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stated(config("demo", start=0.5).with_name("reproduced.yaml"), metric="test/acuracy")
    assert commands.run("reproduce", [str(file), "--output", str(tmp_path / "out")], fit) == 1
    assert "no metric test/acuracy; did you mean test/accuracy?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"published": "much"}, "published must be a number, got 'much'"),
        ({"published": True}, "published must be a number"),
        ({"margin": "nan"}, "margin must be a number, got 'nan'"),
        ({"margin": -0.1}, "margin must be at least 0, got -0.1"),
        ({"margin": None}, "margin is missing"),
        ({"metric": 3}, "metric must be a text, got 3"),
        ({"direction": "up"}, "direction must be one of higher, lower, equal, got 'up'"),
        ({"seeds": []}, "seeds must be a list of different whole numbers, got []"),
        ({"seeds": [0, 0]}, "seeds must be"),
        ({"overrides": "--x 1"}, "overrides must be a list of texts"),
        ({"overrides": ["--seed_everything", "1"]}, "--seed_everything cannot be overridden"),
        ({"name": ""}, "name must be a text, got ''"),
        ({"command": "predict"}, "command must be one of fit, test, got 'predict'"),
        ({"results": []}, "results must be a list of mappings"),
        (
            {"vary": {"model.start": [1, 2]}},
            "vary must be a mapping of one key to a list of at least 3 positive",
        ),
        ({"vary": {"model.start": [0, 1, 2]}}, "positive numbers"),
        ({"vary": ["model.start"]}, "positive numbers, got ['model.start']"),
        ({"vary": {"seed_everything": [1, 2, 3]}}, "cannot set seed_everything"),
        ({"vary": {"model.start": [1, 2, 2]}}, "has 2 twice"),
        ({"confg": "demo.yaml"}, "unknown key confg; did you mean config?"),
        ({"config": "none.yaml"}, "none.yaml does not exist"),
    ],
)
def test_a_file_with_errors_is_rejected(
    changes: dict[str, object], said: str, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stated(config("demo").with_name("reproduced.yaml"), **changes)
    assert commands.run("reproduce", [str(file), "--output", str(tmp_path / "out")], ["false"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_experiments_with_one_directory_are_rejected(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `--output`, both files would use the same directory, and the second would reuse the runs of the first."""
    files = [str(stated(config("demo", folder=name).with_name("reproduced.yaml"))) for name in ("elr", "adele")]
    assert commands.run("reproduce", [*files, "--output", str(tmp_path / "out")], ["false"]) == 2
    assert "the name 'Our name' is used twice" in capsys.readouterr().err


def test_every_stated_file_is_valid_and_every_record_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    files = sorted(ROOT.glob("configs/*/reproduced.yaml"))
    stated_rows = {
        (str(each.config), each.name, each.compared(one), str(one.published), str(one.margin))
        for file in files
        for each in load(file)
        for one in each.results
    }
    recorded = {tuple(row[key] for key in ("config", "experiment", "metric", "published", "margin"))
                for row in read(ROOT / "docs/reproduced.csv")}  # fmt: skip
    assert recorded <= stated_rows
