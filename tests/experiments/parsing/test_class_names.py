import pytest
import torch.optim.lr_scheduler  # noqa: F401
from lightning.pytorch import loggers

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


# Lightning 2.6.0 still contains this logger, so its short name is completed.
SUNSET = [] if "NeptuneLogger" in loggers.__all__ else ["NeptuneLogger"]


@pytest.mark.parametrize("given", [*SUNSET, "Quixotic", "torch.optim.Quixotic"])
def test_nothing_is_suggested_where_nothing_is_like_it(given: str) -> None:
    assert "did you mean" not in did_you_mean(given)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("datamodules.corruptions.operators.Mask", "datamodules.corruptions.operators.Inpainting"),
        ("callbacks.measurements.Measurements", "callbacks.save_tables.SaveTables"),
        ("lightning_modules.probabilistic.meco.UnnormalizedModel", "lightning_modules.probabilistic.meco.MECO"),
        ("datamodules.corruptions.value_noise.Gaussian", "datamodules.corruptions.value_noise.GaussianValues"),
        (
            "lightning_modules.probabilistic.scale_mixture_nngp.Fixed",
            "lightning_modules.probabilistic.scale_mixture_nngp.FixedScale",
        ),
    ],
)
def test_a_class_of_version_0_1_is_named_as_it_is_called_now(old: str, new: str) -> None:
    assert did_you_mean(old) == f"; since version 0.2 it is {new}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lightning_modules.networks.timm_model", "lightning_modules.backbones.timm_model"),
        ("lightning_modules.networks.with_weights", "lightning_modules.backbones.with_weights"),
        ("lightning_modules.networks.TextToImage", "lightning_modules.backbones.diffusion.TextToImage"),
        (
            "lightning_modules.networks.text_classifier.transformers_classifier",
            "lightning_modules.backbones.text_classifier.transformers_classifier",
        ),
        ("lightning_modules.training.schedules.WarmupCosine", "lightning_modules.optim.schedules.WarmupCosine"),
        ("lightning_modules.baselines.Descent", "lightning_modules.optimization.sso.Descent"),
        ("datamodules.classification.image_folder.ImageFolder", "datamodules.classification.folder_sets.ImageFolder"),
        ("datamodules.prompts.captioned_folder.CaptionedFolder", "datamodules.prompts.folder_sets.CaptionedFolder"),
    ],
)
def test_a_class_or_function_of_version_0_1_is_found_where_it_stands_now(old: str, new: str) -> None:
    assert did_you_mean(old) == f"; did you mean {new}?"


def test_the_command_line_names_the_new_place(capsys: pytest.CaptureFixture[str]) -> None:
    old = "lightning_modules.networks.timm_model"
    assert train.main(["fit", "--config", "configs/own_data/classes.yaml", "--model.network.class_path", old]) == 2
    assert f"there is no class {old}; did you mean lightning_modules.backbones.timm_model?" in capsys.readouterr().err


def test_every_new_name_is_that_of_a_class() -> None:
    assert set(RENAMED.values()) <= {name for name, _ in project_classes()}
