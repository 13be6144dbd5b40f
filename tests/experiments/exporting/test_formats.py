"""An export format is one file."""

from pathlib import Path

import pytest

from experiments import commands
from experiments.exporting import formats

FORMAT = '''"""numbers.txt, one line for each tensor"""
NEEDS = ("a_package_of_nobody",)
def write(folder, export): ...
'''


def test_a_file_is_a_format_with_its_help_and_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert all(callable(formats.load_format(name).write) for name in ("torch", "safetensors"))
    (tmp_path / "numbers.py").write_text(FORMAT)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    assert formats.names() == ["onnx", "safetensors", "torch", "numbers"]
    with pytest.raises(SystemExit):
        commands.parse("export", ["--help"])
    assert "    numbers      numbers.txt, one line for each tensor\n" in capsys.readouterr().out
    given = commands.parse("export", ["run", "--format", "numbers"])
    with pytest.raises(ValueError, match=r"--format numbers needs a_package_of_nobody: pip install 'noiseworks\[numb"):
        formats.load_format(given.format)
