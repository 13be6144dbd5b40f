"""Every paper has rows in docs/abstracts.csv, and everything named in a row exists."""

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments import commands
from experiments.abstracts import EXTRA, KINDS, SHARED, abstracts_page, parts, read_abstracts, worst_kinds
from experiments.catalogue import find_methods
from experiments.claims.verdicts import Row
from experiments.results import read_csv
from tests.command import ROOT

METHODS = find_methods()
ROWS = read_abstracts(ROOT / "docs/abstracts.csv")
SAME_PAPER = {"elr_plus": "elr"}
OF_OTHER_PAPERS = {
    *("adversarial_training", "consistency", "denoised_classifier", "denoised_smoothing"),
    *("ap_bsn", "ddpm", "ddrm", "dps", "finetuning", "pigdm"),
}
PACKAGES = ("lightning_modules", "datamodules", "callbacks")
GPU_MEASUREMENTS = "pytest -m gpu --override-ini addopts=-ra "
TRAINER_COMMANDS = ("fit", "test", "predict")


def named(*kinds: str) -> Iterator[str]:
    """Yield the references of rows with this type of evidence."""
    for row in ROWS:
        if row["evidence"] in kinds:
            yield from parts(row["reference"])


def test_every_paper_has_rows_in_the_order_of_its_abstract() -> None:
    folders = {method.folder for method in METHODS if method.field != "baselines"}
    papers = {SAME_PAPER.get(folder, folder) for folder in folders - OF_OTHER_PAPERS}
    assert {row["paper"] for row in ROWS} == papers | SHARED.keys()
    for paper in papers:
        named = [row["sentence"] for row in ROWS if row["paper"] == paper]
        numbers = [int(sentence) for sentence in named if sentence != EXTRA]
        assert named == [*map(str, sorted(numbers)), *[EXTRA] * named.count(EXTRA)], paper
        assert len(numbers) >= 4, paper


def test_every_row_has_a_claim_a_place_and_evidence() -> None:
    for row in ROWS:
        assert row["claim"], row
        assert row["reference"], row
        assert row["where"] or row["evidence"] == "not shown", row
    assert {row["evidence"] for row in ROWS} == KINDS.keys()
    assert len({(row["paper"], row["claim"]) for row in ROWS}) == len(ROWS)


OF_PAPERS = {row["paper"] for row in ROWS} | SAME_PAPER.keys() | {"lsa_plus"}
STATED = [row for row in read_csv(ROOT / "docs/claims.csv") if not row["published"]]


def test_every_claim_about_a_paper_is_in_a_row_and_claims_about_one_sentence_are_together() -> None:
    """A sentence is as good as its worst claim, so no recorded claim may be left out of the rows of its sentence."""
    places: dict[str, set[tuple[str, str]]] = {}
    for row in ROWS:
        for name in (*parts(row["reference"]), *re.findall(r"\*([^*]+)\*", row["reference"])):
            places.setdefault(name, set()).add((row["paper"], row["sentence"]))
    own = [claim for claim in STATED if claim["method"].split("/")[1] in OF_PAPERS]
    assert len(own) > 250
    assert [claim["claim"] for claim in own if claim["claim"] not in places] == []
    for text in {claim["paper"] for claim in own}:
        together = [places[claim["claim"]] for claim in own if claim["paper"] == text]
        assert set.intersection(*together), text


def test_a_sentence_is_as_good_as_its_worst_row() -> None:
    measured = {claim["claim"]: claim for claim in STATED}
    kinds = worst_kinds(ROWS, measured)
    failed = {(row["paper"], row["sentence"]) for row in ROWS if row["sentence"] != EXTRA and not holds(row, measured)}
    assert {sentence for sentence, kind in kinds.items() if kind == "fails"} == failed
    assert kinds["monna", "6"] == "fails", "Krum is better under fall of empires"


def holds(row: Row, measured: dict[str, Row]) -> bool:
    if row["evidence"] != "claim":
        return row["evidence"] != "fails"
    return {measured[name]["verdict"] for name in parts(row["reference"])} == {"holds"}


def test_every_class_and_configuration_exists() -> None:
    for path in {path for row in ROWS for path in parts(row["where"])}:
        if path.startswith("configs/"):
            assert (ROOT / path).is_file(), path
            continue
        module, _, name = path.rpartition(".")
        assert module.partition(".")[0] in PACKAGES, path
        file = ROOT / module.replace(".", "/")
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        assert name in defined(file), path


