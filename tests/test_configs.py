"""Every experiment under configs/ trains one step at its own scale, and every demo runs to its end.

The step runs on the meta device: tensors have shapes and no values. It is quick whatever the size, and whatever would
make a GPU wait for its host (`.item()`, a condition on a tensor, `nonzero`, an index by a mask) is an error there.
"""

import functools
import inspect
import pkgutil
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from torch import Tensor, nn

import train
from datamodules.classification.labelled_images import LabelledImages
from datamodules.editing.masked_digits import MaskedDigits
from datamodules.segmentation.labelled_masks import LabelledMasks
from datamodules.segmentation.unpaired_masks import UnpairedMasks
from experiments.command_line import ParsedOnly
from lightning_modules.networks.mlp import MLP

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
NO_EXPERIMENTS = {"callbacks", "trainer"}  # folders of layers for a second --config
EXPERIMENTS = [
    path
    for path in sorted(CONFIGS.glob("*/*.yaml"))
    if path.name != "claim.yaml" and path.parent.name not in NO_EXPERIMENTS
]
DEMOS = [path for path in EXPERIMENTS if path.name.startswith("demo")]
TRAINERS = sorted((CONFIGS / "trainer").glob("*.yaml"))


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


class Experiments:
    """Reads the arguments of `fit`. One parser reads all: to build one takes longer than to use it."""

    def __init__(self) -> None:
        self.command_line = ParsedOnly(["fit", "--config", str(EXPERIMENTS[0])])
        self.parsed = functools.cache(self._parsed)

    def _parsed(self, *args: str | Path) -> Any:
        return self.command_line.parser.parse_args(["fit", *map(str, args)])

    def config(self, *args: str | Path) -> Any:
        """The resolved configuration."""
        return self.parsed(*args).clone().fit

    def built(self, *args: str | Path) -> Any:
        """Module, data and callbacks, with parameters that have no values."""
        with torch.device("meta"):
            return self.command_line.parser.instantiate(self.parsed(*args)).fit


@pytest.fixture(scope="module")
def experiments() -> Experiments:
    return Experiments()


