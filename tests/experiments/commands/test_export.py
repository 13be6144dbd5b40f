"""Exported models work in a process without this project, and compute the same values as the run's model."""

import json
import os
import re
import resource
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import train
from datamodules.classification.digits import Digits
from datamodules.classification.folder_sets import NewImages
from experiments.load_run import load_run
from experiments.saving.environment import environment
from tests.command import ROOT
from tests.datamodules.image_folders import photograph, save

QUICK = (
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", "--trainer.callbacks", "[]"),
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"),
)
Predict = Callable[..., Tensor]


def network(model: Any, x: Tensor, t: Tensor) -> Tensor:
    with model.average.used_by(model.network):
        return model.network(x, t)


def score(model: Any, x: Tensor, t: Tensor) -> Tensor:
    with model.average.used_by(model.network):
        return model.score(x, t)


def vote_fractions(model: Any, image: Tensor, noise: Tensor) -> Tensor:
    """Return the vote fractions, computed image by image with the sigma of the configuration."""
    counts = torch.zeros(len(image), 10)
    for row, each in enumerate(image):
        for sample in noise:
            counts[row, model((each + 0.25 * sample)[None]).argmax()] += 1
    return counts / len(noise)


def restored(model: Any, image: Tensor) -> Tensor:
    return model.restore(image).clamp(0, 1)


def probabilities(model: Any, image: Tensor) -> Tensor:
    return model(image).softmax(dim=1)


DIGIT, TIMESTEP = (1, 8, 8), (-1,)
NAMES = [f"digit {number}" for number in range(10)]
METHODS: dict[str, tuple[tuple[str, ...], Predict, list[tuple[int, ...]]]] = {
    "elr/demo": ((), probabilities, [DIGIT]),
    "adaptive_smoothing/demo": ((), lambda model, image: model.mix(image).log_probability.exp(), [DIGIT]),
    "adele/demo": (("--model.correction", "null"), probabilities, [(1, 56, 72)]),
    "noise2score/demo": ((), lambda model, noisy: model.denoise(noisy), [(1, 23, 30)]),
    "score_sde/demo": ((), score, [DIGIT, ()]),
    "supervised_restoration/demo": ((), restored, [(1, 23, 30)]),
    "consistency/demo": (("--model.sigma", "0.25"), vote_fractions, [DIGIT, DIGIT]),
    "finetuning/demo": ((), network, [DIGIT, TIMESTEP]),
}
"""For each demo: arguments of `export`, the function that the exported model should compute, and for each input, the
shapes of one sample. Images have another size than in training if the method allows it."""
FIRST = ["elr/demo", "adele/demo", "noise2score/demo"]
"""A classifier, a segmenter and a denoiser."""

ALONE = """
import os, re, sys, pathlib, torch
for folder in sys.argv[1:]:
    os.chdir(folder)
    exec(re.search("```python\\n(.*?)```", pathlib.Path("README.md").read_text(), re.S)[1], {})
    if os.path.exists("model.pt2"):
        program = torch.export.load("model.pt2").module()
        torch.save([program(*inputs) for inputs in torch.load("given.pt")], "found.pt")
    elif os.path.exists("model.onnx"):
        import onnxruntime
        session = onnxruntime.InferenceSession("model.onnx")
        names = [each.name for each in session.get_inputs()]
        run = lambda inputs: session.run(None, {n: v.numpy() for n, v in zip(names, inputs)})[0]
        torch.save([torch.from_numpy(run(inputs)) for inputs in torch.load("given.pt")], "found.pt")
assert not {"lightning_modules", "experiments", "datamodules", "callbacks", "lightning"} & sys.modules.keys()
"""


