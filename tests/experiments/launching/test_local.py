from pathlib import Path

import pytest

from experiments import compare
from experiments.launching import local
from tests.experiments.conftest import Config, Journal


def test_children_that_run_together_share_the_cores(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "cores", lambda: 7)
    path = config("a", start=0.9, seconds=1.0)
    arguments = [str(path), "--seeds", "0", "1", "2", "--output", str(tmp_path / "out")]
    assert compare.main([*arguments, "--jobs", "3"], fit) == 0
    assert {line[3] for line in journal() if line[2] == "threads"} == {"2"}
    first_end = next(i for i, line in enumerate(journal()) if line[2] == "finished")
    assert sum(line[2] == "started" for line in journal()[:first_end]) == 3
    (tmp_path / "configs/method/journal.txt").unlink()
    config("a", start=0.9)
    assert compare.main([*arguments[:-1], str(tmp_path / "one by one")], fit) == 0
    assert {line[3] for line in journal() if line[2] == "threads"} == {"None"}
    starts = [i for i, line in enumerate(journal()) if line[2] == "started"]
    ends = [i for i, line in enumerate(journal()) if line[2] == "finished"]
    assert all(end < start for end, start in zip(ends, starts[1:], strict=False))


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
def test_each_of_the_runs_beside_each_other_has_gpus_of_its_own(
    fresh: list[str], config: Config, fit: list[str], journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b,MIG-c")
    path = config("a", start=0.9, seconds=0.2)
    arguments = [str(path), "--seeds", *"0123456", "--output", str(tmp_path / "out"), "--cpus_per_job", "3", *fresh]
    assert compare.main(arguments, fit) == 0
    given = {line[1]: line[3] for line in journal() if line[2] == "CUDA_VISIBLE_DEVICES"}
    assert set(given.values()) == {"MIG-a", "MIG-b", "MIG-c"}
    assert {line[3] for line in journal() if line[2] == "threads"} == {"3"}
    busy: set[str] = set()
    for _, seed, event, *_ in journal():
        if event == "started":
            assert given[seed] not in busy
            busy.add(given[seed])
        elif event == "finished":
            busy.remove(given[seed])
    (tmp_path / "configs/method/journal.txt").unlink()
    none = [str(path), "--seeds", "0", "--output", str(tmp_path / "none"), "--gpus_per_job", "0", *fresh]
    assert compare.main(none, fit) == 0
    assert [line[3] for line in journal() if line[2] == "CUDA_VISIBLE_DEVICES"] == ["none"]
