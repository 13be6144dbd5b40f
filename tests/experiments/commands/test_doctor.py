"""`doctor` finds what a configuration needs and this machine lacks, without writing, training or asking the network."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import train
from experiments.diagnosis import configuration
from tests.command import ROOT

Found = dict[str, tuple[str, str]]
Doctor = Callable[..., tuple[int, Found]]
watched: list[str] = []
watching: list[bool] = []


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if watching and event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
        watched.append(f"{event} {arguments}")


@pytest.fixture(scope="module", autouse=True)
def _hooked() -> None:
    sys.addaudithook(hook)


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Doctor]:
    """Return a function that runs `doctor --json` in an empty folder; it returns the status and the rows of a config.

    At the end, nothing was written, and the network was not asked.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOISEWORKS_DATA", str(tmp_path))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)

    def call(*arguments: str) -> tuple[int, Found]:
        capsys.readouterr()
        status = train.main(["doctor", "--json", *arguments])
        rows = json.loads(capsys.readouterr().out)
        return status, {row["name"]: (row["found"], row["state"]) for row in rows if row["subject"] in arguments}

    watched.clear()
    watching.append(True)
    yield call
    watching.clear()
    assert watched == []
    assert list(tmp_path.iterdir()) == []


def test_a_machine_is_described_in_a_table(doctor: Doctor, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("python", "torch", "lightning", "gloo", "NOISEWORKS_DATA", "Hugging Face cache", "HF_HUB_OFFLINE=1"):
        assert word in said


def test_a_demo_lacks_nothing(doctor: Doctor) -> None:
    status, rows = doctor("configs/elr/demo.yaml")
    assert status == 0
    assert rows == {
        "needs": ("nothing (bundled data), CPU", "ok"),
        "data": ("LabelledImages was read", "ok"),
        "model": ("ELR was built", "ok"),
    }


@pytest.mark.parametrize(
    ("arguments", "name", "said"),
    [
        (["configs/elr/cifar10.yaml"], "data", "set data_dir, or set download to true"),
        (["configs/elr/cifar10.yaml", "--", "--data.images.download", "true"], "data", "set download to true"),
        (["configs/golden_noise/released.yaml"], "weights", "hf download"),
        (["configs/scoredvi/crops.yaml"], "weights", "does not exist: copy it there, or correct the path"),
        (["configs/nmtune/cifar10.yaml"], "weights", "run `hf download timm/tf_efficientnet_b3.ns_jft_in1k` where"),
        (["configs/bm3d/bsd68.yaml"], "extra bm3d", "bm3d is not installed: pip install 'noiseworks[bm3d]'"),
        (
            ["configs/elr/demo.yaml", "--", "--config", "configs/trainer/multi_node.yaml"],
            "GPUs",
            "trainer.devices 8 needs 8, but this machine has 0: set --trainer.devices, or run doctor where the run",
        ),
        (["configs/own_data/classes.yaml"], "settings", "data_dir"),
        (["configs/elr/demo.yaml", "--", "--model.strenght", "1"], "settings", "did you mean strength?"),
        (["configs/elr/no_such.yaml"], "settings", "does not exist"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(
    arguments: list[str], name: str, said: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        configuration, "lacks", lambda needed: f"{needed.name} is not installed" * (needed.name == "bm3d")
    )
    status, rows = doctor(*arguments)
    assert status == 1
    assert rows[name][1] == "missing"
    assert said in rows[name][0]
    assert "\n" not in rows[name][0]


def test_without_a_gpu_a_paper_scale_configuration_is_slow_and_not_impossible(doctor: Doctor) -> None:
    _, rows = doctor("configs/elr/cifar10.yaml")
    assert rows["GPUs"] == ("this machine has none, and on CPUs the run would take very long", "note")


def test_data_are_read_for_a_limited_time(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: Any) -> None:
        while True:
            try:
                sum(range(1000))
            except Exception:  # as readers do, which turn all exceptions into sentences
                return

    monkeypatch.setattr("datamodules.classification.labelled_images.LabelledImages.set_up_training", read)
    monkeypatch.setattr(configuration, "SECONDS", 0.2)
    status, rows = doctor("configs/elr/demo.yaml")
    assert status == 0
    assert rows["data"] == ("no fault in 0.2 s of reading; the rest was not read", "ok")


@pytest.mark.nightly
def test_every_demo_can_run_here(doctor: Doctor) -> None:
    demos = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("configs/*/demo*.yaml"))]
    assert doctor(*demos)[0] == 0
