"""Caching parsing results changes neither the parsed values nor the rejections."""

from argparse import ArgumentError
from pathlib import Path

import pytest
from jsonargparse import set_parsing_settings

from experiments.calls.parse import Grammar, parse
from experiments.lightning_internals import import_verdicts, set_import_verdicts
from tests import parsed_once
from tests.command import ROOT

RESOLVED = Grammar.resolve  # before any fixture replaces it
MLP = (
    "{class_path: lightning_modules.networks.mlp.MLP, "
    "init_args: {in_features: 64, hidden_features: %s, out_features: 10}}"
)


def settings(*arguments: str) -> str:
    parsed = parse(["fit", *arguments])
    return parsed.grammar.parser.dump(parsed.config, skip_validation=True)


def demo(*arguments: str) -> str:
    return settings("--config", str(ROOT / "configs/elr/demo.yaml"), *arguments)


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed_once, "KEPT", {})
    monkeypatch.setattr(Grammar, "resolve", RESOLVED)


@pytest.mark.parametrize("config", ["elr_plus/demo", "lsa/demo"])
def test_settings_are_those_without_it(config: str) -> None:
    arguments = ("--config", str(ROOT / f"configs/{config}.yaml"))
    expected = settings(*arguments)
    with parsed_once.parsed_once():
        first, kept = settings(*arguments), len(parsed_once.KEPT)
        assert kept > 10
        assert settings(*arguments) == first == expected
        assert len(parsed_once.KEPT) == kept, "the second time everything is there"
        changed = settings(*arguments, "--seed_everything", "7", "--data.batch_size", "11")
    assert changed == settings(*arguments, "--seed_everything", "7", "--data.batch_size", "11") != expected


def test_a_wrong_value_is_rejected_after_right_ones() -> None:
    with parsed_once.parsed_once():
        right = demo("--model.network", MLP % "[512]")
        for _ in range(2):
            with pytest.raises(ArgumentError, match="many"):
                demo("--model.network", MLP % "[many]")
        assert demo("--model.network", MLP % "[512]") == right


def test_a_class_is_refused_where_imports_are_refused_though_it_was_parsed_before() -> None:
    with parsed_once.parsed_once():
        demo()
        before = import_verdicts()
        try:
            set_parsing_settings(import_path_denylist=["lightning_modules.networks"])
            with pytest.raises(ArgumentError, match="not allowed"):
                demo()
        finally:
            set_import_verdicts(before)
        demo()


def test_nothing_is_kept_of_values_that_may_name_files(tmp_path: Path) -> None:
    file = tmp_path / "network.yaml"
    with parsed_once.parsed_once():
        for features in ("[17]", "[19]"):
            file.write_text(MLP % features)
            assert f"- {features[1:3]}" in demo("--model.network", str(file))


def test_what_a_caller_changes_is_not_kept() -> None:
    with parsed_once.parsed_once():
        line = parse(["fit", "--config", str(ROOT / "configs/elr/demo.yaml")])
        line.settings.model.init_args.network.init_args.hidden_features.append(3)
        again = parse(["fit", "--config", str(ROOT / "configs/elr/demo.yaml")])
    assert 3 not in again.settings.model.init_args.network.init_args.hidden_features
