"""A checkpoint with unexpected content ends `fit --resume`, `test` and `load_run` in a sentence with the file name."""

import copy
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from experiments.calls.parse import Grammar
from experiments.load_run import load_run
from experiments.run_directory import read_checkpoint
from tests.experiments.test_strangers import QUIET, Forged, forged, trained  # noqa: F401

HUGE = torch.zeros(1).expand(10**9)
Change = Callable[[dict[str, Any]], Any]


def put(*keys: str, value: Any) -> Change:
    """Set the value at a path of keys; `*` means the first key."""

    def change(content: dict[str, Any]) -> None:
        inner = content
        for key in keys[:-1]:
            inner = inner[next(iter(inner)) if key == "*" else key]
        inner[next(iter(inner)) if keys[-1] == "*" else keys[-1]] = value

    return change


PROGRESS = ("loops", "fit_loop", "epoch_progress", "current")
CONTENTS: dict[str, Change] = {
    "a list": lambda _: [1, 2],
    "a number": lambda _: 7,
    "a tensor": lambda _: torch.zeros(3),
    "no state": lambda content: {key: value for key, value in content.items() if key != "state_dict"},
    "weights alone": lambda content: content["state_dict"],
    "state list": put("state_dict", value=[torch.zeros(1)]),
    "state text": put("state_dict", "*", value="x"),
    "state number key": lambda content: content["state_dict"].update({3: torch.zeros(1)}),
    "state nested": put("state_dict", "*", value={"a": torch.zeros(1)}),
    "state sparse": lambda content: content["state_dict"].update(
        {key: value.to_sparse() for key, value in content["state_dict"].items() if value.ndim}
    ),
    "state meta": lambda content: content["state_dict"].update(
        {key: value.to("meta") for key, value in content["state_dict"].items()}
    ),
    "state complex": lambda content: content["state_dict"].update(
        {key: value.to(torch.complex64) for key, value in content["state_dict"].items() if value.is_floating_point()}
    ),
    "state of 10^9": put("state_dict", "*", value=HUGE),
    **{f"step {value!r:.30}": put("global_step", value=value) for value in ("x", None, -1, 1.5, True, 10**30, [1])},
    "step of 10^9": put("global_step", value=HUGE),
    **{f"epoch {value!r:.30}": put("epoch", value=value) for value in ("x", None, -1, 10**30, {})},
    **{
        f"progress {value!r:.30}": put(*PROGRESS, "processed", value=value)
        for value in ("x", None, -1, 10**30, [], torch.ones(2))
    },
    **{f"loops {value!r:.30}": put("loops", value=value) for value in ("x", None, [], {}, {"fit_loop": 3})},
    **{f"fit loop {value!r:.30}": put("loops", "fit_loop", value=value) for value in ("x", None, [], {"x": {}})},
    "an unknown loop": put("loops", "fit_loop", "x.progress", value={"y": 1}),
    **{f"callbacks {value!r:.30}": put("callbacks", value=value) for value in ("x", None, [1], 3)},
    **{f"a callback {value!r:.30}": put("callbacks", "*", value=value) for value in ("x", None, [1], {}, {"x": 1})},
    **{f"optimizers {value!r:.30}": put("optimizer_states", value=value) for value in ("x", None, {}, [], [1], [{}])},
    "an optimizer's groups": lambda content: content["optimizer_states"][0].update({"param_groups": "x"}),
    "an optimizer's state": lambda content: content["optimizer_states"][0].update({"state": [1]}),
    "an optimizer's tensors": lambda content: content["optimizer_states"][0]["state"].update({0: "x"}),
    **{f"schedules {value!r:.30}": put("lr_schedulers", value=value) for value in ("x", None, {}, [1])},
    **{f"version {value!r:.30}": put("pytorch-lightning_version", value=value) for value in (3, None, "x", [], "0.1")},
    **{f"table {value!r:.30}": put("metrics_table", value=value) for value in ("x", None, [], {})},
    **{
        f"table's {key} {value!r:.30}": put("metrics_table", key, value=value)
        for key in ("rows", "means")
        for value in ("x", [1], [{1: 2}], [{"a": []}], {"a": 1}, {"a": (1, 2)})
    },
    **{f"kept {value!r:.30}": put("metrics_table", "kept", value=value) for value in ("x", None, -1, 10**30, [])},
    **{f"digest {value!r:.30}": put("metrics_table", "digest", value=value) for value in (3, None, [])},
    "means of 10^9": put("metrics_table", "means", value={"a": (HUGE, HUGE)}),
    **{f"class {value!r:.30}": put("class_path", value=value) for value in (3, None, "os.system", [])},
    **{f"data {value!r:.30}": put("LabelledImages", value=value) for value in ("x", None, [1], {"labels": "x"})},
}  # fmt: skip
HARMLESS = (
    "an unknown loop",
    "a callback None",
    "a callback {}",
    "a callback {'x': 1}",
    "data ",
    "schedules",
    "version '0.1'",
)
"""Contents that may be accepted, because a run is correct with or without them; all others must be rejected."""


