"""A file in the folder of commands is a command, without any other registration."""

from pathlib import Path

import pytest

import train
from experiments import commands

RUNS = ("fit", "validate", "test", "predict")


def test_the_list_of_commands_has_a_sentence_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([]) == 0
    said = capsys.readouterr().out
    assert {"compare", "claim", "fid", "methods", *RUNS} <= {*commands.names()}
    for name in commands.names():
        summary = commands.summary(name)
        assert summary.endswith("."), name
        assert f"  {name} " in said
        assert f" {summary}\n" in said + "\n"


def test_every_command_parses_by_its_own_parser(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (name for name in commands.names() if name not in RUNS):
        with pytest.raises(SystemExit):
            commands.parse(name, ["--help"])
        said = capsys.readouterr().out
        assert said.startswith(f"usage: train.py {name} "), name
        assert commands.summary(name) in said
        assert train.main([name, "--no_such_option"]) == 2
        assert capsys.readouterr().err.startswith("error: "), name


def test_an_unknown_command_is_told_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["trian"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: there is no subcommand trian; choose one of {', '.join(commands.names())}\n"


def test_a_new_file_is_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "greet.py").write_text(
        '"""Greet."""\n\n'
        "def arguments(parser):\n    parser.add_argument('name')\n\n"
        "def run(options):\n    if options.name == 'x':\n        raise ValueError('x has no name')\n"
        "    print('hello', options.name)\n    return 0\n"
    )
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    assert train.main([]) == 0
    assert "  greet  " in capsys.readouterr().out
    assert train.main(["greet", "reader"]) == 0
    assert capsys.readouterr().out == "hello reader\n"
    assert train.main(["greet", "x"]) == 2
    assert capsys.readouterr().err == "error: x has no name\n"
