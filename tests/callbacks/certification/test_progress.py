import re
import time
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from torch.utils.data import DataLoader

from callbacks.certification import progress as progress_module
from callbacks.certification.log import row_of
from callbacks.certification.progress import CertificationProgress
from lightning_modules.robustness.certificates.modes import FixedSampling
from tests.callbacks.certification.planes import Images, Planes, certification, certified, run


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the lines that are printed without a terminal."""
    told: list[str] = []
    monkeypatch.setattr(progress_module, "rank_zero_info", told.append)
    return told


def test_progress_shows_images_accuracy_and_draws(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # the output is treated as a terminal
    monkeypatch.setenv("COLUMNS", "200")
    rows: dict[int, dict[str, str]] = {}
    with CertificationProgress(lambda: rows, 4, [0.0, 0.25], enabled=True) as progress:
        for index, radius in enumerate((0.3, 0.1)):
            rows[index] = row_of(certified(index, radius=radius))
        progress.show(5000, now=True)
        time.sleep(0.2)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    for part in ("2/4", "certified accuracy 100.0% at 0, 50.0% at 0.25", "draws/s"):
        assert part in shown


def test_progress_without_a_terminal_is_a_line_now_and_then(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
    with CertificationProgress(lambda: {0: row_of(certified())}, 4, [0.0], enabled=True) as progress:
        progress.show(100, now=True)
    assert lines[0].startswith("certified 1 of 4 images  certified accuracy 100.0% at 0")
    assert "left" not in lines[0]  # the duration of the only row is unknown
    with CertificationProgress(lambda: {}, 4, [0.0], enabled=False) as progress:
        progress.show(100, now=True)
    assert len(lines) == 2


def test_a_line_counts_draws_of_all_processes_and_tells_the_time_left(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    rows = {0: row_of(certified(0, draws=10**9))}  # from an earlier run
    with CertificationProgress(lambda: rows, 9, [0.0], enabled=True) as progress:
        rows.update({index: row_of(certified(index, draws=5000)) for index in (1, 2)})
        clock[0] += 100
        progress.show(3000)
        clock[0] += 100
        rows[3] = row_of(certified(3, draws=5000))
        progress.show(None)
    assert "  100 draws/s  0:05:00 left" in lines[0]
    assert "  75 draws/s  0:05:33 left" in lines[1]


def test_progress_is_shown_while_an_image_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int | None] = []
    monkeypatch.setattr(CertificationProgress, "show", lambda self, num_draws, now=False: shown.append(num_draws))
    run(tmp_path, certification(FixedSampling(n0=150, n=3000), max=1))
    assert 150 in shown
    assert len({draws for draws in shown if draws}) == 21


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_the_trainers_own_bar_goes_on_afterwards(bar: type, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = [bar(), certification(skip=4)]
    trainer = Trainer(default_root_dir=tmp_path, logger=False, accelerator="cpu", callbacks=callbacks)
    trainer.test(Planes(), DataLoader(Images(), batch_size=4), verbose=False)
    assert "Testing" in capsys.readouterr().out
    assert (tmp_path / "certification.csv").is_file()
