"""Published numbers: statements that have a number of the paper in the place of a baseline."""

from pathlib import Path

import pytest

from experiments import commands
from experiments.claims.arms import Arm
from experiments.claims.statements import Claim, load_claims
from experiments.claims.verdicts import compare_with_published, reproduced_page, verdict_cells
from experiments.results import latest, read_csv
from tests.command import ROOT
from tests.experiments.claims.test_statements import stated
from tests.experiments.conftest import Config, Journal, Rejected


def published(path: Path, **changes: object) -> Path:
    """Write a file with one statement about a published number; `changes` replace the values of keys."""
    entry = {"name": "Our name", "paper": "Table 1", "baseline": None, "published": 0.9, "margin": 0.01}
    return stated(path, **{**entry, **changes})


NAN = float("nan")


@pytest.mark.parametrize(
    ("direction", "mean", "std", "uncertainty", "verdict"),
    [
        ("higher", 0.95, NAN, None, "reproduced"),
        ("higher", 0.87, NAN, None, "reproduced"),  # exactly the margin, although 0.9 - 0.87 > 0.03 in floats
        ("higher", 0.8699, NAN, None, "not reached"),
        ("lower", 0.85, NAN, None, "reproduced"),
        ("lower", 0.9301, NAN, None, "not reached"),
        ("equal", 0.9301, NAN, None, "not reached"),
        ("equal", 0.8699, NAN, None, "not reached"),
        ("equal", 0.88, NAN, None, "reproduced"),
        ("higher", NAN, NAN, None, "not reached"),
        ("higher", 0.88, 0.05, 0.02, "not reached"),  # the published number has a deviation below the margin
        ("higher", 0.88, NAN, 0.05, "reproduced"),
        ("lower", 0.928, 0.01, None, "reproduced"),
        ("lower", 0.928, 0.04, None, "not reached"),  # reached by .002, and a tenth of the deviation is .004
    ],
)
def test_a_number_is_reproduced_within_its_margin(
    direction: str, mean: float, std: float, uncertainty: float | None, verdict: str
) -> None:
    arm = Arm(Path("c"))
    claim = Claim("a", "b", arm, None, "test/x", direction, 0.03, (0,), published=0.9, uncertainty=uncertainty)
    assert compare_with_published(claim, mean, std) == verdict


def test_runs_are_compared_recorded_and_kept(config: Config, fit: list[str], journal: Journal, tmp_path: Path) -> None:
    file = config("demo", start=0.895).with_name("claim.yaml")  # 0.895 and 0.905: the mean is 0.9
    arm = {"config": "demo.yaml", "trainer.max_epochs": 2}
    published(file, method=arm, uncertainty=0.02, tried="no.")
    record, out = tmp_path / "claims.csv", tmp_path / "out"
    command = [str(file), "--output", str(out), "--record", str(record)]
    for _ in range(2):
        assert commands.run("claim", command, fit) == 0
        assert len([line for line in journal() if line[2] == "started"]) == 2
    [row] = read_csv(record)
    assert read_csv(out / "claims.csv") == [row]
    assert float(row["method_mean"]) == pytest.approx(0.9)
    assert (row["verdict"], row["seeds"]) == ("reproduced", "0 1")
    assert row["method"] == f"{file.with_name('demo.yaml')} --trainer.max_epochs 2"
    assert float((out / "demo,max_epochs=2/cpu_seconds.txt").read_text()) > 0
    assert verdict_cells([row])[1] == [["Our name", "test/accuracy", "demo max_epochs=2: 0.9000 ± 0.0071",
                               "published: 0.9 ± 0.02", "-", "0", "0.01 higher", "reproduced: no."]]  # fmt: skip
    page = reproduced_page([{**row, "method": "configs/method/demo.yaml"}], {"method": "[M](m.md)"})
    assert "| Our name | [M](m.md): Table 1 | test/accuracy (higher) | demo max_epochs=2: 0.9000" in page


@pytest.mark.parametrize(("reach", "verdict"), [(16, "reproduced"), (8, "not reached")])
def test_an_exponent_is_fitted_over_a_varied_key(
    reach: int, verdict: str, config: Config, fit: list[str], tmp_path: Path
) -> None:
    """If the metric is infinite for one value of the key, no exponent is fitted, not even to the other values."""
    file = published(config("demo", start=0.5, width=1, reach=reach).with_name("claim.yaml"), metric="test/risk",
                  published=-0.5, direction="equal", vary={"model.width": [1, 2, 4, 16]})  # fmt: skip
    record = tmp_path / "claims.csv"
    command = [str(file), "--output", str(tmp_path / "out"), "--record", str(record)]
    assert commands.run("claim", command, fit) == (verdict == "not reached")
    [row] = read_csv(record)
    assert (row["metric"], row["verdict"]) == ("exponent of test/risk in width", verdict)
    assert (row["method"], row["seeds"]) == (f"{file.with_name('demo.yaml')} --vary model.width=1,2,4,16", "0 1")
    assert (tmp_path / "out/demo/width=4/seed_1/test_metrics.csv").is_file()
    if verdict == "reproduced":  # -0.5 for seed 0; for seed 1, the slope of log (2.1 + 0.01 w^(1/2)) is 0.0052 more
        assert (float(row["method_mean"]), float(row["method_std"])) == pytest.approx((-0.4974, 0.0037), abs=1e-4)
    else:
        assert row["method_mean"] == ""


