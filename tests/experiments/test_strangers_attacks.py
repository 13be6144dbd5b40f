"""Generated attacks on a run directory's `config.yaml` start no process, open no connection and touch no other file."""

import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import train
from tests.experiments.test_strangers import QUIET, Forged, forged, trained  # noqa: F401

LISTS = ("callbacks", "plugins")
KEYS = {
    "model": "model", "network": "model.init_args.network", "optimizer": "model.init_args.optimizer",
    "lr_scheduler": "model.init_args.lr_scheduler", "images": "data.init_args.images",
    "label_noise": "data.init_args.label_noise", "guards": "guards.finite_loss",
    **{name: f"trainer.{name}" for name in ("callbacks", "logger", "profiler", "plugins", "strategy")},
}  # fmt: skip
PAYLOADS: dict[str, Any] = {
    "command": {"class_path": "os.system", "init_args": {"command": "touch MADE"}},
    "command by another name": {"class_path": "torch.os.system", "init_args": {"command": "touch MADE"}},
    "process": {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "MADE"]}},
    "text": {"class_path": "sympy.Lambda", "init_args": {"signature": "x", "expr": "__import__('os').mkdir('MADE')"}},
    "text of torch": {"class_path": "torch.jit.CompilationUnit", "init_args": {"lang": "x"}},
    "pickle": {"class_path": "joblib.load", "init_args": {"filename": "RUN/x.pkl"}},
    "pickle of pandas": {"class_path": "pandas.read_pickle", "init_args": {"filepath_or_buffer": "RUN/x.pkl"}},
    "pickle of torch": {"class_path": "torch.load", "init_args": {"f": "RUN/x.pkl", "weights_only": False}},
    "hub": {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": "RUN", "model": "x", "source": "local"}},
    "pretrained": {"class_path": "transformers.AutoModel.from_pretrained", "init_args": {"a": "RUN"}},
    "a module there": {"class_path": "run.evil.Network"},
    "a module there by name": "run.evil.Network",
    "a module beside it": {"class_path": "run.sub.evil.Network"},
    "an import that acts": {"class_path": "antigravity.Network"},
    "an address": "http://192.0.2.1/x.yaml",
    "an address of a file": "file://RUN/x.yaml",
    "a file of settings": "RUN/x.yaml",
    "a folder elsewhere": {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "ELSEWHERE"}},
    "a partial": {"class_path": "functools.partial", "init_args": {"func": "os.mkdir"}},
    "private": {"class_path": "lightning_modules.baselines.os.system", "init_args": {"command": "touch MADE"}},
}
STARTS = {
    *("os.system", "subprocess.Popen", "os.posix_spawn", "os.exec", "webbrowser.open"),
    *("socket.connect", "socket.getaddrinfo", "urllib.Request"),
}
"""Audit events of started processes and of connections."""
watched: list[str] = []
allowed: list[str] = []


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not allowed:
        return
    if event in STARTS:
        watched.append(f"{event} {arguments!r:.200}")
    elif event == "open" and isinstance(arguments[0], str | bytes) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not path.startswith((*allowed, "/dev/", "/proc/")) and "__pycache__" not in path:
            watched.append(f"open {path}")
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree") and os.path.isabs(arguments[0]):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not path.startswith((*allowed, "/tmp/torchinductor")) and "__pycache__" not in path:
            watched.append(f"{event} {path}")


def put(value: Any, folder: Path) -> Any:
    """Replace the words RUN, ELSEWHERE and MADE in settings with paths in a folder."""
    if isinstance(value, dict):
        return {key: put(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [put(each, folder) for each in value]
    for word in ("ELSEWHERE", "RUN", "MADE"):
        value = value.replace(word, str(folder / word.lower())) if isinstance(value, str) else value
    return value


def hostile_files(run: Path, made: Path) -> None:
    """Write modules, pickles and model folders that create a folder when they are run."""
    code = f"import os; os.mkdir({str(made)!r})"
    for name in ("evil.py", "sub/evil.py", "hub/modeling_x.py", "auto/auto.py"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(code)
    (run / "x.yaml").write_text(f"class_path: os.system\ninit_args: {{command: touch {made}}}\n")
    (run / "x.pkl").write_bytes(b"cos\nmkdir\n(S'" + os.fsencode(made) + b"'\ntR.")
    automatic = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer", "AutoModelForImages"), "modeling_x.X")
    config = {"model_type": "x", "_class_name": "X", "architecture": "resnet18", "auto_map": automatic}
    (run / "hub" / "config.json").write_text(json.dumps(config))
    (run / "hub" / "model_index.json").write_text(json.dumps({"_class_name": ["modeling_x", "X"]}))


@pytest.mark.nightly
@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_happens(payload: str, forged: Forged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    sys.addaudithook(hook)
    monkeypatch.syspath_prepend(str(tmp_path))
    ended: Counter[int] = Counter()
    for place, key in KEYS.items():
        value = put(PAYLOADS[payload], tmp_path)
        directory = forged({key: [value] if place in LISTS else value})
        hostile_files(directory, tmp_path / "made")
        watched.clear()
        allowed.append(str(directory))
        try:
            status = train.main(["test", "--resume", str(directory), *QUIET])
        finally:
            allowed.clear()
        ended[status] += 1
        assert watched == [], (place, payload)
        assert {path.name for path in tmp_path.iterdir()} == {"run"}, (place, payload)
        shutil.rmtree(directory)
    assert ended[0] == 0, payload