# what a config says of itself


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_a_config_begins_with_what_it_is_and_says_what_it_needs(path: Path) -> None:
    lines = path.read_text().splitlines()
    comment = lines[: next(number for number, line in enumerate(lines) if not line.startswith("# "))]
    assert not comment[0].startswith("# needs:")
    needs = [line for line in comment if line.startswith("# needs: ")]
    assert len(needs) == 1
    assert len(needs[0]) > len("# needs: ")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_a_config_says_which_checkpoint_is_tested_and_nothing_of_this_machine(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    assert config["checkpoint"]["tested"] in ("best", "last")
    assert "data_dir" not in config["data"].get("init_args", {})
    assert not {"devices", "num_nodes", "strategy"} & set(config["trainer"])


def optimization(config: dict[str, Any], written: Any) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Class path, arguments and written arguments of all optimizers and schedulers in a configuration."""
    for key, value in config.items():
        own = written.get(key) if isinstance(written, dict) else None
        if isinstance(value, dict):
            if str(value.get("class_path", "")).startswith("torch.optim."):
                yield value["class_path"], value["init_args"], (own or {}).get("init_args", {})
            else:
                yield from optimization(value, own)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_what_a_config_does_not_say_of_an_optimizer_is_its_classes_default(
    path: Path, experiments: Experiments
) -> None:
    """And not what the module's default optimizer or schedule would have there."""
    for class_path, arguments, written in optimization(
        experiments.config("--config", path).model.as_dict(), yaml.safe_load(path.read_text())["model"]
    ):
        parameters = inspect.signature(pkgutil.resolve_name(class_path)).parameters
        for key in arguments.keys() - written.keys():
            assert arguments[key] == parameters[key].default, f"{class_path}: {key}"


# one training step


class Trainer:
    """What a module asks of its trainer while it is set up and takes its first step."""

    num_training_batches = 1000
    current_epoch = global_step = 0
    world_size = 1
    precision = "32-true"
    is_global_zero = training = True
    strategy: Any = None

    def __init__(self, options: Any, data: Any, callbacks: list[Any] | None = None) -> None:
        self.datamodule = data
        self.callbacks = callbacks or []
        self.accumulate_grad_batches = options.accumulate_grad_batches
        self.max_epochs = options.max_epochs
        self.estimated_stepping_batches = self.num_training_batches * self.max_epochs


def meta_batch(data: Any) -> dict[str, Any]:
    """A training batch of a DataModule, without values. A new kind of batch gets its lines here."""
    size = data.batch_size
    if isinstance(data, LabelledMasks):
        shape, kinds = (size, *data.image_shape[1:]), ("label", "original_label", "clean_label")
        masks = {key: torch.empty(shape, dtype=torch.int64, device="meta") for key in kinds}
        index = torch.empty(size, dtype=torch.int64, device="meta")
        if isinstance(data, UnpairedMasks):
            masks["auxiliary_mask"] = torch.empty(size, 1, *data.image_shape[1:], device="meta")
        image = torch.empty(size, *data.image_shape, device="meta")
        return {"image": image, "index": index, "global_size": size, **masks}
    assert isinstance(data, LabelledImages), f"say here what a batch of {type(data).__name__} is"
    whole = {key: torch.empty(size, dtype=torch.int64, device="meta") for key in ("label", "clean_label", "index")}
    if isinstance(data, MaskedDigits):
        whole["regions"] = torch.empty(size, 1, *data.image_shape[1:], dtype=torch.bool, device="meta")
    if getattr(data, "second_view", False):
        whole["second_view"] = torch.empty(size, *data.image_shape, device="meta")
    return {"image": torch.empty(size, *data.image_shape, device="meta"), "global_size": size, **whole}


def take_a_step(module: LightningModule, trainer: Any, batch: dict[str, Any]) -> Tensor:
    """Calls the hooks of a fit up to the end of its first batch, in Lightning's order, and returns the loss."""
    module.to("meta")
    module.trainer = trainer
    module.log = module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    module.setup("fit")
    module.on_fit_start()
    configured: Any = module.configure_optimizers()
    if (stages := getattr(module, "stages", None)) is not None:
        return take_a_step_of_each_stage(module, trainer, batch, configured[0], stages)
    if not module.automatic_optimization:  # it steps by itself, or has nothing to train
        module.optimizers = lambda *args, **kwargs: configured  # type: ignore[method-assign]
        module.train()
        outputs = module.training_step(batch, 0)
        assert not outputs["logits"].requires_grad
        return outputs["loss"]
    [optimizer], [scheduler] = configured
    scheduler = scheduler["scheduler"] if isinstance(scheduler, dict) else scheduler
    module.train()
    module.on_train_start()
    module.on_train_epoch_start()
    module.on_train_batch_start(batch, 0)
    outputs = None

    def closure() -> Tensor:
        nonlocal outputs
        outputs = module.training_step(batch, 0)
        optimizer.zero_grad()
        outputs["loss"].backward()
        return outputs["loss"]

    module.optimizer_step(0, 0, optimizer, closure)
    module.on_train_batch_end(outputs, batch, 0)
    scheduler.step()
    assert "logits" not in outputs or not outputs["logits"].requires_grad
    return outputs["loss"]


def take_a_step_of_each_stage(
    module: LightningModule, trainer: Any, batch: dict[str, Any], optimizers: list[Any], stages: Any
) -> Tensor:
    """Steps by itself, in the last epoch of each of its stages; every parameter is trained in one of them."""
    module.optimizers = lambda *args, **kwargs: optimizers  # type: ignore[method-assign]
    module.manual_backward = Tensor.backward  # type: ignore[method-assign, assignment]
    module.train()
    outputs: Any = None
    for trainer.current_epoch in {stages.stage(epoch): epoch for epoch in range(stages.total)}.values():
        outputs = module.training_step(batch, 0)
        assert "logits" not in outputs or not outputs["logits"].requires_grad
    assert all(parameter.grad is not None for parameter in module.parameters() if parameter.requires_grad)
    return outputs["loss"]


# Published or counted from the papers' tables: parameters in front of the classifier, and features that it maps.
PARAMETERS = {
    "CIFARResNet 20": (269_072, 64),
    "CIFARStemResNet 34": (21_276_992, 512),
    "DenseNetBC 100": (765_732, 342),
    "PreActResNet18": (11_166_144, 512),
    "resnet50": (23_508_032, 2048),
    "inception_resnet_v2": (54_306_464, 1536),
}


UNTRAINED = {
    # its networks come with their weights: a small pipeline stands in, in the method's own tests
    "diffusionguard/stable_diffusion",
    # leaves out the stage of the network that segments; demo.yaml has all stages
    "annotation_efficient/demo_translation",
}
"""Configs that do not train their network, and why."""

SHORTER = {"adaptive_smoothing": ("--model.attack_steps", "1")}
"""What shortens a step, and why: all steps of an attack are alike."""


def architecture(network: Any) -> str:
    """The network that a config names, inside what normalises its images."""
    arguments = network.get("init_args", {})  # a class without arguments has none
    if "network" in arguments:
        return architecture(arguments.network)
    if network.class_path.endswith(".timm_model"):
        return arguments.name.split(".")[0]
    return " ".join([network.class_path.rsplit(".", 1)[-1], *([str(arguments.depth)] if "depth" in arguments else [])])


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*")  # PyTorch does not see the step that a hook took
@pytest.mark.parametrize("path", [path for path in EXPERIMENTS if name(path) not in UNTRAINED], ids=name)
def test_a_training_step_at_full_scale(path: Path, experiments: Experiments, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--config", path, *SHORTER.get(path.parent.name, ()))
    config, built = experiments.config(*arguments), experiments.built(*arguments)
    monkeypatch.setattr(type(built.data), "num_train_samples", 50_000, raising=False)
    if hasattr(built.model, "num_classes"):  # pre-training without labels has no classes
        assert built.model.num_classes == built.data.num_classes
    trainer = Trainer(config.trainer, built.data, built.trainer.callbacks)
    loss = take_a_step(built.model, trainer, meta_batch(built.data))
    assert loss.shape == ()
    networks = [key for key in ("network", "second_network") if hasattr(built.model, key)]
    for key in networks:
        trained = [parameter for parameter in getattr(built.model, key).parameters() if parameter.requires_grad]
        assert trained
        counted = PARAMETERS.get(architecture(config.model.init_args[key]))
        if counted is not None:
            body, features = counted
            num_parameters = sum(parameter.numel() for parameter in getattr(built.model, key).parameters())
            assert num_parameters == body + (features + 1) * built.model.num_classes
    parameters = getattr(built.model, "network", built.model).parameters()
    stepped = [parameter.grad is not None for parameter in parameters if parameter.requires_grad]
    assert all(stepped) or not loss.requires_grad  # detectors train nothing


class Waits(LightningModule):
    """Does something to its logits in each step."""

    def __init__(self, action: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.network = MLP(64, [8], 10)
        self.action = action

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        logits = self.network(batch["image"])
        self.action(logits.detach())
        return {"loss": nn.functional.cross_entropy(logits, batch["label"])}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer)]


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*")
@pytest.mark.parametrize(
    "action",
    [
        lambda logits: logits.sum().item(),
        lambda logits: bool(logits.max() > 0),
        lambda logits: logits[logits > 0],
        lambda logits: logits.nonzero(),
        lambda logits: logits.argmax(dim=1).unique(),
        lambda logits: logits.argmax(dim=1).bincount(),
        lambda logits: logits.cpu(),
        lambda logits: logits.tolist(),
    ],
)
def test_a_step_that_waits_for_the_device_fails(action: Callable[[Tensor], object]) -> None:
    trainer = Trainer(types.SimpleNamespace(accumulate_grad_batches=1, max_epochs=1), data=None)
    batch = {"image": torch.empty(4, 1, 8, 8, device="meta"), "label": torch.empty(4, dtype=torch.int64, device="meta")}
    take_a_step(Waits(lambda logits: logits.argmax(dim=1)), trainer, batch)
    with pytest.raises((RuntimeError, NotImplementedError)):
        take_a_step(Waits(action), trainer, batch)


# whole runs


@pytest.mark.parametrize("path", DEMOS, ids=name)
def test_a_demo_runs_to_its_end(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--trainer.fast_dev_run", "true", "--test_after_fit", "true", "--run_directory", str(tmp_path / "run"))
    status = train.main(["fit", "--config", str(path), *arguments])
    assert status == 0, capsys.readouterr().err


# method and baseline

OWN_KEYS = {
    "annotation_efficient": {"trainer.max_epochs"},  # a translation alone has fewer stages
    "elr_plus": {"data.init_args.passes_per_epoch"},  # ELR+ trains its two networks one pass after the other
    "nmtune": {"model.init_args.optimizer.init_args.lr"},  # the paper gives linear probing a rate of its own
}
"""Keys outside the method's own arguments that belong to it, and why."""


def claimed_pairs() -> Iterator[tuple[Path, Path]]:
    """The method and the baseline of every claim, and of every folder with a demo of both."""
    for path in sorted(CONFIGS.glob("*/claim.yaml")):
        claims = yaml.safe_load(path.read_text())
        for claim in claims if isinstance(claims, list) else [claims]:
            yield path.parent / claim["method"], (path.parent / claim["baseline"]).resolve()
    for baseline in sorted(CONFIGS.glob("*/demo_baseline*.yaml")):
        yield baseline.with_name("demo.yaml"), baseline


def paper_pairs() -> Iterator[tuple[Path, Path]]:
    """ELR and ELR+ with cross-entropy on each data set, which the paper trains alike."""
    for baseline in sorted((CONFIGS / "cross_entropy").glob("*.yaml")):
        if (method := CONFIGS / "elr" / baseline.name).is_file():
            yield method, baseline
        elif baseline.stem.endswith("_preact18"):
            yield CONFIGS / "elr_plus" / baseline.name.replace("_preact18", ""), baseline


PAIRS = sorted({*claimed_pairs(), *paper_pairs()})


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a configuration under their dotted names; a list is a leaf."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: leaf for name, inner in value.items() for key, leaf in flat(inner, f"{prefix}.{name}").items()}


@pytest.mark.parametrize(("method", "baseline"), PAIRS, ids=lambda path: name(path))
def test_method_and_baseline_differ_in_the_methods_own_keys_alone(method: Path, baseline: Path) -> None:
    ours, theirs = (
        {key[1:]: value for key, value in flat(yaml.safe_load(path.read_text())).items()} for path in (method, baseline)
    )
    differ = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key) or (key in ours) != (key in theirs)}
    outside = {key for key in differ if key.split(".")[0] != "model"}
    assert outside <= OWN_KEYS.get(method.parent.name, set())
    trained_alike = tuple(f"model.init_args.{key}" for key in ("network", "num_classes", "optimizer", "lr_scheduler"))
    own = OWN_KEYS.get(method.parent.name, set())
    assert not {key for key in differ if key.startswith(trained_alike)} - own


