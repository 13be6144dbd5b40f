import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import t as student

from experiments import commands
from experiments.claims import verdicts
from experiments.claims.arms import Arm
from experiments.claims.statements import Claim, load_claims, place
from experiments.claims.verdicts import decide_claim, verdict
from experiments.launching import preflight
from experiments.launching.dry_run import errors_of
from experiments.results import Result, latest, read_csv
from tests.command import ROOT
from tests.experiments.conftest import Config, Journal, Rejected, table

SENTENCE = "The method | keeps the network\n from memorising."


def stated(path: Path, *claims: dict, **changes: object) -> Path:
    """Write a claim file with the given claims, or with a claim about accuracy and `changes` (None removes a key)."""
    entry = {
        "paper": SENTENCE,
        "method": "demo.yaml",
        "baseline": "demo_baseline.yaml",
        "metric": "test/accuracy",
        "direction": "higher",
        "margin": 0.05,
        "seeds": [0, 1],
    }
    entries = [{k: v for k, v in {**entry, **each}.items() if v is not None} for each in claims or (changes,)]
    path.write_text(yaml.safe_dump(entries if claims else entries[0]))
    return path


def a_claim(direction: str, margin: float) -> Claim:
    return Claim("name", "sentence", Arm(Path("a")), Arm(Path("b")), "m", direction, margin, (0, 1, 2))


@pytest.mark.parametrize(
    ("method", "baseline", "direction", "margin", "verdict"),
    [
        ([0.91, 0.90, 0.89], [0.80, 0.81, 0.79], "higher", 0.05, "holds"),
        # exactly the margin, although 0.95 - 0.9 < 0.05 in floats
        ([0.95, 0.95, 0.95], [0.90, 0.90, 0.90], "higher", 0.05, "holds"),
        ([0.9499, 0.9499, 0.9499], [0.90, 0.90, 0.90], "higher", 0.05, "does not hold"),
        # a seed's effect on both cancels in the difference: the intervals overlap, but the pairs agree
        ([0.99, 0.89, 0.79], [0.94, 0.83, 0.74], "higher", 0.05, "holds"),
        # the mean difference reaches the margin, but one pair contradicts it
        ([0.99, 0.99, 0.70], [0.80, 0.80, 0.79], "higher", 0.05, "does not hold"),
        ([0.80, 0.81, 0.79], [0.91, 0.90, 0.89], "higher", 0.05, "does not hold"),
        ([0.80, 0.81, 0.79], [0.91, 0.90, 0.89], "lower", 0.05, "holds"),
        ([0.91, 0.90, 0.89], [0.80, 0.81, 0.79], "lower", 0.05, "does not hold"),
        ([0.80, 0.81, 0.79], [0.91, 0.90, 0.89], "lower", 0.11, "does not hold"),
        ([0.8, 0.8], [0.8, 0.8], "higher", 0.0, "does not hold"),
        ([0.79, 0.80, 0.78], [0.80, 0.81, 0.81], "higher", -0.05, "holds"),
        ([0.86, 0.81, 0.70], [0.80, 0.81, 0.80], "lower", -0.05, "does not hold"),  # the test is not certain
        ([float("nan"), 0.8], [0.8, 0.8], "higher", 0.0, "does not hold"),
    ],
)
def test_a_claim_needs_the_margin_and_pairs_that_agree(
    method: list[float], baseline: list[float], direction: str, margin: float, verdict: str
) -> None:
    assert decide_claim(a_claim(direction, margin), method, baseline)[0] == verdict


def test_a_claim_of_which_a_seed_is_missing_did_not_run(config: Config, tmp_path: Path) -> None:
    claimed = replace(a_claim("higher", 0.05), method=Arm(config("a")), baseline=Arm(config("b")))
    planned = place([claimed], tmp_path / "out")
    results = [Result(name, "m", seed, value) for name, value in (("a", 0.9), ("b", 0.8)) for seed in range(3)]
    assert verdict(claimed, planned, results, []).verdict == "holds"
    found = verdict(claimed, planned, results[:-1], [])
    assert (found.verdict, found.p == found.p) == ("did not run", False)
    assert found.reason.startswith("b lacks the metric m in some seed")


