"""Names in a run's `config.yaml` that a library resolves run nothing, fetch nothing and write nowhere else."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train
from experiments.strangers import known_imports
from tests.command import ROOT
from tests.experiments.test_strangers import QUIET, Forged
from tests.experiments.test_strangers import forged as forged  # a fixture, as the following
from tests.experiments.test_strangers import own_package as own_package
from tests.experiments.test_strangers import said as said
from tests.experiments.test_strangers import trained as trained
from tests.experiments.test_strangers_attacks import allowed, hook, hostile_files, put, watched

EXPERT = "datamodules.rollouts.experts.CartPoleLQR"


def test_weights_that_are_not_in_the_cache_are_not_downloaded(
    forged: Forged, said: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = {"class_path": "torchvision.models.alexnet", "init_args": {"weights": "IMAGENET1K_V1"}}
    directory = forged({"model.init_args.network": network})
    assert "may not download https://download.pytorch.org/models/alexnet" in said(directory, "test")


def test_data_are_downloaded_only_if_the_call_says_so(
    forged: Forged, said: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {"class_path": "datamodules.classification.cifar.CIFAR10"}
    init = {"data_dir": str(tmp_path / "data"), "download": True}
    directory = forged({"data.init_args.images": {**images, "init_args": init}})
    assert "data does not exist; set it to the dataset's folder" in said(directory, "test")
    assert not (tmp_path / "data").exists()
    opened: list[Any] = []
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda _, url, *__, **___: opened.append(url))
    said(directory, "test", "--data.images.download", "true")
    assert len(opened) == 1


@pytest.mark.parametrize("text", ["class_path '{}.Network': Option 'x' is not accepted", "Import path {}.Network"])
def test_a_value_that_looks_like_an_error_of_the_parser_imports_nothing(
    text: str, forged: Forged, own_package: Callable[[Path], Path], tmp_path: Path, said: Callable[..., str]
) -> None:
    own_package(tmp_path / "mine.py")
    assert "mine.Network" in said(forged({"seed_everything": text.format("mine")}), "test")
    assert not (tmp_path / "ran").exists()


def test_a_run_in_the_working_directory_starts_no_process_and_does_not_set_how_figures_are_drawn(
    forged: Forged, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For arguments without annotation, jsonargparse searches stubs; it would ask a new process where they are."""
    loss = {"class_path": "torch.nn.MSELoss", "init_args": {"size_average": None}}
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *_, **__: pytest.fail("a process was started"))
    monkeypatch.chdir(forged({"model.init_args.network": loss}))
    said(Path(), "test")
    Path("matplotlibrc").write_text("text.usetex: True\n")
    assert "matplotlibrc would set how this command draws" in said(Path(), "test")


def test_an_environment_of_the_users_own_module_is_accepted_from_the_user(tmp_path: Path) -> None:
    settings = {"data": {"init_args": {"environment": "mine.envs:Pole-v0"}}}
    with pytest.raises(ValueError, match="give its original configuration"), known_imports(settings, [], tmp_path):
        pass
    for text in ("--data.environment=mine.envs:Pole-v0", "data: {init_args: {environment: mine.envs:Pole-v0}}"):
        with known_imports(settings, [text], tmp_path):
            pass


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


COMMANDS = ("fit", "validate", "test", "predict", "export", "label_report", "push", "generate")


@pytest.mark.nightly
@pytest.mark.parametrize("kind", NAMED)
def test_names_that_libraries_resolve_run_and_fetch_nothing(
    kind: str, forged: Forged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