def alone(*folders: Path) -> str:
    """Run the README's example and the model of each export in a separate process that cannot import this project."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *map(str, folders)],
        cwd=folders[0],
        env=clean,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def run_of(runs: Path, config: str) -> Path:
    """Train on two batches, only once for all tests."""
    directory = runs / config.replace("/", "_")
    command = ["fit", "--config", f"configs/{config}.yaml", *METHODS[config][0], *QUICK]
    if not directory.exists():
        assert train.main([*command, "--run_directory", str(directory)]) == 0, config
        (directory / "test_metrics.csv").write_text("metric,value\ntest/accuracy,0.75\n")
    return directory


def inputs_of(shapes: list[tuple[int, ...]], batch: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    timesteps = torch.randint(1000, (batch,), generator=generator)
    return tuple(timesteps if shape == TIMESTEP else torch.rand(batch, *shape, generator=generator) for shape in shapes)


def give(folder: Path, shapes: list[tuple[int, ...]]) -> None:
    torch.save([inputs_of(shapes, batch) for batch in (1, 4)], folder / "given.pt")


def agree(run: Path, folder: Path, predict: Predict) -> None:
    model, _ = load_run(run)
    with torch.no_grad():
        for inputs, found in zip(torch.load(folder / "given.pt"), torch.load(folder / "found.pt"), strict=True):
            expected = predict(model, *inputs)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, msg=lambda text: f"{run.name}: {text}")


def exported(runs: Path, chosen: str, *configs: str, more: tuple[Path, ...] = ()) -> tuple[str, dict[str, Path]]:
    """Export runs, run the exports without this project, compare with the models, and return the printed examples.

    `more` lists other exports whose examples run at the end of the same process.
    """
    folders = {config: run_of(runs, config) / f"export_{chosen}" for config in configs}
    for config, folder in folders.items():
        assert train.main(["export", str(folder.parent), "--format", chosen]) == 0, config
        give(folder, METHODS[config][2])
    printed = alone(*folders.values(), *more)
    for config, folder in folders.items():
        agree(folder.parent, folder, METHODS[config][1])
    return printed, folders


@pytest.mark.nightly
def test_programs_agree_and_weights_load_in_a_process_without_this_project(
    runs: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Digits, "class_names", NAMES)
    printed, folders = exported(runs, "torch", *FIRST, more=(weights,))
    [fixed] = [line for line in capsys.readouterr().out.splitlines() if "are fixed" in line]
    assert fixed == "height and width are fixed at 8 x 8: --image_shape C H W exports the model for another size"
    configs = {name: json.loads((folder / "config.json").read_text()) for name, folder in folders.items()}
    assert configs["elr/demo"]["class_names"] == NAMES
    assert configs["elr/demo"]["inputs"]["image"]["shape"] == ["B", 1, 8, 8]
    assert configs["elr/demo"]["preprocessing"] == {"image_shape": [1, 8, 8]}
    said = (folders["elr/demo"] / "README.md").read_text()
    assert "## Preprocessing\n\nThe training images had the shape 1 x 8 x 8" in said
    assert f"\n- trained in: {environment()}\n- exported in: {environment()}\n" in said
    assert configs["adele/demo"]["class_names"] == ["background", "disc", "square"]
    assert configs["noise2score/demo"]["inputs"]["image"]["shape"] == ["B", 1, "H", "W"]
    assert configs["noise2score/demo"]["multiple_of"] == 1
    assert "| test/accuracy | 0.75" in (folders["elr/demo"] / "README.md").read_text()
    assert printed.startswith("['digit "), "the example of ELR prints class names"


@pytest.mark.nightly
def test_other_programs_agree_in_a_process_without_this_project(runs: Path) -> None:
    exported(runs, "torch", *(config for config in METHODS if config not in FIRST))


@pytest.mark.nightly
def test_onnx_models_agree_in_a_process_without_this_project(runs: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    exported(runs, "onnx", *METHODS)


@pytest.fixture(scope="module")
def weights(runs: Path) -> Path:
    elr = run_of(runs, "elr/demo")
    assert train.main(["export", str(elr), "--format", "safetensors"]) == 0
    return elr / "export_safetensors"


def test_weights_are_those_of_the_network(runs: Path, weights: Path) -> None:
    model: Any = load_run(run_of(runs, "elr/demo"))[0]
    saved = load_file(weights / "model.safetensors")
    assert saved.keys() == model.network.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in model.network.state_dict().items())


@pytest.mark.nightly
def test_a_fine_tuned_network_loads_by_diffusers(runs: Path) -> None:
    from diffusers import UNet2DModel

    tuned = run_of(runs, "finetuning/demo")
    assert train.main(["export", str(tuned), "--format", "safetensors"]) == 0
    alone(tuned / "export_safetensors")
    x, t = torch.randn(2, *DIGIT), torch.tensor([3, 700])
    with torch.no_grad():
        found = UNet2DModel.from_pretrained(tuned / "export_safetensors")(x, t).sample  # averaged weights
        torch.testing.assert_close(found, network(load_run(tuned)[0], x, t), rtol=0, atol=1e-5)


@pytest.mark.nightly
def test_adapters_of_a_text_to_image_model_are_merged(tmp_path: Path, text_to_image: Path) -> None:
    from diffusers import UNet2DConditionModel

    run, images = tmp_path / "run", tmp_path / "images"
    for number in range(30):
        save(images / f"{number}.png", photograph(16, 16, number))
    data = ("--data.images.data_dir", str(images), "--data.images.prompt", "a photo", "--data.images.image_size", "16")
    model = ("--model.network.pipeline", str(text_to_image), "--model.cache_dir", "null", "--data.batch_size", "2")
    trainer = ("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--run_directory", str(run))
    assert train.main(["fit", "--config", "configs/finetuning/lora.yaml", *data, *model, *trainer, *QUICK]) == 0
    for chosen in ("torch", "safetensors", "kohya"):
        assert train.main(["export", str(run), "--format", chosen]) == 0
    assert load_file(run / "export_kohya" / "kohya.safetensors")
    program = torch.export.load(run / "export_torch" / "model.pt2").module()
    shapes = [
        each["shape"] for each in json.loads((run / "export_torch" / "config.json").read_text())["inputs"].values()
    ]
    x, embedding = torch.randn(2, *shapes[0][1:2], 8, 8), torch.randn(2, *shapes[2][1:])
    unet = UNet2DConditionModel.from_pretrained(run / "export_safetensors")
    assert not any("lora" in name for name in unet.state_dict())
    with torch.no_grad():
        found, t = unet(x, torch.tensor([3, 700]), embedding).sample, torch.tensor([3, 700])
        torch.testing.assert_close(found, program(x, t, embedding), rtol=0, atol=1e-5)


@pytest.mark.nightly
def test_a_timm_network_loads_by_timm_with_its_normalisation_and_class_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    monkeypatch.setattr(Digits, "class_names", NAMES)
    run, output = tmp_path / "run", tmp_path / "weights"
    timm_model = (
        "{class_path: lightning_modules.backbones.timm_model, init_args: {name: test_resnet, num_classes: 10, "
        "in_channels: 1, mean: [0.3], std: [0.2]}}"
    )
    command = ("fit", "--config", "configs/elr/demo_baseline.yaml", "--model.network", timm_model, *QUICK)
    assert train.main([*command, "--run_directory", str(run)]) == 0
    assert train.main(["export", str(run), "--format", "safetensors", "--output", str(output)]) == 0
    loaded = timm.create_model(f"local-dir:{output}", pretrained=True).eval()
    image = torch.rand(2, *DIGIT)
    with torch.no_grad():
        mean, std = (torch.tensor(loaded.pretrained_cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
        torch.testing.assert_close(loaded((image - mean) / std), load_run(run)[0](image), rtol=0, atol=1e-5)
    assert json.loads((output / "config.json").read_text())["label_names"] == NAMES


@pytest.mark.parametrize("chosen", ["torch", "safetensors"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    chosen: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["export", str(run_of(runs, "elr/demo")), "--format", chosen, "--output", str(tmp_path / "out")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # an error of the operating system, as of a full disk
    try:
        assert train.main(line) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert f"error: {tmp_path}/out could not be written: File too large; free some space" in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nightly
def test_a_served_export_answers_an_image_of_any_size_like_the_run(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run = run_of(runs, "elr/demo")
    for chosen in ("torch", "onnx"):
        out = str(tmp_path / chosen)
        assert train.main(["export", str(run), "--format", chosen, "--preprocess", "--output", out]) == 0
    photograph(301, 200).save(tmp_path / "picture.png")
    model, _ = load_run(run)
    image = NewImages(str(tmp_path / "picture.png"), Digits()).fetch(torch.tensor([0]), None) / 255
    with torch.no_grad():
        expected = probabilities(model, image)
    monkeypatch.chdir(tmp_path / "torch")
    given: dict[str, Any] = {}
    said = Path("README.md").read_text()
    code = re.findall("```python\n(.*?)```", said, re.DOTALL)[1].replace("picture.jpg", "../picture.png")
    exec(code, given)
    assert given["image"].shape == (1, 1, 200, 301)
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    [found] = session.run(None, {"image": given["image"]})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-3)

    [script] = re.findall("```python\n([^`]*?http.server.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    assert sum(map(bool, script.split("\n"))) <= 25
    before, port = script.replace("8000", "0").replace(").serve_forever()", ")").rsplit("ThreadingHTTPServer", 1)
    exec(f"{before}server = ThreadingHTTPServer{port}", given)
    given["Handler"].log_message = lambda *arguments: None
    server = given["server"]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    address = f"http://localhost:{server.server_address[1]}"
    try:
        with urllib.request.urlopen(address, (tmp_path / "picture.png").read_bytes()) as answer:
            content = json.load(answer)
        torch.testing.assert_close(torch.tensor([content["probabilities"]]), expected, rtol=0, atol=1e-3)
        assert content["class"] == int(expected.argmax())
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(address, b"no image")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.nightly
def test_the_program_of_a_segmenter_takes_an_image_of_any_size_like_the_run(tmp_path: Path) -> None:
    for name, size in (("a", (30, 40)), ("b", (50, 24))):
        grey = photograph(*size).convert("L")
        for split in ("", "test_"):
            save(tmp_path / f"{split}images" / f"{name}.png", grey)
            save(tmp_path / f"{split}masks" / f"{name}.png", grey.point(lambda v: v > 99, "1"))
    settings = f"""--data.images datamodules.segmentation.folder_sets.MaskFolders --data.images.data_dir {tmp_path}
        --data.images.image_size 16 --data.images.training_masks masks --data.mask_noise null --data.batch_size 2
        --checkpoint.monitor null --checkpoint.also_test_best false --model.num_classes 2
        --model.network.num_classes 2"""
    line = ["fit", "--config", "configs/adele/demo_baseline.yaml", *QUICK, *settings.split()]
    run, picture = tmp_path / "run", tmp_path / "test_images" / "b.png"
    assert train.main([*line, "--run_directory", str(run)]) == 0
    assert train.main(["export", str(run), "--preprocess", "--output", str(tmp_path / "out")]) == 0
    assert train.main(["predict", "--resume", str(run), "--data.predict_dir", str(picture)]) == 0
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    image = torch.from_numpy(np.asarray(Image.open(picture), np.float32))[None, None] / 255
    expected = np.asarray(Image.open(run / "predictions" / "b.png"))
    assert expected.shape == (16, 16)
    assert np.mean(program(image)[0].argmax(0).numpy() == expected) > 0.98  # ties of the rounding to 8 bits
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["preprocessing"] == {
        **{"image_shape": [1, 16, 16], "resize": [16, 16]},
        **{"interpolation": "bilinear", "built_in": True},
    }


def test_what_cannot_be_exported_says_so_in_one_sentence(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*arguments: str) -> str:
        assert train.main(["export", *arguments, "--output", str(tmp_path / "out")]) == 2
        assert not (tmp_path / "out").exists()
        assert list(tmp_path.glob(".*")) == []
        return capsys.readouterr().err

    elr = str(run_of(runs, "elr/demo"))
    assert "sigma is 0.5, but ELR is not a smoothed classifier: leave it out" in error(elr, "--sigma", "0.5")
    assert "ELR cannot process images of 3 x 8 x 8: give --image_shape" in error(elr, "--image_shape", "3", "8", "8")
    assert "may have at most 268435456 values" in error(elr, "--image_shape", "1", "1000000", "1000000")
    assert "--preprocess needs a program: give --format torch" in error(elr, "--format", "safetensors", "--preprocess")
    for config in ("adele/demo", "noise2score/demo"):
        assert "of a classifier, or of a segmenter with files of one size (MaskFolders), without --image_shape" in (
            error(str(run_of(runs, config)), "--preprocess")
        )
    assert "does not exist" in error(str(tmp_path / "nowhere"))
    assert "best.ckpt" in error(str(run_of(runs, "score_sde/demo")), "--checkpoint", "best")