def test_a_config_is_compared_with_what_it_was_given(config: Config, tmp_path: Path) -> None:
    given = {"baseline": "demo.yaml", "metric": "test/psnr", "baseline_metric": "test/noisy_psnr", "margin": 2}
    [read] = load_claims(stated(config("demo").with_name("claim.yaml"), **given))
    results = [
        Result("demo", metric, seed, value + seed)
        for metric, value in (("test/psnr", 30.0), ("test/noisy_psnr", 25.0))
        for seed in (0, 1)
    ]
    found = verdict(read, place([read], tmp_path / "out"), results, [])
    assert found.verdict == "holds"
    assert found.method is not None
    assert found.baseline is not None
    assert (found.method.mean, found.baseline.mean) == (30.5, 25.5)
    assert found.baseline.config == "demo: test/noisy_psnr"


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6),
    st.sampled_from(["higher", "lower"]),
)
def test_p_is_students_tail_of_the_paired_differences(pairs: list[tuple[float, float]], direction: str) -> None:
    method, baseline = np.array(pairs).T
    assume((method - baseline).std() > 1e-6)
    p = decide_claim(a_claim(direction, 0.0), method.tolist(), baseline.tolist())[3]
    gains = (method - baseline) * (1 if direction == "higher" else -1)
    statistic = gains.mean() / (gains.std(ddof=1) / math.sqrt(len(gains)))
    assert p == pytest.approx(student.sf(statistic, len(gains) - 1), rel=1e-6, abs=1e-12)


