import pytest
import torch.optim.lr_scheduler  # noqa: F401
from lightning.pytorch import loggers

from experiments.parsing.class_names import did_you_mean, with_full_names

ELR = "lightning_modules.noisy_labels.elr.ELR"
LABELLED = "datamodules.classification.labelled_images.LabelledImages"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--model.help", "ELR"], ["--model.help", ELR]),
        (["--data.help", "LabelledImages", "--model", "ELR"], ["--data.help", LABELLED, "--model", "ELR"]),
        (["--data.help", "ELR"], ["--data.help", "ELR"]),
        (["--model.help", ELR], ["--model.help", ELR]),
        (["--model.help"], ["--model.help"]),
    ],
)
def test_help_takes_a_short_name(given: list[str], expected: list[str]) -> None:
    assert with_full_names(["fit", *given]) == ["fit", *expected]


def test_a_name_of_several_classes_is_refused_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [("A", "lightning_modules.one.A"), ("A", "lightning_modules.two.A"), ("A", "callbacks.A")]
    monkeypatch.setattr("experiments.parsing.class_names.project_classes", lambda: iter(both))
    with pytest.raises(ValueError, match=r"several classes are called A; name one of lightning_modules\.one\.A, light"):
        with_full_names(["fit", "--model.help", "A"])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("torch.optim.Adm", "torch.optim.Adam"),
        ("Adm", "torch.optim.Adam"),
        ("lightning_modules.noisy_labels.elr.ERL", ELR),
        # another package
        ("lightning_modules.networks.TextToImage", "lightning_modules.backbones.diffusion.TextToImage"),
        ("datamodules.prompts.captioned_folder.CaptionedFolder", "datamodules.prompts.folder_sets.CaptionedFolder"),
    ],
)
def test_the_class_that_is_most_like_it_is_suggested(given: str, meant: str) -> None:
    assert did_you_mean(given) == f"; did you mean {meant}?"


# Lightning 2.6.0 still contains this logger, so its short name is completed.
SUNSET = [] if "NeptuneLogger" in loggers.__all__ else ["NeptuneLogger"]


@pytest.mark.parametrize("given", [*SUNSET, "Quixotic", "torch.optim.Quixotic"])
def test_nothing_is_suggested_where_nothing_is_like_it(given: str) -> None:
    assert "did you mean" not in did_you_mean(given)
