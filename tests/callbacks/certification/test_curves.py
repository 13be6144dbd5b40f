from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from callbacks.certification.curves import (
    accuracy_table,
    certification_summary,
    draw_certified_curves,
    is_tight,
    read_log,
)
from callbacks.certification.log import COMMUNITY
from lightning_modules.robustness.certificates.adaptive_sampling import Anytime, Curve, InputSpecific, Stages
from lightning_modules.robustness.certificates.modes import FixedSampling, Mode
from tests.callbacks.certification.planes import certification

OFFICIAL = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t3\t3\t1.01\t1\t0:00:15.9
20\t8\t-1\t0.0\t1\t15.2
40\t1\t1\t0.25\t2\t15.1
60\t4\t2\t0.7\t2\t15.0
80\t4\t4\t0.0001\t3\t15.0
100\t4\t4\t0.0\t3\t15.0
"""
QUARTERS = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]


def test_logs_of_other_projects_are_read(tmp_path: Path) -> None:
    """Such logs have a running count as `correct` and seconds as `time`, and may end in the middle of a line."""
    path = tmp_path / "official"
    path.write_text(OFFICIAL + "120\t4\t4\t8.6")  # the number 8.6e-05, cut off while it was being written
    log = read_log(path)
    assert log["correct"].tolist() == [True, False, True, False, True, False]
    assert certification_summary(log, [0.0, 0.25, 0.5, 0.125]) == {
        "acr": pytest.approx((1.01 + 0.25 + 0.0001) / 6),
        "certified_accuracy_0.00": 0.5,
        "certified_accuracy_0.25": pytest.approx(1 / 3),
        "certified_accuracy_0.50": pytest.approx(1 / 6),
        "certified_accuracy_0.125": pytest.approx(1 / 3),
    }
    wide = tmp_path / "wide.tsv"
    lines = OFFICIAL.splitlines()
    wide.write_text("\n".join([lines[0] + "\tpA\tsamplesize", *(line + "\t0.9\t1000" for line in lines[1:]), ""]))
    pd.testing.assert_frame_equal(read_log(wide)[list(COMMUNITY)], log[list(COMMUNITY)])
    path.write_text(OFFICIAL + "40\t1\t1\t0.25\t2\t15.1\n")
    with pytest.raises(ValueError, match="several rows for image 40"):
        read_log(path)


def test_radius_0_is_an_abstention_in_logs_of_others_and_may_be_a_claim_in_ours(tmp_path: Path) -> None:
    """If they abstain, the DRS authors keep the selected class; in our mode `Curve`, 0 is a radius of the grid."""
    official, ours = tmp_path / "official.tsv", tmp_path / "run" / "certification.tsv"
    ours.parent.mkdir()
    for path in (official, ours):
        path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.3\t1\t1\n1\t3\t3\t0.0\t1\t1\n")
    (ours.parent / "certification_settings.json").write_text("{}")
    assert read_log(official)["predict"].tolist() == [3, -1]
    assert read_log(ours)["predict"].tolist() == [3, 3]
    sidecar = ours.with_suffix(".csv")
    sidecar.write_text("idx,label,predict,radius,outcome\n0,3,3,0.3,placed\n1,3,3,0.0,placed\n")
    (ours.parent / "certification_settings.json").unlink()
    assert [
        certification_summary(read_log(path), [0.0])["certified_accuracy_0.00"] for path in (official, sidecar)
    ] == [0.5, 1.0]


def test_a_curve_falls_just_beyond_each_radius(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[tuple[np.ndarray, np.ndarray, str]] = []
    monkeypatch.setattr(Axes, "step", lambda self, x, y, where, label: drawn.append((x, y, where)))
    monkeypatch.setattr(Axes, "legend", lambda self, fontsize: None)
    log = pd.DataFrame({"idx": range(4), "label": 0, "predict": [0, 0, 1, 0], "radius": [0.2, 0.5, 3.0, 0.5]})
    log["correct"] = log["predict"] == log["label"]
    draw_certified_curves({"one": log}, tmp_path / "curve.png", {"one": {"alpha": 0.001}})
    x, y, where = drawn[0]
    np.testing.assert_allclose(x, [0.0, 0.2, 0.5, 3.15])
    np.testing.assert_allclose(y, [0.75, 0.75, 0.5, 0.0])
    assert where == "pre"  # between two radii, the value at the larger one applies
    assert accuracy_table({"one": log}, [0.3], {"one": {"alpha": 0.001}})["certified_accuracy"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("mode", "radii", "tight"),
    [
        (FixedSampling(), QUARTERS, [*QUARTERS, None]),
        (Curve(grid=0.2), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]),
        (Stages(radius=0.3), [0.0, 0.25, 0.3, 0.5, 0.75, 1.0, 1.25, 1.5], [0.3]),
        (Anytime(radius=0.5), QUARTERS, [0.5]),
        (Anytime(), QUARTERS, [*QUARTERS, None]),
        (Anytime(largest_radius=0.5), QUARTERS, [0.0, 0.25, 0.5]),
        (InputSpecific(), QUARTERS, [*QUARTERS, None]),
    ],
)
def test_every_mode_is_reported_where_it_is_tight(mode: Mode, radii: list[float], tight: list[float | None]) -> None:
    """`tight` lists the radii at which the accuracy is more than a lower bound; None represents the mean radius."""
    assert certification(mode).radii == radii
    assert [radius for radius in [*radii, None] if is_tight(mode.settings, radius)] == tight
    if isinstance(mode, Curve):
        assert [is_tight(mode.settings, radius) for radius in (0.25, 0.5, 0.75, 1.0)] == [False, False, False, True]
