"""A U-Net that is sharded over two processes is trained, averaged and saved like an unsharded one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lightning_modules.diffusion.finetuning.sharding import network_blocks, refuse_to_go_on
from tests.conformance.runs import rows, run, state, written
from tests.distributed.written_files import pixels
from tests.tiny_pipelines import conditional_unet
from tests.two_processes import in_two_processes

STRATEGY = """{
  class_path: lightning.pytorch.strategies.ModelParallelStrategy,
  init_args: {data_parallel_size: 2, tensor_parallel_size: 1, save_distributed_checkpoint: false}
}"""


@pytest.mark.nightly
def test_shared_out_over_two_processes_equals_one(tmp_path: Path) -> None:
    # The test uses momentum: for an optimizer without state, PyTorch takes an additional step to read the state.
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.02, "momentum": 0.9}}
    changes = {"model.init_args.optimizer": sgd, "trainer.callbacks": []}  # FID needs an unsharded network
    settings = written("diffusion_finetuning", tmp_path, changes)
    command = ("fit", "--config", settings, "--run_directory")
    run(*command, tmp_path / "one")
    in_two_processes(run, *command, tmp_path / "two", "--trainer.devices", "2", "--trainer.strategy", STRATEGY)
    one, two = (tmp_path / name for name in ("one", "two"))
    file = Path("pipeline", "unet", "diffusion_pytorch_model.safetensors")
    for name, value in load_file(one / file).items():
        torch.testing.assert_close(load_file(two / file)[name], value, atol=1e-5, rtol=1e-4)
    theirs = state(two)["state_dict"]
    for name, value in state(one)["state_dict"].items():
        torch.testing.assert_close(theirs[name], value, atol=1e-5, rtol=1e-4)
    for row, other in zip(rows(one / "metrics.csv"), rows(two / "metrics.csv"), strict=True):
        assert row == pytest.approx(other, abs=1e-4, nan_ok=True)


@pytest.mark.nightly
def test_grids_for_prompts_are_those_of_one_process(tmp_path: Path) -> None:
    """Ranks with sharded weights must generate equal numbers of blocks, here of five images in blocks of two."""
    given = {"prompts": ["a", "b", "c", "d", "e"], "num_seeds": 1, "every_n_steps": 2, "batch_size": 2}
    grid = {"class_path": "callbacks.generation.PromptGrid", "init_args": given}
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.02, "momentum": 0.9}}
    changes = {"model.init_args.optimizer": sgd, "trainer.callbacks": [grid], "trainer.max_epochs": 1}
    settings = written("flow_finetuning_flux", tmp_path, changes)
    command = ("fit", "--config", settings, "--run_directory")
    run(*command, tmp_path / "one")
    in_two_processes(run, *command, tmp_path / "two", "--trainer.devices", "2", "--trainer.strategy", STRATEGY)
    one, two = (sorted(tmp_path.glob(f"{name}/figures/prompts/*.png")) for name in ("one", "two"))
    assert [path.name for path in one] == ["step_000000.png", "step_000002.png"]
    for mine, theirs in zip(one, two, strict=True):
        assert abs(pixels(mine) - pixels(theirs)).max() <= 1, mine.name


def test_it_does_not_go_on() -> None:
    refuse_to_go_on(False, "fit")
    refuse_to_go_on(True, "test")
    with pytest.raises(ValueError, match="resume with one device or with ddp, which can load the same checkpoint"):
        refuse_to_go_on(True, "fit")


def test_the_blocks_of_a_u_net_are_sharded_one_by_one() -> None:
    unet = conditional_unet()
    assert set(network_blocks(unet)) == {*unet.down_blocks, unet.mid_block, *unet.up_blocks}
