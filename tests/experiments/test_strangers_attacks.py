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
from tests.command import ROOT
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
EXPERT = "datamodules.rollouts.experts.CartPoleLQR"
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


def spec(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


def network(path: str, **arguments: Any) -> dict[str, Any]:
    return {"model.init_args.network": spec(path, **arguments)}


MODULES = ("run.evil", "run.sub.evil", "run", "evil", "antigravity", "idlelib.idle")
BACKBONES, SHARDS = "lightning_modules.backbones", "datamodules.classification.image_shards"
QUALITY = "callbacks.image_quality.ImageMetricsTable"
TEXTS = (
    "class_path '{}.Network': Option 'x' is not accepted",
    "class_path '{}.Network': '{}' has no attribute 'x'",
    "Expected a dot import path string: {}.Network",
    "Import path {}.Network does not correspond to a subclass of x",
)
METRICS: dict[str, dict[str, Any]] = {
    "image.LearnedPerceptualImagePatchSimilarity": {"net_type": "vgg"}, "image.ARNIQA": {}, "text.ROUGEScore": {},
    "image.fid.FrechetInceptionDistance": {"feature_extractor_weights_path": "RUN/x.pkl"},
    "image.KernelInceptionDistance": {"feature_extractor_weights_path": "RUN/x.pkl"},
    "text.BERTScore": {"model_name_or_path": "RUN/hub", "baseline_path": "RUN/x.pkl", "rescale_with_baseline": True},
    "text.InfoLM": {"model_name_or_path": "RUN/hub"}, "text.SacreBLEUScore": {"tokenize": "flores200"},
    "multimodal.CLIPScore": {"model_name_or_path": "RUN/hub"},
    "multimodal.CLIPImageQualityAssessment": {"model_name_or_path": "RUN/hub"},
    "audio.NonIntrusiveSpeechQualityAssessment": {"fs": 16000},
    "audio.DeepNoiseSuppressionMeanOpinionScore": {"fs": 16000, "personalized": False},
    "wrappers.LambdaInputTransformer": {"wrapped_metric": spec("torchmetrics.SumMetric"), "transform_pred": "os.mkdir"},
}  # fmt: skip
LOGGERS = [
    spec(f"lightning.pytorch.loggers.{name}", **{"save_dir": "RUN", **arguments})
    for name in ("TensorBoardLogger", "CSVLogger", "WandbLogger", "MLFlowLogger", "CometLogger")
    for arguments in ({"filename_suffix": "/../../x"}, {"name": "../../x"}, {"version": "../../x"}, {"dir": "/tmp/x"})
]
NAMED: dict[str, list[dict[str, Any]]] = {
    "gymnasium": [
        {"data": spec("datamodules.rollouts.rollouts.Rollouts", environment=form.format(module), expert=EXPERT)}
        for module in MODULES
        for form in ("{}:E-v0", "{}:CartPole-v1", " {}:E-v0", "{}:a/E-v0", "{}::E-v0")
    ] + [
        {"data": spec("datamodules.rollouts.rollouts.Rollouts", environment=name, expert=EXPERT)}
        for name in ("ALE/Pong-v5", "GymV26Environment-v0", "phys2d/CartPole-v1", "../x", "", "\0", "run/evil-v0",
                     "tabular/Blackjack-v0", "CartPole-v" + "9" * 5000, "run.evil")
    ],
    "words of the trainer": [
        {key: [value] if key.endswith(("plugins", "callbacks")) else value}
        for key in ("trainer.accelerator", "trainer.strategy", "trainer.profiler", "trainer.precision", "compile",
                    "trainer.plugins", "trainer.callbacks", "trainer.logger", "guards.finite_loss")
        for value in ("run.evil", "run.evil:E", "run.evil.Network", "antigravity.x", "RUN/evil.py")
    ],
    "timm": [
        network(f"{BACKBONES}.factories.timm_model", num_classes=10, **{"name": name, **more})
        for name in ("hf-hub:a/b", "hf_hub:a/b", "local-dir:RUN/hub", "local_dir:RUN", "resnet18.hf-hub:a/b", "RUN/hub",
                     "resnet18.local-dir:RUN", "run.evil", "run.evil:resnet18", "https:x")
        for more in ({}, {"pretrained": True}, {"weights": "RUN/x.pkl"})
    ] + [network("timm.create_model", model_name=f"{form}RUN/hub") for form in ("local-dir:", "hf-hub:")],
    "torchvision": [
        network(f"torchvision.models.{name}", **more)
        for name, more in (
            ("get_model", {"name": "resnet18", "weights": "DEFAULT"}), ("get_model", {"name": "run.evil"}),
            ("resnet18", {"weights": "DEFAULT"}), ("resnet18", {"weights": "IMAGENET1K_V1"}),
            ("alexnet", {"weights": "IMAGENET1K_V1", "progress": False}), ("resnet18", {"weights": "run.evil.x"}),
            ("get_weight", {"name": "ResNet18_Weights.DEFAULT"}), ("vgg11", {"weights": "DEFAULT"}),
        )
    ],
    "torchmetrics": [
        {"trainer.callbacks": [spec(QUALITY, metrics=[spec(f"torchmetrics.{name}", **more)])]}
        for name, more in METRICS.items()
    ],
    "pyiqa": [{"trainer.callbacks": [spec(QUALITY, pyiqa=[name])]} for name in ("niqe", "run.evil", "lpips+", "x")],
    "folders of models": [
        network(f"{BACKBONES}.{name}", **more)
        for more_key in ("RUN/hub", "RUN/auto", "RUN/x.pkl", "RUN")
        for name, more in (
            ("factories.diffusers_model", {"name_or_path": more_key}),
            ("transformers_backbone.transformers_model", {"name_or_path": more_key, "num_classes": 10}),
            ("text_classifier.transformers_classifier", {"name_or_path": more_key, "num_classes": 10}),
        )
    ],
    "datasets": [
        {"data.init_args.images": spec(f"{SHARDS}.HuggingFaceImages", num_classes=10, **{"name": name, **more})}
        for name in ("RUN", "RUN/auto", "RUN/x.pkl", "RUN/evil.py", "sql")
        for more in ({}, {"config": "run.evil"}, {"train": "__import__('os')[:1]"})
    ],
    "downloads of datasets": [
        {"data.init_args.images": spec(f"datamodules.{name}", data_dir=folder, download=True)}
        for name in ("classification.cifar.CIFAR10", "classification.svhn.SVHN", "classification.mnist.MNIST")
        for folder in ("RUN/empty", "RUN", "ELSEWHERE")
    ],
    "pipelines": [
        network(f"{BACKBONES}.diffusion.{kind}", pipeline=name)
        for kind in ("TextToImage", "Flux", "pixel_space.pixel_pipeline", "families.text_to_image_pipeline")
        for name in ("RUN/hub", "RUN", "RUN/x.pkl", "RUN/none.safetensors")
    ],
    "loggers": [{"trainer.logger": each} for each in LOGGERS],
    "texts of errors": [
        {key: text.format(module, module)}
        for key in ("seed_everything", "trainer.max_epochs", "data.init_args.batch_size", "checkpoint.test_checkpoint")
        for text in TEXTS
        for module in MODULES[:4]
    ],
    "optimizers": [
        {"model.init_args.optimizer": spec(path, **{key: name})}
        for path, key in (("timm.optim.create_optimizer_v2", "opt"), ("timm.optim.get_optimizer_class", "name"),
                          ("torch.optim.lr_scheduler.LambdaLR", "lr_lambda"), ("torch.optim.SGD", "lr"))
        for name in ("run.evil", "run.evil:E", "bnbadam", "os.mkdir")
    ],
    "numbers": [
        {key: 10**power} for key in ("trainer.devices", "trainer.num_nodes", "data.init_args.batch_size")
        for power in (6, 9, 30)
    ],
    "files beside config.yaml": [
        {**network("torch.nn.MSELoss", size_average=None), "cwd": name}
        for name in ("json.py", "random.py", "pickle.py", "typing.py", "multiprocessing.py", "sitecustomize.py",
                     "usercustomize.py", "matplotlibrc", ".env", "conftest.py", "torch.py", "setup.cfg", "train.py")
    ],
}  # fmt: skip
"""Settings with a name that a library resolves, by kind of name. The key `cwd` is a file of the working directory."""


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


COMMANDS = ("fit", "validate", "test", "predict", "export", "label_report", "push", "generate")


@pytest.mark.nightly
@pytest.mark.parametrize("kind", NAMED)
def test_names_that_libraries_resolve_run_and_fetch_nothing(
    kind: str, forged: Forged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:  # fmt: skip
    sys.addaudithook(hook)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "run" / "empty"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "run" / "empty"))
    ended: Counter[tuple[str, int]] = Counter()
    faults: list[tuple[Any, ...]] = []
    for number, changes in enumerate(NAMED[kind]):
        given = put(changes, tmp_path)
        beside = given.pop("cwd", None)
        directory = forged(given)
        hostile_files(directory, tmp_path / "made")
        if beside:
            (directory / beside).write_text(f"import os; os.mkdir({str(tmp_path / 'made')!r})")
            monkeypatch.chdir(directory)
        command = COMMANDS[number % len(COMMANDS)]
        at = "." if beside else str(directory)
        resumed = command in ("fit", "validate", "test", "predict", "generate")
        new = ["--output", f"{directory}/new"]
        extra = {"export": new, "push": new, "label_report": ["--html"]}
        more = QUIET if command in COMMANDS[:4] else extra.get(command, [])
        watched.clear()
        capsys.readouterr()
        allowed.append(str(directory))
        status: Any
        try:
            status = train.main([command, *(["--resume"] if resumed else []), at, *more])
        except Exception as error:
            status = repr(error)[:300]
        finally:
            allowed.clear()
            monkeypatch.chdir(ROOT)
        ended[command, status] += 1
        about = command, changes
        licence = command == "push"  # reads the licence of a model from the Hub
        seen = [event for event in dict.fromkeys(watched) if not (licence and "huggingface.co" in event)]
        faults += [(*about, event) for event in seen] + [(*about, status)] * isinstance(status, str)
        faults += [(*about, path.name) for path in tmp_path.iterdir() if path.name != "run"]
        faults += [(*about, "Traceback")] * ("Traceback" in capsys.readouterr().err)
        (tmp_path / "made").rmdir() if (tmp_path / "made").is_dir() else None
        shutil.rmtree(directory)
    print(kind, sum(ended.values()), dict(ended))
    assert not faults, "\n".join(map(str, faults))
