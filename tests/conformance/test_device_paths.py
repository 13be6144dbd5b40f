"""Additional uses run on the device, too: callbacks, FID, `compare`, `load_run`, and checkpoints."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from skimage.io import imsave

from tests.command import ROOT, environment
from tests.conformance.on_device import on_device
from tests.conformance.runs import assert_alike, run, state, written
from tests.conformance.test_simulated_device import SHORT
from tests.distributed.methods import DESCENT
from tests.test_tensors import OPTIONAL, ROWS

pytestmark = pytest.mark.nightly
CALLBACKS = ROOT / "configs" / "callbacks"
FEW_VOTES = ("--trainer.callbacks.mode.n", "200", "--trainer.callbacks.skip", "60")
PIXELS = ("--trainer.callbacks.extractor", "torch.nn.Flatten", "--trainer.callbacks.extractor_name", "pixels")
WATCHED = {  # keyed by the callback's file: a suitable demo, the command, and additional arguments
    "certification": ("elr", "test", FEW_VOTES),
    "curvature": ("elr", "fit", ("--trainer.callbacks.samples", "64", "--trainer.callbacks.steps", "4")),
    "fid": (
        "score_sde",
        "test",
        (*PIXELS, "--trainer.callbacks.num_samples", "32", "--trainer.callbacks.batch_size", "16"),
    ),
    "label_report": ("elr", "fit", ("--test_after_fit", "true")),
    "prompt_grid": (
        "flow_finetuning_stable_diffusion_3",
        "fit",
        ("--trainer.callbacks.every_n_steps", "1", "--trainer.callbacks.prompts", '["a red fox"]'),
    ),
    "robust_accuracy": ("elr", "test", ("--trainer.callbacks.max", "20")),
}
LOADED = """
import sys
import torch
from experiments.load_run import load_run
from tests.conformance import copies, simulated_device
simulated_device.register()
copies.make_late()
predicted = []
for place in (torch.device("cpu"), simulated_device.DEVICE):
    module, data = load_run(sys.argv[1])
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    module = module.to(place)
    with torch.no_grad():
        predicted.append(module(batch["image"].to(place)))
assert predicted[1].device == simulated_device.DEVICE
assert torch.equal(predicted[0], predicted[1].cpu())
"""

CALLED = """
import sys
import torch
from tests import test_tensors
from tests.conformance import copies, simulated_device
simulated_device.register()
copies.make_late()
for path in sys.argv[1:]:
    run, verb = test_tensors.example(path), test_tensors.verb_of(path)
    test_tensors.doctest.DocTestRunner(verbose=False).run(run, out=lambda text: None, clear_globs=False)
    call, results = test_tensors.call_of(run, verb), []
    function = eval(test_tensors.ast.unparse(call.func), run.globs)
    for place in (torch.device("cpu"), simulated_device.DEVICE):
        torch.manual_seed(0)
        results.append(test_tensors.computed(function, call, run.globs, place))
    if isinstance(results[0], torch.Tensor):
        assert results[1].device == simulated_device.DEVICE, path
        torch.testing.assert_close(results[0], results[1].cpu(), rtol=1e-3, atol=1e-4, msg=path)
    else:
        assert str(results[0]) == str(results[1]), path
    print(path)
"""


def test_every_callback_is_tried() -> None:
    assert {path.stem for path in CALLBACKS.glob("*.yaml")} == WATCHED.keys()


@pytest.mark.parametrize("name", WATCHED)
def test_a_callback_watches_a_run_on_the_device(name: str, tmp_path: Path) -> None:
    demo, called, more = WATCHED[name]
    watched = ("--config", CALLBACKS / f"{name}.yaml", *more)
    fit = ("fit", "--config", written(demo, tmp_path, SHORT), *(watched if called == "fit" else ()))
    test = ("test", "--resume", tmp_path / "run", *watched)
    on_device((*fit, "--run_directory", tmp_path / "run"), *([test] if called == "test" else []))


def test_fid_of_folders(tmp_path: Path) -> None:
    for name in ("generated", "real"):
        (tmp_path / name).mkdir()
        for number in range(12):
            pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
            imsave(tmp_path / name / f"{number}.png", pixels.numpy(), check_contrast=False)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    network = ("--timm", "test_resnet", "--weights", tmp_path / "weights.safetensors", "--cache_dir", tmp_path)
    printed = on_device(("fid", tmp_path / "generated", tmp_path / "real", *network, "--device", "cuda"))
    assert "fd_test_resnet" in printed


def test_compare_of_one_run(tmp_path: Path) -> None:
    on_device(("compare", written("elr", tmp_path, SHORT), "--seeds", "0", "--output", tmp_path / "runs"))
    assert (tmp_path / "runs" / "summary.md").exists()


def test_a_run_of_the_cpu_is_loaded_onto_the_device(tmp_path: Path) -> None:
    run("fit", "--config", written("elr", tmp_path, SHORT), "--run_directory", tmp_path / "run")
    script = [sys.executable, "-c", LOADED, str(tmp_path / "run")]
    loaded = subprocess.run(script, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr


ROUNDING = {"score_sde": 1e-5, "nm_sparsity": 1e-5}  # group norm and attention use different kernels there


@pytest.mark.parametrize("name", ["elr", "lsa", "score_sde", "nm_sparsity", "mbbo_ndcg"])
def test_checkpoints_go_to_the_cpu_and_back(name: str, tmp_path: Path) -> None:
    """A run with one half on each device ends like a run on the CPU, bit by bit unless kernels round differently."""
    plain = {"model.init_args.optimizer": DESCENT} if name == "nm_sparsity" else {}  # Adam amplifies rounding errors
    config = written(name, tmp_path, {**SHORT, "trainer.max_epochs": 2, **plain})
    run("fit", "--config", config, "--run_directory", tmp_path / "whole")
    half = ("fit", "--config", config, "--trainer.max_epochs", "1", "--run_directory")
    rest = ("--trainer.max_epochs", "2")
    run(*half, tmp_path / "back")
    on_device((*half, tmp_path / "there"), ("fit", "--resume", tmp_path / "back", *rest))
    run("fit", "--resume", tmp_path / "there", *rest)
    whole = state(tmp_path / "whole")
    left_out = {"callbacks", "loops", *(["metrics_table"] if name in ROUNDING else [])}  # this table has a hash
    for other in ("there", "back"):
        ended = state(tmp_path / other)
        for key in whole.keys() - left_out:
            assert_alike(whole[key], ended[key], f"{other}.{key}", ROUNDING.get(name, 0.0))


@pytest.mark.parametrize("name", ["adele", "elr_plus"])
def test_a_checkpoint_within_an_epoch_is_that_of_the_cpu(name: str, tmp_path: Path) -> None:
    """Non-blocking copies to the host are complete when the checkpoint is saved."""
    config = written(name, tmp_path, {**SHORT, "trainer.limit_train_batches": 3, "trainer.max_steps": 2})
    run("fit", "--config", config, "--run_directory", tmp_path / "here")
    on_device(("fit", "--config", config, "--run_directory", tmp_path / "there"))
    here, there = state(tmp_path / "here"), state(tmp_path / "there")
    for key in here.keys() - {"callbacks", "loops"}:
        assert_alike(here[key], there[key], key)


def test_methods_are_called_with_tensors_of_the_device() -> None:
    paths = [path for path in ROWS if path.rpartition(".")[2] not in OPTIONAL]
    done = subprocess.run(
        [sys.executable, "-c", CALLED, *paths], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == paths