@functools.cache
def defined(file: Path) -> set[str]:
    """Return the names of the classes and functions that a file defines, and the names that it imports."""
    body = ast.parse(file.read_text()).body
    own = {node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    return own | {alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}


@functools.cache
def needs_data(path: str) -> dict[str, bool]:
    """Return, for each test of a file, whether it needs real data."""
    body = ast.parse((ROOT / path).read_text()).body
    of_file = any(isinstance(node, ast.Assign) and "mark.data" in ast.unparse(node) for node in body)
    return {
        node.name: of_file or any("mark.data" in ast.unparse(each) for each in node.decorator_list)
        for node in body
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("kind", ["test", "data test"])
def test_every_test_exists_and_is_of_its_kind(kind: str) -> None:
    for name in named(kind):
        file, _, function = name.partition("::")
        assert (ROOT / file).is_file(), name
        assert needs_data(file).get(function) is (kind == "data test"), name


def test_every_file_with_numbers_exists() -> None:
    first = [parts(row["reference"])[0] for row in ROWS if row["evidence"] == "fails"]
    for path in {*named("measured"), *first}:
        assert path.startswith(("configs/", "docs/")), path
        assert (ROOT / path.partition("#")[0]).is_file(), path


def test_every_command_exists_with_its_configurations() -> None:
    for command in named("gpu"):
        name, *argv = shlex.split(command)
        if command.startswith(GPU_MEASUREMENTS):
            file, _, test = command.removeprefix(GPU_MEASUREMENTS).split()
            assert f"def test_{test}(" in (ROOT / file).read_text(), command
            continue
        assert name in commands.names(), command
        configs = [each for each in argv if each.startswith("configs/")]
        assert configs, command
        assert all((ROOT / each).is_file() for each in configs), command
        if name not in TRAINER_COMMANDS:
            commands.parse(name, argv)


@pytest.mark.nightly
def test_every_command_of_a_trainer_parses() -> None:
    from tests.conformance.experiments import experiments

    for command in named("gpu"):
        name, *argv = shlex.split(re.sub(r" (--ckpt_path \S+|--test_after_fit true)", "", command))
        if name in TRAINER_COMMANDS:
            experiments().parsed(*(str(ROOT / each) if each.startswith("configs/") else each for each in argv))


def row(**changed: str) -> dict[str, str]:
    base = {
        "paper": "elr",
        "sentence": "1",
        "claim": "a | b",
        "where": "",
        "evidence": "claim",
        "reference": "one",
        "note": "",
    }
    return base | changed


def page(**changed: str) -> str:
    claims = [{**STATED[0], "claim": "one", "verdict": "does not hold"}]
    return abstracts_page([row(**changed)], METHODS, claims, "| speed | 2.5 | - | a |\n")


def test_a_claim_that_does_not_hold_is_counted_unless_no_sentence_makes_it() -> None:
    assert "| does not hold here |" not in page(sentence=EXTRA)
    assert "| does not hold here | 1 | 1 |" in page()
    assert "| 1 | a \\| b | - | **does not hold here**: *one*" in page()
    assert "speed: 2.5 |" in page(evidence="benchmark", reference="speed")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reference": "two"}, "sentence 1 of elr names 'two', which is not a claim in docs/claims.csv"),
        ({"evidence": "benchmark"}, "sentence 1 of elr names 'one', which is not in benchmarks.md"),
        ({"paper": "none"}, "no method has the folder none"),
    ],
)
def test_what_a_row_names_in_vain_is_reported(changed: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        page(**changed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("elr,1,a,,proof,b,\n", "sentence 1 of elr has evidence 'proof', expected one of claim, test"),
        ("elr,1,a,,claim\n", "a row must have the columns paper, sentence, claim"),
    ],
)
def test_a_row_that_does_not_fit_is_reported(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "abstracts.csv").write_text(f"paper,sentence,claim,where,evidence,reference,note\n{text}")
    with pytest.raises(ValueError, match=message):
        read_abstracts(tmp_path / "abstracts.csv")
    assert read_abstracts(tmp_path / "none.csv") == []
