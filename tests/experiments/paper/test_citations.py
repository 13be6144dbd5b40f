import re
from pathlib import Path

import pytest
import yaml

from experiments import commands
from experiments.catalogue import Paper, find_methods, parse_source
from experiments.config_files import PROJECT
from experiments.paper.citations import Entries, cite, find_source

ELR = """\
% lightning_modules.noisy_labels.elr.ELR
@inproceedings{liu2020early,
  author = {Liu and Niles-Weed and Razavian and Fernandez-Granda},
  title = {{Early-Learning Regularization Prevents Memorization of Noisy Labels}},
  booktitle = {NeurIPS},
  year = {2020},
  eprint = {2007.00151},
  archivePrefix = {arXiv},
}
"""


def test_a_configuration_cites_its_method_this_project_and_the_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run("cite", ["configs/elr/demo.yaml"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(ELR)
    assert "author = {{The noiseworks developers}}" in text
    version = yaml.safe_load((PROJECT / "CITATION.cff").read_text())["version"]
    assert f"note = {{Version {version}}}" in text
    assert [name for name in ("torch", "lightning", "torchmetrics", "timm", "diffusers") if f"% {name}\n" in text] == [
        *("torch", "lightning", "torchmetrics")
    ]


def test_runs_below_a_folder_share_entries_and_run_nothing(tmp_path: Path) -> None:
    """Networks, callbacks and label noise are cited, too. A user's own class is not mistaken for one of ours."""
    network = {"class_path": "lightning_modules.networks.preact_resnet.PreActResNet18"}
    settings: dict[str, dict[str, object]] = {
        "a": {"class_path": "lightning_modules.noisy_labels.elr.ELR", "init_args": {"network": network}},
        "b": {"class_path": "lightning_modules.noisy_labels.elr_plus.ELRPlus"},
        "c": {"class_path": "mine.lightning_modules.baselines.bm3d.BM3D"},
    }
    for name, model in settings.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    text = cite([tmp_path])
    assert text.count("2007.00151") == 1
    assert "@inproceedings{he2016identity," in text
    keys = re.findall(r"^@\w+\{(.*),$", text, re.MULTILINE)
    assert len(keys) == len(set(keys)) == 6


def test_every_method_has_an_entry_with_the_authors_of_its_docstring() -> None:
    entries = Entries()
    methods = [each for each in find_methods() if each.paper.title]
    assert len(methods) > 60
    for each in methods:
        paper, _ = find_source(each.class_path)
        assert paper == each.paper, each.class_path
        text = "".join(entries.add(paper, each.class_path))
        identity = paper.arxiv or paper.title.lower()
        assert identity in entries.papers, text
        assert text.count("{") == text.count("}")
        if text:
            [authors] = re.findall(r"author = \{(.*)\},", text)
            given = paper.authors.replace(" et al.", " and others").replace(", ", " and ")
            assert authors == given


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Gardner and Le Roux, A & B: 50% of C_1, ICML 2023.", ("Gardner and Le Roux", r"A \& B: 50\% of C\_1", 2023)),
        ("Lee et al., A Long Title of a Paper, arXiv 1203.04567.", ("Lee and others", "A Long Title of a Paper", 2012)),
        ("A. Lee, B. Kim, and C. Li, Noise, ICML 2020.", ("A. Lee and B. Kim and C. Li", "Noise", 2020)),
        ("Z-Image Team, Images of a Long Title, 2025.", ("{Z-Image Team}", "Images of a Long Title", 2025)),
    ],
)  # fmt: skip
def test_parts_of_a_reference(source: str, expected: tuple[str, str, int]) -> None:
    paper = parse_source(f"Source: {source}")
    assert paper is not None
    [text] = Entries().add(paper, "x")
    author, title, year = expected
    assert f"author = {{{author}}}" in text
    assert f"title = {{{{{title}}}}}" in text
    assert f"year = {{{year}}}" in text


def test_what_is_no_reference_is_a_comment_and_equal_keys_are_told_apart() -> None:
    entries = Entries()
    [text] = entries.add(Paper("the authors' code of LSA (Albert et al.", "ECCV 2024)"), "unit_embedding")
    assert text == "% unit_embedding: the authors' code of LSA (Albert et al., ECCV 2024)\n"
    texts = [entries.add(Paper("Lee", title, "ICML 2020"), "x")[0] for title in ("Noise a", "Noise b")]
    assert ["@inproceedings{lee2020noise," in texts[0], "@inproceedings{lee2020noise2," in texts[1]] == [True, True]


@pytest.mark.parametrize(
    ("path", "said"), [("configs/elr/dem.yaml", "did you mean configs/elr/demo.yaml?"), (".", "there is no run in .")]
)
def test_what_is_neither_a_run_nor_a_configuration_is_one_sentence(
    path: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert commands.run("cite", [path]) == 2
    assert said in capsys.readouterr().err
