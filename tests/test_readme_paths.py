"""The short paths at the top of the README run unchanged, on a few small images and with small networks."""

import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest

import train
from tests.command import ROOT
from tests.datamodules.image_folders import photograph, save, shades

README = (ROOT / "README.md").read_text().partition("## Four short paths")[2].partition("\n## ")[0]
CPU = ["--trainer.accelerator", "cpu"]
QUICK = [*CPU, "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--data.loading.num_workers", "0"]
CLASSES = [*QUICK, "--data.batch_size", "8", "--data.images.image_size", "32", "--model.network.name", "test_resnet"]
OWN_ARGUMENTS = ("certified_curves", "generate")
"""Commands that have arguments of their own, and do not accept those of the trainer."""
SMALLER = {
    "own_data/classes": CLASSES,
    "own_data/certified": CLASSES,
    "own_data/white_noise": [
        *QUICK,
        *("--trainer.max_steps", "2", "--data.patches.size", "24", "--data.patches.per_image", "4"),
    ],
    "finetuning/lora": [
        *QUICK,
        *("--trainer.max_steps", "3"),
        *("--trainer.precision", "32-true", "--data.images.image_size", "16", "--data.batch_size", "2"),
        *("--model.network.pipeline", "tiny", "--model.cache_dir", "latents", "--model.sampling.steps", "2"),
    ],
}


def paths() -> dict[str, list[str]]:
    """Return the commands of each path, keyed by the name of the path."""
    blocks = re.findall(r"^\*\*(.+?)\*\*:.*?^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return {name: block.replace("\\\n", "").splitlines() for name, block in blocks}


def test_there_are_four_paths_of_at_most_three_commands() -> None:
    assert len(paths()) == 4
    assert all(1 < len(commands) <= 3 for commands in paths().values())


@pytest.fixture
def here(tmp_path: Path, text_to_image: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for split in ("train", "test"):
        shades(tmp_path / "my_images", split, ["cat", "dog"], per_class=8)
    for number in range(3):
        save(tmp_path / "new_images" / f"{number}.png", photograph(40, 32, number))
        save(tmp_path / "my_photographs" / f"{number}.png", photograph(48, 40, number))
    for number in range(30):
        save(tmp_path / "my_subject" / f"{number}.png", photograph(16, 16, number))
    shutil.copytree(text_to_image, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Clean my labels", ["runs/labels/cleaned_labels.csv", "runs/labels/predictions.parquet"]),
        ("Certify my classifier", ["runs/certified_curves/certified_accuracy.png"]),
        ("Denoise my images", [f"runs/denoiser/restored/{number}.png" for number in range(3)]),
        (
            "Fine-tune my diffusion model",
            ["runs/adapters/pipeline/pytorch_lora_weights.safetensors", "generated/images/000003.png"],
        ),
    ],
)
def test_a_path_of_readme_runs(name: str, written: list[str], here: Path, recwarn: pytest.WarningsRecorder) -> None:
    for command in paths()[name]:
        program, script, *arguments = shlex.split(command, comments=True)
        assert (program, script) == ("python", "train.py")
        config = next((match[1] for each in arguments if (match := re.search(r"configs/(.+)\.yaml", each))), "")
        more = SMALLER[config] if arguments[0] == "fit" else [] if arguments[0] in OWN_ARGUMENTS else CPU
        if arguments[0] == "test" and "certification" in command:
            more = [*more, "--trainer.callbacks.skip", "8"]
        assert train.main([*arguments, *more]) == 0, command
    for file in written:
        assert (here / file).is_file()
    assert not [str(each.message) for each in recwarn if "across ranks is zero" in str(each.message)]
    if name == "Clean my labels":
        trains_on_the_cleaned_list(here)


def trains_on_the_cleaned_list(here: Path) -> None:
    """Train with the layer that the README names."""
    [layer] = re.findall(r"with `--config (\S+cleaned_labels\.yaml)`", README)
    first, *_ = paths()["Clean my labels"]
    _, _, *arguments = shlex.split(first.replace("runs/labels", "runs/cleaned"))
    assert train.main([*arguments, "--config", layer, *CLASSES]) == 0
    cleaned = pd.read_csv(here / "runs/labels/cleaned_labels.csv").set_index("index")
    assert len(cleaned) > 10
    left = cleaned[cleaned["action"] != "drop"]["label"]
    assert pd.read_csv(here / "runs/cleaned/labels.csv").loc[left.index, "label"].tolist() == left.tolist()