def test_there_are_baselines_for_the_papers_tables() -> None:
    names = {name(method) for method, _ in paper_pairs()}
    tables = {f"elr/cifar{k}{kind}" for k in (10, 100) for kind in ("", "_asymmetric")}
    assert names >= {*tables, "elr/clothing1m", "elr/webvision", "elr_plus/cifar10", "elr_plus/cifar100"}


# the papers' settings

MULTI_STEP = "torch.optim.lr_scheduler.MultiStepLR"
# epochs, batch size, learning rate, weight decay, milestones, gamma (Liu et al., 2020, appendices G.2 and G.3)
SCHEDULES: dict[str, tuple[int, int, float, float, list[int], float]] = {
    "elr/cifar10": (120, 128, 0.02, 1e-3, [40, 80], 0.01),
    "elr/cifar10_asymmetric": (120, 128, 0.02, 1e-3, [40, 80], 0.01),
    "elr/cifar100": (150, 128, 0.02, 1e-3, [80, 120], 0.01),
    "elr/cifar100_asymmetric": (150, 128, 0.02, 1e-3, [80, 120], 0.01),
    "elr/clothing1m": (10, 64, 0.001, 1e-3, [5], 0.01),
    "elr/webvision": (120, 32, 0.02, 5e-4, [40, 80], 0.01),
    "elr_plus/cifar10": (200, 128, 0.02, 5e-4, [150], 0.1),
    "elr_plus/cifar10_asymmetric": (200, 128, 0.02, 5e-4, [150], 0.1),
    "elr_plus/cifar100": (250, 128, 0.02, 5e-4, [200], 0.1),
    "elr_plus/cifar100_asymmetric": (250, 128, 0.02, 5e-4, [200], 0.1),
    "elr_plus/clothing1m": (15, 64, 0.002, 1e-3, [7], 0.1),
    "elr_plus/webvision": (100, 32, 0.02, 5e-4, [50], 0.1),
}
# lambda and beta (appendix G.4)
TARGETS = {"cifar10": (3, 0.7), "cifar10_asymmetric": (1, 0.9), "cifar100": (7, 0.9), "cifar100_asymmetric": (7, 0.9)}
TARGETS |= {"clothing1m": (3, 0.7), "webvision": (3, 0.7), "cifar10_cosine": (3, 0.7), "cifar100_cosine": (7, 0.9)}
# mixup's alpha, decay of the average, its ramp, that of the regularisation, re-weighting (G.4 and the authors' configs)
PLUS = {
    "cifar10": (1, 0.997, 40000, 0, False),
    "cifar10_asymmetric": (1, 0.997, 40000, 0, False),
    "cifar100": (1, 0.997, 40000, 40000, True),
    "cifar100_asymmetric": (1, 0.997, 40000, 40000, True),
    "clothing1m": (1, 0.9999, None, 0, False),
    "webvision": (1.5, 0.997, None, 0, False),
}


