import pytest
import torch.optim.lr_scheduler  # noqa: F401

import train
from experiments.parsing.class_names import RENAMED, did_you_mean, project_classes, with_full_names

ELR = "lightning_modules.noisy_labels.elr.ELR"
LABELLED = "datamodules.classification.labelled_images.LabelledImages"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--model.help", "ELR"], ["--model.help", ELR]),
        (["--model.help=ELR"], [f"--model.help={ELR}"]),
        (["--data.help", "LabelledImages", "--model", "ELR"], ["--data.help", LABELLED, "--model", "ELR"]),
        (["--data.help", "ELR"], ["--data.help", "ELR"]),
        (["--model.help", ELR], ["--model.help", ELR]),
        (["--help"], ["--help"]),
        (["--model.help"], ["--model.help"]),
    ],
)
def test_help_takes_a_short_name(given: list[str], expected: list[str]) -> None:
    assert with_full_names(["fit", *given]) == ["fit", *expected]


def test_help_of_a_class_by_its_short_name_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["fit", "--model.help", "ELR"])
    assert "--model.strength" in capsys.readouterr().out


def test_a_name_of_several_classes_is_refused_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [("A", "lightning_modules.one.A"), ("A", "lightning_modules.two.A"), ("A", "callbacks.A")]
    monkeypatch.setattr("experiments.parsing.class_names.project_classes", lambda: iter(both))
    with pytest.raises(ValueError, match=r"several classes are called A; name one of lightning_modules\.one\.A, light"):
        with_full_names(["fit", "--model.help", "A"])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("torch.optim.Adm", "torch.optim.Adam"),
        ("torch.optin.Adam", "torch.optim.Adam"),
        ("torch.optim.lr_scheduler.CosineAnealingLR", "torch.optim.lr_scheduler.CosineAnnealingLR"),
        ("Adm", "torch.optim.Adam"),
        ("lightning_modules.noisy_labels.elr.ERL", ELR),
        ("LabeledImages", LABELLED),
    ],
)
def test_the_class_that_is_most_like_it_is_suggested(given: str, meant: str) -> None:
    assert did_you_mean(given) == f"; did you mean {meant}?"


@pytest.mark.parametrize("given", ["NeptuneLogger", "Quixotic", "torch.optim.Quixotic"])
def test_nothing_is_suggested_where_nothing_is_like_it(given: str) -> None:
    assert "did you mean" not in did_you_mean(given)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("datamodules.corruptions.operators.Mask", "datamodules.corruptions.operators.Inpainting"),
        ("callbacks.measurements.Measurements", "callbacks.save_tables.SaveTables"),
        ("lightning_modules.probabilistic.meco.UnnormalizedModel", "lightning_modules.probabilistic.meco.MECO"),
    ],
)
def test_a_class_of_version_0_1_is_named_as_it_is_called_now(old: str, new: str) -> None:
    assert did_you_mean(old) == f"; since version 0.2 it is {new}"


def test_every_new_name_is_that_of_a_class() -> None:
    assert set(RENAMED.values()) <= {name for name, _ in project_classes()}
