"""Options of the Trainer that a method does not take are refused in one sentence, before anything is trained."""

from pathlib import Path

import pytest

import train
from experiments.trainer_options import unused_parameters

SHARDED = (
    "{class_path: lightning.pytorch.strategies.ModelParallelStrategy, "
    "init_args: {data_parallel_size: 1, tensor_parallel_size: 1}}"
)


@pytest.mark.parametrize(
    ("config", "option", "value", "sentence"),
    [
        (
            "monna/demo",
            "gradient_clip_val",
            "0.5",
            "trainer.gradient_clip_val must be left out for MoNNA, which takes its optimizer steps itself and clips no "
            "gradients, got 0.5",
        ),
        (
            "monna/demo",
            "accumulate_grad_batches",
            "2",
            "trainer.accumulate_grad_batches must be 1 for MoNNA, which takes its optimizer steps itself, got 2",
        ),
        (
            "elr/demo",
            "strategy",
            SHARDED,
            "trainer.strategy ModelParallelStrategy shards modules that override configure_model, and ELR does not",
        ),
    ],
)
def test_what_a_method_does_not_take_is_one_sentence(
    config: str, option: str, value: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (f"--trainer.{option}", value, "--run_directory", str(tmp_path / "run"))
    assert train.main(["fit", "--config", f"configs/{config}.yaml", *more]) == 1
    [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error == f"error: {sentence}"


def test_a_module_without_a_network_is_not_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--compile", "eager", "--run_directory", str(tmp_path / "run"))
    assert train.main(["fit", "--config", "configs/subgm/demo.yaml", *more]) == 1
    assert "error: compile needs a module with model.network, and SubGM has none" in capsys.readouterr().err


def test_only_the_error_of_unused_parameters_is_taken_for_it() -> None:
    text = "It looks like your LightningModule has parameters that were not used in producing the loss"
    assert "ddp_find_unused_parameters_true" in str(unused_parameters(RuntimeError(text)))
    assert unused_parameters(RuntimeError("out of memory")) is None
