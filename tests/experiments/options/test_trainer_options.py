"""Trainer options that a method does not support are rejected in one sentence before training."""

from pathlib import Path

import pytest
from lightning.pytorch import LightningModule
from torch import nn

import train
from experiments.options.trainer_options import of_an_option, refuse_options
from tests.trainers import quiet

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
            "trainer.strategy ModelParallelStrategy needs a module that overrides configure_model, and ELR does not",
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


def test_a_run_that_was_compiled_is_tested(tmp_path: Path) -> None:
    more = ("--compile", "eager", "--trainer.limit_train_batches", "1", "--trainer.enable_progress_bar", "false")
    call = ("--config", "configs/elr/demo.yaml", "--run_directory", str(tmp_path), *more)
    assert train.main(["fit", *call, "--trainer.max_epochs", "1"]) == 0
    assert "compile: eager" in (tmp_path / "config.yaml").read_text()
    assert train.main(["test", "--resume", str(tmp_path)]) == 0


def test_weights_in_half_where_images_are_in_single_precision_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--trainer.precision", "bf16-true", "--run_directory", str(tmp_path / "run"))
    assert train.main(["fit", "--config", "configs/cbsn/demo.yaml", *more]) == 1
    assert "error: trainer.precision bf16-true is not possible here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "precision", "sentence"),
    [
        ("It looks like your module has parameters that were not used in producing the loss", "32-true", "unused"),
        ("mat1 and mat2 must have the same dtype, but got Float and BFloat16", "16-true", "use bf16-mixed"),
        ("mat1 and mat2 must have the same dtype, but got Float and Double", "32-true", None),
        ("\"dirichlet\" not implemented for 'BFloat16'", "bf16-true", "use bf16-mixed"),
        ("out of memory", "bf16-true", None),
    ],
)
def test_errors_of_pytorch_that_an_option_caused(text: str, precision: str, sentence: str | None) -> None:
    said = of_an_option(RuntimeError(text), precision)
    assert said is None if sentence is None else sentence in str(said)


class WithBatchNorm(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.BatchNorm2d(3)


def test_batch_norm_is_shared_on_gpus_alone() -> None:
    trainer = quiet(sync_batchnorm=True, devices=2, strategy="ddp")
    with pytest.raises(ValueError, match=r"trainer\.sync_batchnorm must be false on CPUs"):
        refuse_options(WithBatchNorm(), trainer)
    refuse_options(LightningModule(), trainer)
