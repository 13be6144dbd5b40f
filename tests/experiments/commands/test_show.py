"""`train.py show`: what the network will see, from a configuration, without a model and without a run directory."""

from pathlib import Path

import pytest

from tests.datamodules.image_folders import photograph, save
from train import main

OWN = "tests.callbacks.data_preview.own_data.OwnData"


def test_a_demo_is_shown_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = "datamodules.corruptions.label_noise.Symmetric"
    assert main(["show", "configs/elr/demo.yaml", "--samples", "2", "--", f"--data.label_noise={noise}",
                 "--data.label_noise.noise_rate", "0.2"]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "training: size: set of 1,170 samples, 1,024 read in batches of 128\n" in said
    assert "validation: classes: 10, with " in said
    (wrong,) = [line for line in said.splitlines() if line.startswith("training: wrong labels")]
    assert wrong.endswith("stated 0.1800, Symmetric(noise_rate=0.2, include_true_class=True)")  # 0.2 * 9 / 10
    assert abs(float(wrong.partition("measured ")[2].partition(" ")[0]) - 0.18) < 0.04
    assert {str(path) for path in Path().rglob("*.[hp]*")} == {
        f"runs/show/elr/demo/samples.{end}" for end in ("html", "png")
    }
    assert "noise_rate: 0.2" in Path("runs/show/elr/demo/samples.html").read_text()


def test_a_users_own_data_with_unknown_keys_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--data", OWN, "--data.kind", "unknown", "--data.size", "1"]
    assert main(["show", "configs/elr/demo.yaml", "--output", str(tmp_path), "--", *own]) == 0
    assert "training: size: set of 1 samples, 1 read in batches of 1\n" in capsys.readouterr().out
    assert "<td>scan</td><td>[1, 9]</td>" in (tmp_path / "samples.html").read_text()


def test_a_method_that_is_not_trained_shows_its_test_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundled = ["--data.test", "datamodules.restoration.photographs.Photographs"]
    assert main(["show", "configs/bm3d/bsd68.yaml", "--output", str(tmp_path), "--samples", "1", "--", *bundled]) == 0
    said = capsys.readouterr().out
    assert said.startswith("test: size: ")
    assert "stated std 0.09804, Gaussian(grey_levels=25)" in said


def test_several_sets_of_images_are_shown_with_a_report(
    text_to_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Run the command in the header of the configuration."""
    config = str(Path("configs/own_data/several_sets.yaml").resolve())
    monkeypatch.chdir(tmp_path)
    for number, size in enumerate(((80, 40), (40, 40))):
        save(Path("my_subject", f"{number}.png"), photograph(*size, number))
        Path("my_subject", f"{number}.txt").write_text("cat" * (1 + 4 * number))
    save(Path("my_class", "0.png"), photograph(40, 40, 1))
    assert main(["show", config, "--", "--model.network.pipeline", str(text_to_image)]) == 0
    said = capsys.readouterr().out
    assert "training: size: set of 11 samples, 11 read in batches of " in said  # 2 * 4 + 2 + 1
    assert "training: 512 x 512 pixels: 2 of 5 images, 5 of 11 samples of an epoch\n" in said
    assert f"training: duplicates: 1 of 3: {tmp_path}/my_class/0.png = {tmp_path}/my_subject/1.png\n" in said
    (cut,) = [line for line in said.splitlines() if line.startswith("training: cut captions: ")]
    assert cut.startswith("training: cut captions: 2 of 5 captions have more than the 16 tokens")
    assert "cut captions" in Path("runs/show/own_data/several_sets/samples.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.yaml"], "--config no.yaml does not exist"),
        (["configs/elr/demo.yaml", "--", "--data.batch_size", "zero"], "data.batch_size: "),
        (["configs/elr/demo.yaml", "--", "--data", OWN, "--data.size", "0"], "OwnData has no sample for training or"),
        (
            ["configs/own_data/white_noise.yaml"],
            "PairFolders needs noisy_dir, clean_dir or both: set for example --data.training.noisy_dir MY_IMAGES",
        ),
        (
            ["configs/elr/demo.yaml", "--splits", "prediction", "--", "--data", OWN],
            "OwnData has no sample for prediction",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not any(tmp_path.iterdir())
