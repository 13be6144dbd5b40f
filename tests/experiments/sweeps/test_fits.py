import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import commands
from experiments.results import Result
from experiments.sweeps.exponents import fitted_exponent
from experiments.sweeps.fits import fits
from tests.experiments.conftest import Config, Rejected, table


def test_one_command_gives_exponents_with_what_was_left_out(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, out = config("a", max_epochs=1, start=0.9, width=1, reach=128, diverges=512), tmp_path / "out"
    arguments = [str(a), "--seeds", "0", "1", "2", "--output", str(out), "--metrics", "risk"]
    assert (
        commands.run("compare", [*arguments, "--vary", "model.width=16,512,32,64,128,256", "--fit", "width"], fit) == 0
    )
    [row] = table(out / "exponents.csv")
    x = [16.0, 32.0, 64.0, 128.0]
    law = fitted_exponent(x, [[(2 + 0.1 * seed) * w**-0.5 + 0.01 * seed for w in x] for seed in range(3)])
    assert float(row["exponent"]) == pytest.approx(law.exponent, rel=1e-9)
    assert float(row["error"]) == pytest.approx(law.error, rel=1e-6)
    assert (float(row["low"]), float(row["high"])) == pytest.approx((law.low, law.high), rel=1e-9)
    assert row["note"] == "256 left out, 1 of 3 not finite; 512 left out, 3 of 3 diverged"
    text = (out / "summary.md").read_text()
    assert f"| a | test/risk | width | {law.exponent:.3g} ± {law.error:.1g} | {law.low:.3g} to {law.high:.3g} |" in text
    assert "![](exponents.png)" in text
    assert (out / "exponents.png").read_bytes().startswith(b"\x89PNG")
    assert "fitted exponents" in capsys.readouterr().out


def test_each_value_of_the_other_keys_has_an_exponent_and_too_few_points_have_none(
    config: Config, fit: list[str], tmp_path: Path
) -> None:
    a, out = config("a", max_epochs=1, start=0.9, width=1, diverges=512), tmp_path / "out"
    grid = ["--vary", "model.diverges=1000,64", "--vary", "model.width=16,32,64"]
    arguments = [str(a), "--seeds", "0", "1", "--output", str(out), *grid, "--fit", "model.width", "--metrics", "risk"]
    assert commands.run("compare", arguments, fit) == 0
    first, second = table(out / "exponents.csv")
    assert (first["config"], first["note"]) == ("a diverges 1000", "")
    assert math.isfinite(float(first["exponent"]))
    assert (second["config"], second["exponent"]) == ("a diverges 64", "")
    assert second["note"] == (
        "no fit: 2 points have a positive value for every seed, but an exponent needs 3; 64 left out, 2 of 2 diverged"
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--fit", "width"], "--fit width is not a key of --vary, which has model.start"),
        (["--fit", "start", "--vary", "model.text=a,b,c", "--fit", "text"], "but --vary has a"),
        (["--fit", "start", "--vary", "model.width=0,1,2", "--fit", "width"], "needs positive numbers, but --vary"),
        (["--fit", "start", "--vary", "model.width=1,2", "--fit", "width"], "needs 3 values, got 1, 2"),
    ],
)
def test_what_no_power_law_can_be_fitted_in_is_refused_at_the_start(
    more: list[str], said: str, config: Config, rejected: Rejected, tmp_path: Path
) -> None:
    path = config("a", start=0.9, text="x", width=1)
    arguments = [str(path), "--seeds", "0", "--output", str(tmp_path / "out"), "--vary", "model.start=1,2,3", *more]
    rejected("compare", arguments, said)


def test_points_without_a_positive_value_are_left_out_with_the_reason() -> None:
    points = {1.0: [4.0, 5.0], 2.0: [2.0, 0.0], 4.0: [1.0, 1.5], 8.0: [0.5, -1.0], 16.0: [0.25, 0.3]}
    settings = [(f"a{x:g}", (("width", f"{x:g}"),)) for x in points]
    experiments: Any = [SimpleNamespace(title=title, label="a", setting=setting) for title, setting in settings]
    results = [Result(f"a{x:g}", "m", seed, y) for x, own in points.items() for seed, y in enumerate(own)]
    [found] = fits(results, experiments, ["width"])
    assert found.law is not None
    assert found.law.left_out == (2.0, 8.0)
    assert found.note == "2 left out, 1 of 2 not positive; 8 left out, 1 of 2 not positive"