def test_a_claim_that_holds(config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = config("demo", start=0.9).parent
    config("demo_baseline", start=0.5, best_epoch=0.7)
    out = tmp_path / "out"
    path = stated(folder / "claim.yaml", seeds=[0, 1, 3])
    assert commands.run("claim", [str(path), "--output", str(out)], fit) == 0
    printed = capsys.readouterr().out
    assert "method/demo" in printed
    assert "holds" in printed
    [row] = table(out / "claims.csv")
    method = np.array([0.9, 0.91, 0.93])
    assert float(row["method_mean"]) == pytest.approx(method.mean(), abs=1e-12)
    assert float(row["method_std"]) == pytest.approx(method.std(ddof=1), abs=1e-12)
    assert float(row["baseline_mean"]) == pytest.approx(method.mean() - 0.4, abs=1e-12)
    assert float(row["baseline_best_epoch_mean"]) == pytest.approx(0.7 + 0.004 / 3, abs=1e-12)
    assert float(row["difference"]) == pytest.approx(0.4, abs=1e-12)
    assert (row["verdict"], row["seeds"], row["margin"]) == ("holds", "0 1 3", "0.05")
    assert row["paper"] == SENTENCE
    assert (out / "summary.csv").exists()
    assert (out / "comparison.png").exists()
    assert "**holds**" in (out / "claims.md").read_text()
    line = [str(path), "--output", str(out), "--format", "latex", "--figure_format", "pdf"]
    assert commands.run("claim", line, fit) == 0
    assert (out / "comparison.pdf").read_bytes().startswith(b"%PDF")
    shown = capsys.readouterr()
    assert shown.out.startswith("% claims\n\\begin{tabular}{lrrrrrrr}\n\\toprule\nclaim & metric &")
    assert "already finished" in shown.err


def test_claims_of_a_folder_share_their_runs_and_are_judged_on_their_own_seeds(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path
) -> None:
    folder = config("demo", start=0.9).parent
    config("demo_baseline", start=0.5)
    config("demo_other", start=0.7)
    stated(
        folder / "claim.yaml",
        {"name": "accuracy"},
        {"name": "memorised", "metric": "test/memorized", "direction": "lower", "margin": 0.3, "seeds": [1, 2]},
        {"name": "other", "baseline": "demo_other.yaml", "margin": 0.3},
    )
    more = stated(folder / "claim_more.yaml", name="more", margin=0.39, seeds=[0, 2])
    out = tmp_path / "out"
    assert commands.run("claim", [str(folder / "claim.yaml"), str(more), "--output", str(out)], fit) == 1
    rows = table(out / "claims.csv")
    assert [(row["claim"], row["verdict"]) for row in rows] == [
        ("accuracy", "holds"),
        ("memorised", "does not hold"),
        ("other", "does not hold"),
        ("more", "holds"),
    ]
    assert float(rows[1]["method_mean"]) == pytest.approx(np.mean([0.2, 0.5]))
    started = [(line[0], line[1]) for line in journal() if line[2] == "started"]
    assert sorted(started) == sorted(
        [(name, seed) for name in ("demo", "demo_baseline") for seed in "012"] + [("demo_other", seed) for seed in "01"]
    )


def test_what_is_not_claimed_is_reported_and_fails_nothing(config: Config, fit: list[str], tmp_path: Path) -> None:
    folder = config("demo", start=0.9).parent
    config("demo_baseline", start=0.5)
    file = stated(folder / "claim.yaml", {"name": "holds"}, {"name": "fails", "margin": 0.9, "claimed": False})
    out = tmp_path / "out"
    assert commands.run("claim", [str(file), "--output", str(out)], fit) == 0
    rows = table(out / "claims.csv")
    assert [(row["claim"], row["verdict"]) for row in rows] == [("holds", "holds"), ("fails", "does not hold")]
    assert "**does not hold**: difference" in (out / "claims.md").read_text()


def test_folders_have_places_of_their_own_and_one_table_above(
    config: Config, fit: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = []
    for name, start in (("elr", 0.9), ("adele", 0.52)):
        folder = config("demo", folder=name, start=start).parent
        config("demo_baseline", folder=name, start=0.5)
        files.append(str(stated(folder / "claim.yaml")))
    assert commands.run("claim", [files[0]], fit) == 0
    assert table(Path("runs/claims/elr/claims.csv"))[0]["method"] == "configs/elr/demo.yaml"
    assert not Path("runs/claims/claims.csv").exists()
    assert commands.run("claim", files, fit) == 1
    rows = table(Path("runs/claims/claims.csv"))
    assert [(row["claim"], row["verdict"]) for row in rows] == [
        ("elr/demo", "holds"),
        ("adele/demo", "does not hold"),
    ]
    assert [row["claim"] for row in table(Path("runs/claims/adele/claims.csv"))] == ["adele/demo"]


def test_a_record_keeps_the_latest_figures_of_every_claim(config: Config, fit: list[str], tmp_path: Path) -> None:
    folder = config("demo", start=0.9).parent
    config("demo_baseline", start=0.5, best_epoch=0.7)
    config("demo_broken", start=0.5, crash=[1])
    record = tmp_path / "claims.csv"
    both = stated(folder / "claim.yaml", {"name": "first"}, {"name": "second", "baseline": "demo_broken.yaml"})
    assert commands.run("claim", [str(both), "--output", str(tmp_path / "out"), "--record", str(record)], fit) == 1
    first, second = read_csv(record)
    assert first == read_csv(tmp_path / "out/claims.csv")[0]
    assert "did not run" in second["verdict"]
    text = verdicts.claims_table([first, second])
    assert text == (tmp_path / "out/claims.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith(("| first", "| second"))]
    assert "The method \\| keeps the network from memorising." in lines[0]
    cells = [cell.strip() for cell in lines[0].replace("\\|", "").strip("|").split("|")]
    assert cells[2:] == [
        "test/accuracy (higher)",
        "demo: 0.9050 ± 0.0071",
        "demo_baseline: 0.5050 ± 0.0071",
        "0.70050 ± 0.00071",
        "0.4 ± 0 (p = 0)",
        "0.05",
        "**holds**",
        "0, 1",
    ]
    assert "**did not run**: demo_broken, seed 1 failed, exit status 3" in lines[1]
    assert "torch " in text
    assert " cores)" in text
    again = stated(folder / "claim.yaml", name="second", margin=0.1)
    assert commands.run("claim", [str(again), "--output", str(tmp_path / "out"), "--record", str(record)], fit) == 0
    kept, changed = read_csv(record)
    assert kept == first
    assert (changed["verdict"], changed["margin"]) == ("holds", "0.1")
    assert latest([first, second, {**first, "verdict": "did not run", "method_mean": ""}], ["claim"]) == [first, second]


def test_a_metric_that_is_not_there_is_said_after_the_first_run(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = config("demo", start=0.9).parent
    config("demo_baseline", start=0.5)
    path = stated(folder / "claim.yaml", metric="test/acuracy")
    for _ in range(2):
        assert commands.run("claim", [str(path), "--output", str(tmp_path / "out")], fit) == 2
        told = "has no metric test/acuracy; did you mean test/accuracy? The metrics are test/accuracy, test/memorized"
        assert told in capsys.readouterr().err
        assert len(list(tmp_path.rglob("test_metrics.csv"))) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"margins": 0.1}, "unknown key margins; did you mean margin? The keys are paper"),
        ({"paper": None}, "paper is missing"),
        ({"direction": "up"}, "direction must be higher or lower, got 'up'"),
        ({"margin": "much"}, "margin must be a number, got 'much'"),
        ({"margin": float("nan")}, "margin must be a number"),
        ({"seeds": [0, 0]}, "seeds must be a list of at least 2 different"),
        ({"method": "none.yaml"}, "method names"),
        ({"baseline": "demo.yaml"}, "method and baseline must be two different configs"),
    ],
)
def test_what_is_wrong_with_a_claim_is_said_before_anything_runs(
    changes: dict, said: str, config: Config, rejected: Rejected, tmp_path: Path
) -> None:
    folder = config("demo", start=0.9).parent
    config("demo_baseline", start=0.5)
    good, bad = stated(folder / "good.yaml"), stated(folder / "bad.yaml", {}, changes)
    rejected("claim", [str(good), str(bad), "--output", str(tmp_path / "out")], f"{bad}, claim 2: {said}")