def test_a_method_without_training_is_tested(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = config("demo", start=0.895).with_name("claim.yaml"), tmp_path / "out"
    published(file, method={"config": "demo.yaml", "command": "test"})
    command = [str(file), "--output", str(out)]
    assert commands.run("claim", command, fit) == 0
    assert [line[2] for line in journal() if line[2] in ("started", "epoch", "finished")] == ["started", "finished"] * 2
    [row] = read_csv(out / "claims.csv")
    assert (row["verdict"], float(row["method_mean"])) == ("reproduced", pytest.approx(0.9))
    published(file)
    assert commands.run("claim", command, fit) == 2
    assert 'contains a run with command "test", but now it is "fit"' in capsys.readouterr().err


def test_a_number_that_is_not_reached_stays_and_the_status_says_so(
    config: Config, fit: list[str], tmp_path: Path
) -> None:
    folder = config("demo", start=0.5, crash=[]).parent
    config("broken", crash=[1])
    record = tmp_path / "claims.csv"
    for name in ("demo", "broken"):
        file = published(folder / f"{name}_claim.yaml", method=f"{name}.yaml", name=name)
        command = [str(file), "--output", str(tmp_path / "out"), "--record", str(record)]
        assert commands.run("claim", command, fit) == 1
    first, second = read_csv(record)
    assert (first["verdict"], second["verdict"]) == ("not reached", "did not run")
    assert (second["method_mean"], second["published"]) == ("", "0.9")
    assert latest([first, second, {**first, "method_mean": "", "verdict": "did not run"}], ["claim"]) == [first, second]
    text = reproduced_page([{**each, "method": "configs/method/demo.yaml"} for each in (first, second)], {})
    assert "at sizes that were chosen here\n\n0 of 2 are reproduced." in text
    assert "the size of its experiment\n\n0 of 0 are reproduced." in text
    file = published(folder / "unclaimed.yaml", claimed=False)
    assert commands.run("claim", [str(file), "--output", str(tmp_path / "out")], fit) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"margin": -0.1}, "margin must be at least 0, got -0.1"),
        ({"published": None}, "unknown key vary"),
        ({"method": {"config": "demo.yaml", "seed_everything": 1}}, "--seed_everything cannot be overridden"),
        ({"method": {"config": "demo.yaml", "command": "predict"}}, "command must be one of fit, test, got 'predict'"),
        ({"method": {"confg": "demo.yaml"}}, "method must be a configuration or a mapping {config: FILE, key: value}"),
        ({"method": {"config": "demo.yaml", "--x": 1}}, "method: --x is not a dotted key such as model.optimizer.lr"),
        ({"vary": {"model.start": [1, 2]}}, "vary must be a mapping of one key to a list of at least 3 positive"),
        ({"vary": {"seed_everything": [1, 2, 3]}}, "cannot set seed_everything"),
        ({"baseline": "demo.yaml"}, "unknown key baseline"),
    ],
)
def test_a_file_with_errors_is_rejected(
    changes: dict[str, object], said: str, config: Config, rejected: Rejected, tmp_path: Path
) -> None:
    given = {"vary": {"model.start": [1, 2, 4]}, **changes}
    file = published(config("demo").with_name("claim.yaml"), **given)
    rejected("claim", [str(file), "--output", str(tmp_path / "out")], said)


def test_every_record_is_of_its_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims that are no longer stated name the commit that measured them."""
    monkeypatch.chdir(ROOT)
    every = [one for file in sorted(ROOT.glob("configs/*/claim.yaml")) for one in load_claims(file.relative_to(ROOT))]
    claims = {one.name: one for one in every}
    assert len(claims) == len(every)
    rows = read_csv(ROOT / "docs/claims.csv")
    assert len({row["claim"] for row in rows}) == len(rows)
    for row in rows:
        if (claim := claims.get(row["claim"])) is None:
            assert ", commit " in row["made"], row["claim"]
            continue
        vary = f" --vary {claim.vary.key}={','.join(claim.vary.values)}" if claim.vary else ""
        stated_arms = (f"{claim.method}{vary}", str(claim.baseline or ""))
        assert (row["method"], row["baseline"]) == stated_arms, row["claim"]
        assert (row["paper"], row["direction"], float(row["margin"])) == (claim.paper, claim.direction, claim.margin)
        assert row["metric"].removeprefix("exponent of ").partition(" in ")[0] == claim.metric
        assert row["seeds"].split() == list(map(str, claim.seeds)), row["claim"]
        assert float(row["published"] or "nan") == claim.published or claim.published is None
