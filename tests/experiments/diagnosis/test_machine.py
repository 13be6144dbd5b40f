"""The rows about this machine: extras, checksums of datasets, GPUs and memory."""

import hashlib
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from experiments.diagnosis import machine
from experiments.launching import devices
from tests.command import ROOT

DEVELOPMENT = {"docs", "bench", "dev"}


def test_every_extra_for_users_is_described() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert machine.EXTRAS.keys() == extras.keys() - DEVELOPMENT


@pytest.mark.parametrize(
    ("needed", "fault"),
    [
        ("numpy>=2.0", None),
        ("numpy<1", "but <1 is needed"),
        ("no-such-package>=1", "no-such-package is not installed"),
    ],
)
def test_a_package_is_there_in_a_version_that_fits(needed: str, fault: str | None) -> None:
    found = machine.lacks(Requirement(needed))
    assert found is None if fault is None else found is not None and found.endswith(fault)


def test_extras_of_an_installed_package_are_those_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without pyproject.toml, the requirements are read from the metadata, which add markers."""
    of_source = machine.requirements()
    text = [*map(str, of_source[0])]
    text += [f'{each}; extra == "{extra}"' for extra, own in of_source[1].items() for each in own]
    monkeypatch.setattr(machine, "PROJECT", tmp_path)
    monkeypatch.setattr(machine.metadata, "requires", lambda name: text)
    core, of_extras = machine.requirements()
    assert core == of_source[0]
    assert {extra: [each.name for each in own] for extra, own in of_extras.items()} == {
        extra: [each.name for each in own] for extra, own in of_source[1].items()
    }


def test_a_missing_extra_is_named_with_its_purpose_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.EXTRAS, "docs", "the site")
    monkeypatch.setattr(machine, "lacks", lambda needed: f"{needed.name} is not installed" * (needed.name == "mkdocs"))
    (row,) = [row for row in machine.describe_extras() if row.state != "ok"]
    assert row.name == "docs"
    assert row.found == "mkdocs is not installed. It is for the site: pip install 'noiseworks[docs]'"


@pytest.mark.parametrize(
    ("written", "checksums", "said", "state"),
    [
        ({"a": b"one", "b": b"two"}, True, "2 files, with the published checksums", "ok"),
        ({"a": b"one", "b": b"2"}, False, "2 files", "ok"),
        ({"a": b"one", "b": b"2"}, True, "b has another checksum: fetch the set again", "note"),
        ({"a": b"one"}, False, "lacks set/b: fetch the set again", "note"),
        ({}, True, None, "ok"),
    ],
)
def test_checksums_of_datasets(
    written: dict[str, bytes],
    checksums: bool,
    said: str | None,
    state: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sums = {f"set/{name}": hashlib.md5(content).hexdigest() for name, content in {"a": b"one", "b": b"two"}.items()}
    monkeypatch.setattr(machine, "published_sums", lambda: {"Set": sums})
    (tmp_path / "set").mkdir()
    for name, content in written.items():
        (tmp_path / "set" / name).write_bytes(content)
    folder, *rows = machine.describe_data(str(tmp_path), checksums)
    assert folder.found.endswith("GiB free: set")
    assert [row.state for row in rows] == ([] if said is None else [state])
    assert said is None or rows[0].found.endswith(said)


def test_torchvision_publishes_a_sum_for_each_file() -> None:
    sums = machine.published_sums()
    expected = {"CIFAR-10": 6, "CIFAR-100": 2, "MNIST archives": 4, "SVHN": 2}
    assert {name: len(files) for name, files in sums.items()} == expected
    assert "MNIST/raw/t10k-labels-idx1-ubyte.gz" in sums["MNIST archives"]
    assert all(len(md5) == 32 for files in sums.values() for md5 in files.values())


@pytest.mark.parametrize(("given", "said"), [(None, "not set"), ("/no/such/folder", "is not a folder")])
def test_a_folder_of_datasets_that_is_not_there(given: str | None, said: str) -> None:
    (row,) = machine.describe_data(given, False)
    assert said in row.found
    assert row.state == "note"


def test_gpus_that_torch_does_not_see_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA H100, 81920, 40960'")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.gpu_memory() == [("NVIDIA H100", 80.0, 40.0)]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    found = [(row.found, row.state) for row in machine.describe_devices() if row.name == "GPU"]
    assert found[0] == ("NVIDIA H100, 40.0 of 80.0 GiB free", "ok")
    assert found[1][0].startswith("torch sees none of 1 GPUs: ")
    assert found[1][1] == "note"