def test_what_can_not_be_built_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experiments are built in this process; building them in a separate process is tested with sweeps."""
    monkeypatch.setattr(preflight, "_answer", lambda command, arguments, *_: (errors_of(arguments), ""))
    (tmp_path / "demo.yaml").write_text((ROOT / "configs/elr/demo.yaml").read_text())
    (tmp_path / "demo_baseline.yaml").write_text("base: demo.yaml\ndata.label_noise.noise_rate: 1.4\n")
    path = stated(tmp_path / "claim.yaml")
    assert commands.run("claim", [str(path), "--output", str(tmp_path / "out")]) == 2
    assert "demo_baseline cannot be run: noise_rate must be in [0, 1), got 1.4\n" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_defaults_hold_for_the_claims_below_them_up_to_the_next(config: Config) -> None:
    folder = config("demo").parent
    config("demo_baseline")
    claim = "- {name: %s, method: demo.yaml, baseline: demo_baseline.yaml, margin: 1%s}\n"
    common = "- defaults: {paper: %s, metric: test/%s, direction: higher, seeds: %s}\n"
    lower, only_a_figure = ", direction: lower", "- {method: demo.yaml, figure: {image: a}}\n"
    (path := folder / "claim.yaml").write_text(
        common % ("A", "psnr", "[0, 1]") + claim % ("one", "") + only_a_figure + claim % ("two", lower)
        + common % ("B", "ssim", "[2, 3]") + claim % ("three", "")
    )  # fmt: skip
    assert [(each.paper, each.metric, each.direction, each.seeds) for each in load_claims(path)] == [
        ("A", "test/psnr", "higher", (0, 1)),
        ("A", "test/psnr", "lower", (0, 1)),
        ("B", "test/ssim", "higher", (2, 3)),
    ]
    for text, said in (
        ("- defaults: {seed: 1}\n" + claim % ("one", ""), "claim.yaml, claim 1: unknown key seed; did you mean seeds?"),
        ("- defaults: [0, 1]\n" + claim % ("one", ""), r"claim.yaml: defaults must be a mapping.* got \[0, 1\]"),
        ("- defaults: {margin: 1}\n", "claim.yaml contains no claim"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            load_claims(path)


@pytest.mark.parametrize("margin", ["5e-2", 0, 1, -0.05])
def test_margins_as_people_write_them(margin: object, config: Config) -> None:
    folder = config("demo").parent
    config("demo_baseline")
    assert load_claims(stated(folder / "claim.yaml", margin=margin))[0].margin == float(str(margin))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.yaml"], "none.yaml does not exist"),
        (["empty.yaml"], "must be a mapping"),
        (["no_claims.yaml"], "contains no claim"),
    ],
)
def test_bad_arguments_are_one_sentence(
    arguments: list[str], said: str, rejected: Rejected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.yaml").write_text("")
    Path("no_claims.yaml").write_text("[]")
    rejected("claim", arguments, said)