def archive(names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in names.items():
            file.writestr(name, content)
    return buffer.getvalue()


FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"a checkpoint\n",
    "zeros": lambda content: bytes(len(content)),
    "half": lambda content: content[: len(content) // 2],
    "no end": lambda content: content[:-30],
    "no start": lambda content: content[30:],
    "another archive": lambda _: archive({"a.txt": b"x", "b/data.pkl": b""}),
    "a pickle of nothing": lambda _: archive({"last/data.pkl": b"\x80\x02N.", "last/version": b"3\n"}),
    "a deep pickle": lambda _: archive({"last/data.pkl": b"\x80\x02" + b"]" * 10**5 + b".", "last/version": b"3\n"}),
    "a pickle of a call": lambda _: archive(
        {"last/data.pkl": b"cos\nsystem\n(S'touch MADE'\ntR.", "last/version": b"3"}
    ),
    "an image": lambda _: b"\x89PNG\r\n\x1a\n" + bytes(100),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_something_else_is_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    buffer = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(1000)}, "global_step": 3}, buffer)
    path.write_bytes(FILES[name](buffer.getvalue()))
    with pytest.raises(ValueError, match=r"last\.ckpt is not a checkpoint of this project, or is damaged") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


@pytest.fixture
def _parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reuse the earlier result for a command line that was parsed before."""
    resolve, known = Grammar.resolve, {}

    def resolved(self: Grammar, args: list[str]) -> Any:
        if str(args) not in known:
            known[str(args)] = resolve(self, args)
        return copy.deepcopy(known[str(args)])

    monkeypatch.setattr(Grammar, "resolve", resolved)


def two_of_each() -> list[str]:
    """Return the first and last name of each kind of content; a kind is the name without its final value."""
    kinds: dict[str, list[str]] = {}
    for name in CONTENTS:
        kinds.setdefault(re.split(r" (?=['\[{(\d-]|None|True)", name)[0], []).append(name)
    return [name for names in kinds.values() for name in dict.fromkeys((names[0], names[-1]))]


@pytest.mark.usefixtures("_parsed_once")
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(two_of_each(), id="two of each kind"),
        pytest.param([*CONTENTS], marks=pytest.mark.nightly, id="all"),
    ],
)
def test_other_content_is_one_sentence(
    names: list[str],
    forged: Forged,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = forged({"trainer.max_epochs": 2})
    path = directory / "checkpoints/last.ckpt"
    good = path.read_bytes()
    passed = []
    for name in names:
        content = torch.load(io.BytesIO(good), weights_only=True)
        changed = CONTENTS[name](content)
        torch.save(content if changed is None else changed, path)
        capsys.readouterr()
        status = train.main(["fit", "--resume", str(directory), *QUIET])
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        if status == 0:
            passed.append(name)
        else:
            assert len(errors) == 1, name
            assert str(path) in errors[0], (name, errors)
    assert [name for name in passed if not name.startswith(HARMLESS)] == []


@pytest.mark.parametrize("name", ["a list", "state text", "state meta", "state complex", "state of 10^9", "step 'x'"])
def test_load_run_says_the_same(name: str, forged: Forged) -> None:  # noqa: F811
    directory = forged({})
    path = directory / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    changed = CONTENTS[name](content)
    torch.save(content if changed is None else changed, path)
    with pytest.raises(ValueError, match=r"last\.ckpt"):
        load_run(directory)
