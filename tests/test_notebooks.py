"""The notebooks run from their first cell to their last, and are committed without outputs."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from tests.command import ROOT

NOTEBOOKS = sorted(path.stem for path in ROOT.glob("notebooks/*.ipynb"))


def cells(name: str) -> list[dict[str, Any]]:
    return json.loads((ROOT / f"notebooks/{name}.ipynb").read_text())["cells"]


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the code cells in a folder, and return the resulting variables."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TMPDIR", str(folder))
    variables: dict[str, Any] = {"__name__": "__main__"}
    with plt.rc_context({"figure.max_open_warning": 0}):
        for cell in cells(name):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{name}.ipynb {cell['id']}", "exec"), variables)
    plt.close("all")
    return variables


def test_all_are_without_outputs() -> None:
    assert NOTEBOOKS == ["certification", "diffusion", "labels", "microscopy"]
    for name in NOTEBOOKS:
        for cell in cells(name):
            assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None), name


@pytest.mark.nightly
def test_labels_are_found_and_cleaning_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run("labels", tmp_path, monkeypatch)
    assert found["precision"] > 0.9
    assert found["recall"] > 0.9
    assert found["accuracy"](found["clean"]) > found["accuracy"](found["baseline"])


@pytest.mark.nightly
def test_consistency_certifies_more_than_noise_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acr = run("certification", tmp_path, monkeypatch)["acr"]
    assert acr["consistency"] > acr["Gaussian noise"] > 0.2


@pytest.mark.nightly
def test_a_loaded_score_model_samples_denoises_and_inpaints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run("diffusion", tmp_path, monkeypatch)
    assert found["samples"].shape == (24, 1, 8, 8)
    assert found["error_after"] < found["error_before"] / 2
    known = found["mask"].bool()
    assert (found["filled"] - found["digits"])[known].abs().max() < 0.1


@pytest.mark.nightly
def test_one_image_of_a_microscope_is_denoised_and_keeps_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run("microscopy", tmp_path, monkeypatch)
    assert found["estimated_gain"] == pytest.approx(found["gain"], rel=0.1)
    assert found["estimated"] == pytest.approx(found["true"], rel=0.02)
    assert max(found["before"]) > 1.5 * min(found["before"])
    assert found["after"] == pytest.approx([1] * 10, abs=0.1)
    assert found["denoised"].dtype == found["noisy"].dtype
    assert found["psnr_after"] > found["psnr_before"] + 10
