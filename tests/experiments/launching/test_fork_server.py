"""A forked process behaves like a new one, reuses earlier processes' imports, and may die without affecting others."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from experiments import commands
from experiments.launching.fork_server import AVAILABLE, Forked, ForkServer
from experiments.launching.run_queue import TRAIN
from tests.command import ROOT, environment
from tests.experiments.conftest import Config, Journal, table

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="processes are forked on Linux alone")


def ended(process: Forked, seconds: float = 60) -> int:
    deadline = time.monotonic() + seconds
    while (status := process.poll()) is None:
        assert time.monotonic() < deadline, "the process did not end"
        process.server.listen(0.1)
    return status


STATE = """
import os, signal, sys, threading
import __main__, numpy
print(sys.argv, __main__.__spec__, __main__.__file__, __name__, sys.path[0], sys.stdin.read())
print(os.environ["OWN"], os.getpgid(0) == os.getpid(), threading.active_count())
print([signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1)])
print(sorted(name for name in os.environ if "CUDA" in name), numpy.geterr(), signal.set_wakeup_fd(-1))
print(len(os.listdir("/proc/self/fd")))
import atexit
atexit.register(print, "at the end")
threading.Timer(0.2, print, ["a thread that is waited for"]).start()
sys.exit("a last word" if os.environ.get("FAILS") else 7)
"""


@pytest.mark.parametrize("fails", [False, True])
def test_a_forked_process_finds_what_a_fresh_one_finds(fails: bool, tmp_path: Path) -> None:
    script, log = tmp_path / "state.py", tmp_path / "log.txt"
    script.write_text(STATE)
    own = {"OWN": "a", **({"FAILS": "1"} if fails else {})}
    with log.open("w") as file:
        fresh = subprocess.run(
            [sys.executable, str(script), "--x", "1"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**environment(), **own},
            process_group=0,
        )
    said = log.read_text()
    server = ForkServer(script, environment())
    for _ in range(2):  # in the second process, numpy is already imported
        log.write_text("")
        forked = server.fork(["--x", "1"], log, own)
        assert forked is not None
        assert ended(forked) == fresh.returncode == (1 if fails else 7)
        # one more descriptor: the file where it records its imports
        assert log.read_text().splitlines() == [str(int(x) + 1) if x.isdigit() else x for x in said.splitlines()]
    server.close()


def test_numpys_global_numbers_differ_between_processes_and_torchs_do_not(tmp_path: Path) -> None:
    """In new processes that are not forked and not seeded, this is also the case."""
    script = tmp_path / "draws.py"
    script.write_text("import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(()).item())")
    server, drawn = ForkServer(script, environment(), imports=["torch", "numpy"]), []
    for i in range(2):
        log = tmp_path / f"{i}.txt"
        log.touch()
        forked = server.fork([], log, {})
        assert forked is not None
        assert ended(forked) == 0
        drawn.append(log.read_text().split())
    server.close()
    assert [a == b for a, b in zip(*drawn, strict=True)] == [False, False, True]


def test_what_a_run_imports_is_imported_for_the_others_once(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "fit.py"
    (tmp_path / "dear.py").write_text("import os; open('/proc/self/cwd/imported', 'a').write(f'{os.getpid()}\\n')")
    script.write_text(
        f"import sys; sys.path.insert(1, {str(Path(__file__).parents[1])!r}); import dear, stand_in_fit; "
        f"dear.of_a_run = getattr(dear, 'of_a_run', 0) + 1; print('run', dear.of_a_run); stand_in_fit.main()"
    )
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "1", "2", "3", "--output", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert commands.run("compare", arguments, [sys.executable, str(script)]) == 0
        imports = (tmp_path / "imported").read_text().split()
        assert len(imports) == 2  # once in the first run, and once in the server
        for seed in range(4):  # changes that a run makes to a module do not reach other runs
            assert "run 1\n" in (tmp_path / f"out/a/seed_{seed}/log.txt").read_text()
        (tmp_path / "imported").unlink()
        assert commands.run("compare", [*arguments[:-1], "fresh", "--no_fork"], [sys.executable, str(script)]) == 0
        assert len((tmp_path / "imported").read_text().split()) == 4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_run_that_dies_takes_only_itself_with_it(
    number: signal.Signals, config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, out = config("a", start=0.9, seconds=0.05, killed={"1": number}), tmp_path / "out"
    assert (
        commands.run("compare", [str(a), "--seeds", "0", "1", "2", "3", "--jobs", "2", "--output", str(out)], fit) == 1
    )
    assert [row["seed"] for row in table(out / "runs.csv")[:3]] == ["0", "2", "3"]
    assert f"a, seed 1 failed (killed by {number.name})" in capsys.readouterr().out


def test_the_end_of_the_server_is_that_of_its_runs_and_others_follow(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "fit.py"
    script.write_text(
        "import os, sys\n"
        "if '--seed_everything 0' in ' '.join(sys.argv): os.kill(os.getppid(), 9); import time; time.sleep(60)\n"
        f"sys.path.insert(1, {str(Path(__file__).parents[1])!r}); import stand_in_fit; stand_in_fit.main()"
    )
    out = tmp_path / "out"
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "1", "2", "--output", str(out)]
    assert commands.run("compare", arguments, [sys.executable, str(script)]) == 1
    assert "a, seed 0 failed (killed by SIGKILL)" in capsys.readouterr().out
    assert {row["seed"] for row in table(out / "runs.csv")} == {"1", "2"}


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True, name='busy').start()",
         "an import started the thread busy"),
        ("import sys, types; torch = types.ModuleType('torch'); torch.cuda = types.SimpleNamespace(); "
         "torch.cuda._is_in_bad_fork = lambda: True; sys.modules['torch'] = torch",
         "an import opened a GPU"),
    ],
)  # fmt: skip
def test_an_import_after_which_nothing_can_be_forked_makes_the_other_runs_fresh_processes(
    module: str, reason: str, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text(module)
    script = tmp_path / "fit.py"
    script.write_text(
        f"import sys; sys.path.insert(1, {str(Path(__file__).parents[1])!r}); import bad, stand_in_fit; "
        f"stand_in_fit.main()"
    )
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "1", "2", "--output", str(tmp_path / "out")]
    assert commands.run("compare", arguments, [sys.executable, str(script)]) == 0
    assert capsys.readouterr().out.count(f"note: runs are new processes from here on: {reason}\n") == 1
    assert len(table(tmp_path / "out/runs.csv")) == 6


@pytest.mark.nightly
def test_forked_runs_end_where_fresh_ones_end_to_the_bit(tmp_path: Path) -> None:
    demo = [str(ROOT / "configs/elr/demo.yaml"), "--seeds", "0", "1", "2"]
    outputs = tmp_path / "forked", tmp_path / "fresh"
    for output, more in zip(outputs, ([], ["--no_fork"]), strict=True):
        subprocess.run(
            [*TRAIN, "compare", *demo, "--output", str(output), *more, "--", "--trainer.max_epochs", "2"],
            check=True, env={**environment(), "OMP_NUM_THREADS": "2"},
        )  # fmt: skip
    for seed in range(3):
        forked, fresh = (output / f"demo/seed_{seed}" for output in outputs)
        for name in ("metrics.csv", "test_metrics.csv", "labels.csv"):
            assert (forked / name).read_bytes() == (fresh / name).read_bytes()
        ours, theirs = (torch.load(each / "checkpoints/last.ckpt", weights_only=True) for each in (forked, fresh))
        assert ours["state_dict"].keys() == theirs["state_dict"].keys()
        for name, weight in ours["state_dict"].items():
            assert torch.equal(weight, theirs["state_dict"][name]), name
    assert (outputs[0] / "runs.csv").read_bytes() == (outputs[1] / "runs.csv").read_bytes()