@pytest.mark.parametrize("key", SCHEDULES)
def test_schedules_are_the_papers(key: str, experiments: Experiments) -> None:
    config = experiments.config("--config", CONFIGS / f"{key}.yaml")
    model, data = config.model.init_args, config.data.init_args
    assert (model.optimizer.class_path, model.lr_scheduler.class_path) == ("torch.optim.SGD", MULTI_STEP)
    optimizer, schedule = model.optimizer.init_args, model.lr_scheduler.init_args
    assert optimizer.momentum == 0.9
    found = (optimizer.lr, optimizer.weight_decay, list(schedule.milestones), schedule.gamma)
    assert (config.trainer.max_epochs, data.batch_size, *found) == SCHEDULES[key]
    assert (config.checkpoint.tested, config.checkpoint.monitor) == ("best", "val/accuracy")


@pytest.mark.parametrize("key", ["elr/cifar10_cosine", "elr/cifar100_cosine"])
def test_the_cosine_schedule_restarts_every_ten_epochs(key: str, experiments: Experiments) -> None:
    config = experiments.config("--config", CONFIGS / f"{key}.yaml")
    schedule = config.model.init_args.lr_scheduler
    assert schedule.class_path == "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"
    assert (schedule.init_args.T_0, schedule.init_args.T_mult, schedule.init_args.eta_min) == (10, 1, 0.001)
    assert (config.trainer.max_epochs, config.model.init_args.optimizer.init_args.lr) == (150, 0.02)


