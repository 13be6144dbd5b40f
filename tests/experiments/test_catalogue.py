import subprocess
import sys
from pathlib import Path

import pytest

from experiments import catalogue, commands
from experiments.catalogue import Paper, find_methods

PROJECT = Path(catalogue.__file__).parents[1]

MODULE = '''"""A method.

    L = 0,

for all that is given.

Source: Jeong and Shin, Consistency Regularization for Certified Robustness of Smoothed Classifiers, NeurIPS 2020,
arXiv 2006.04062. Equation 3.
"""
import torch_that_is_not_installed
from lightning.pytorch import LightningModule

class Helper:
    """No method."""

class Consistency(Helper, LightningModule):
    """Trains."""

class Variant(Consistency):
    """Another.

    Source: Cohen, Rosenfeld and Kolter, Certified Adversarial Robustness via Randomized Smoothing, ICML 2019,
    arXiv 1902.02918; Lecuyer et al., Certified Robustness with Differential Privacy, S&P 2019; code of 2020.
    """
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "lightning_modules/interfaces.py": "class Classifier: ...",
        "lightning_modules/networks/mlp.py": "from torch import nn\nclass MLP(nn.Module): ...",
        "lightning_modules/robustness/consistency.py": MODULE,
        "lightning_modules/robustness/smoothing.py": '"""Knows LightningModule by name only."""',
        "lightning_modules/diffusion/tract/__init__.py": '"""A.\n\nSource: Berthelot et al., Transitive, 2023."""',
        "lightning_modules/diffusion/tract/module.py": "import lightning as L\nclass Tract(L.LightningModule): ...",
        "configs/consistency/demo.yaml": "# Demo.\n# needs: 2 CPU cores, 1 minute\nseed_everything: 0\nmodel:\n"
        "  class_path: lightning_modules.robustness.consistency.Consistency\n",
        "configs/consistency/cifar10.yaml": "# needs: one GPU of 16 GB\n# needs: CIFAR-10\n\nmodel:\n"
        "  class_path: lightning_modules.robustness.consistency.Consistency\n# needs: not at the top\n",
        "configs/consistency/claim.yaml": "paper: It is certified.\nmethod: demo.yaml\nbaseline: plain.yaml\n"
        "metric: test/acr\ndirection: higher\nmargin: 0.1\nseeds: [0, 1]\n",
        "configs/consistency/plain.yaml": "base: ../tract/demo.yaml\nmodel.eta: 1\n",
        "configs/tract/demo.yaml": "model: {class_path: lightning_modules.diffusion.tract.Tract}\n",
        "configs/trainer/cpu.yaml": "trainer: {logger: {class_path: lightning_modules.diffusion.tract.Tract}}\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_methods_papers_configs_and_needs_come_from_the_files(project: Path) -> None:
    tract, consistency, variant = find_methods(project)
    assert (tract.name, tract.field, tract.paper) == (
        "Tract",
        "diffusion",
        Paper("Berthelot et al.", "Transitive", "2023"),
    )
    assert [str(config.path) for config in tract.configs] == [
        "configs/consistency/plain.yaml",
        "configs/tract/demo.yaml",
    ]
    assert (tract.class_path, tract.names) == ("lightning_modules.diffusion.tract.Tract", {"tract"})
    assert (consistency.name, consistency.field) == ("Consistency", "robustness")
    assert consistency.paper == Paper(
        "Jeong and Shin",
        "Consistency Regularization for Certified Robustness of Smoothed Classifiers",
        "NeurIPS 2020",
        "2006.04062",
    )
    assert [(str(config.path), config.needs) for config in consistency.configs] == [
        ("configs/consistency/cifar10.yaml", "one GPU of 16 GB; CIFAR-10"),
        ("configs/consistency/demo.yaml", "2 CPU cores, 1 minute"),
    ]
    assert (variant.name, variant.paper.arxiv, variant.configs) == ("Variant", "1902.02918", [])


def test_a_method_is_one_line_until_it_is_asked_for(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run("methods", [], project) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Tract        diffusion   Transitive, 2023"
    assert [line.split()[0] for line in lines] == ["Tract", "Consistency", "Variant"]
    (project / "lightning_modules" / "baselines").mkdir()
    (project / "lightning_modules" / "baselines" / "cutout.py").write_text(MODULE.replace("Consistency(", "Cutout("))
    assert [each.name for each in find_methods(project)] == ["Tract", "Consistency", "Variant", "Cutout"]
    assert commands.run("methods", ["variant", "Consistency"], project) == 0
    described = capsys.readouterr().out.split("lightning_modules.robustness.consistency.")[1]
    assert described.startswith("Consistency\n  Consistency Regularization for Certified Robustness of Smoothed")
    for said in (
        ", by Jeong and Shin\n\n  A method.\n\n      L = 0\n\n",
        "  configs/consistency/demo.yaml\n    Demo.\n    needs: 2 CPU cores, 1 minute\n",
        "  claim: consistency/demo: It is certified. (test/acr higher than plain.yaml's by 0.1)\n",
    ):
        assert said in described


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--field", "denoising"], "--field must be one of diffusion, robustness, got denoising"),
        (["consistancy"], "there is no method consistancy; the methods are Tract, Consistency, Variant"),
    ],
)
def test_what_there_is_not_is_said(
    arguments: list[str], said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.run("methods", ["--field", "diffusion"], project) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert commands.run("methods", arguments, project) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_a_broken_config_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "configs/tract/broken.yaml").write_text("model: {class_path: [")
    assert commands.run("methods", [], project) == 2
    error = capsys.readouterr().err
    assert "configs/tract/broken.yaml is not valid YAML" in error
    assert error.count("\n") == 1


def test_every_method_of_the_project_names_its_paper() -> None:
    methods = find_methods()
    assert methods
    for method in methods:
        assert method.paper.title, f"{method.module} has no paragraph `Source: Authors, Title, VENUE YEAR, arXiv ID.`"
        assert method.paper.venue or method.paper.arxiv, f"{method.module}: the source has no venue and no arXiv number"


def test_every_model_of_the_project_that_a_config_names_is_listed() -> None:
    listed = {str(config.path) for method in find_methods() for config in method.configs}
    named = {str(config.path) for config, _ in catalogue._configs(PROJECT)}
    assert named == listed


def test_listing_imports_no_framework() -> None:
    program = (
        "import sys; from experiments.commands import claim, compare, run; status = run('methods', []); "
        "heavy = {'torch', 'lightning', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules); "
        "ours = [name for name in sys.modules if name.split('.')[0] in "
        "('lightning_modules', 'datamodules', 'callbacks', 'train') "
        "and not 'datamodules.files.whole_files'.startswith(name)]; "
        "sys.exit(f'{status} {heavy} {ours}' if status or heavy or ours else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_configuration_is_described_by_a_sentence_without_its_commands() -> None:
    described = [config for method in find_methods() for config in method.configs]
    assert len(described) > 300
    assert [config.path for config in described if not config.about or "python train.py" in config.about] == []