@pytest.mark.parametrize("method", ["elr", "elr_plus"])
@pytest.mark.parametrize("data_set", TARGETS)
def test_strengths_are_the_papers(method: str, data_set: str, experiments: Experiments) -> None:
    path = CONFIGS / method / f"{data_set}.yaml"
    if not path.is_file():
        assert (method, data_set.endswith("cosine")) == ("elr_plus", True)
        return
    model = experiments.config("--config", path).model.init_args
    assert (model.strength, model.momentum) == TARGETS[data_set]
    if method == "elr_plus":
        average = (model.average_decay, model.average_ramp_steps)
        assert (model.mixup_alpha, *average, model.ramp_steps, model.reweight_labels) == PLUS[data_set]


@pytest.mark.parametrize(
    ("key", "batches"), [("elr/clothing1m", 2000), ("cross_entropy/clothing1m", 2000), ("elr_plus/clothing1m", 3000)]
)
def test_epochs_of_clothing1m_have_the_papers_length(key: str, batches: int, experiments: Experiments) -> None:
    assert experiments.config("--config", CONFIGS / f"{key}.yaml").data.init_args.batches_per_epoch == batches


# layers and overrides


@pytest.mark.parametrize("layer", TRAINERS, ids=name)
def test_a_trainer_says_where_an_experiment_runs_and_leaves_the_rest(layer: Path, experiments: Experiments) -> None:
    path = CONFIGS / "elr" / "cifar10.yaml"
    alone, layered = experiments.config("--config", path), experiments.config("--config", path, "--config", layer)
    given = yaml.safe_load(layer.read_text())
    assert set(given) == {"trainer"}
    assert set(given["trainer"]) <= {"accelerator", "devices", "num_nodes", "strategy", "benchmark"}
    for config in (alone, layered):
        for key in given["trainer"]:
            config.trainer.pop(key, None)
        config.pop("config")
    assert layered == alone
    assert len(layered.trainer.callbacks) == 2


def test_the_usual_trainers_are_there() -> None:
    assert [path.stem for path in TRAINERS] == ["cpu", "ddp", "fsdp", "gpu", "multi_node"]


@pytest.mark.parametrize(
    "prefix", ["--data.label_noise.noise_rate", "--data.init_args.label_noise.init_args.noise_rate"]
)
def test_a_noise_rate_is_set_by_its_short_name_or_its_full_one(prefix: str, experiments: Experiments) -> None:
    noise = experiments.config("--config", CONFIGS / "elr" / "cifar10.yaml", prefix, "0.6").data.init_args.label_noise
    assert noise.class_path == "datamodules.corruptions.label_noise.Symmetric"
    assert noise.init_args.noise_rate == 0.6
