"""Each YAML file in configs/ describes itself, names existing keys, and relies on the defaults of its classes."""

import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.claims.arms import Arm, flags
from experiments.config_files import base_of, flatten_settings, load_yaml, mapping_of, settings_of
from tests.conformance.experiments import CLAIMS, CONFIGS, EXPERIMENTS, HEADER_ARMS, TRAINERS, experiments, name

OWN_KEYS = {
    "subgm": {"data.table.measurements"},
    "singular_density": {"data.table.class_path", "model.network.out_features"},
    "score_estimation": {"data.loading.passes_per_epoch", "data.table.samples"},
    "noiser": {
        "model.network.normalized",
        "model.network.hidden",
        *("data.training.class_path", "data.training.image_size", "data.training.names", "data.patches.per_image"),
    },  # the normalisation is the method; a claim is about the size; supervised training uses as many steps, on pairs
    "ediffsr": {"model.network.enhanced"},  # the enhancement of the condition is a part of the network
    # a claim compares the networks of two papers
    "sgmse": {
        f"model.network.{key}"
        for key in (
            *("class_path", "channels", "strides", "dilations", "embedding", "sample_size", "in_channels"),
            *("out_channels", "time_embedding_type", "down_block_types", "up_block_types", "block_out_channels"),
            *("layers_per_block", "norm_num_groups", "add_attention"),
        )
    },
    "lsa_plus": {"data.loading.passes_per_epoch"},  # its two networks train one pass after the other
    # the translation baseline has fewer stages; supervised training has only the last one, on true masks
    "annotation_efficient": {"trainer.max_epochs", "data.images.annotated"},
    "rrcm": {"trainer.callbacks"},  # training from scratch has no Pretraining callback
    "one_more_step": {"trainer.callbacks"},  # plain noise needs no pretrained module
    "adele": {"trainer.callbacks"},  # the SegTHOR rule detects the end of early learning on corrected labels
    "elr": {"trainer.max_epochs"},  # a claim compares one run during early learning and after memorisation
    "elr_plus": {"data.loading.passes_per_epoch"},  # ELR+ trains its two networks one pass after the other
    "fractional_sde": {"data.sequences.hurst"},  # one claim compares models trained on paths with two different indices
    "eld": {"data.noise.model", "data.noise_samples"},  # the method is the training noise: fresh, or from fixed pairs
    "sgd_noise": {"data.table.num_points"},  # the measured exponents are those of the number of points
    "tester_learner": {"data.table.marginal"},  # the marginals that the method must distinguish
    "benign_oscillation": {"model.optimizer.lr"},  # the method is the learning rate
    "batch_lr": {"model.optimizer.lr"},  # the learner sets the rate; its baseline uses the best constant rate
    # the method is the optimizer
    "optimistic_omd": {f"model.optimizer.{key}" for key in ("class_path", "delta", "G", "L", "T", "mode", "modulus")},
    "monna": {"data.shards.growing"},  # LEARN has growing batches
    # the objective scales the gradient, so equal products of both are compared; a claim compares pre-training
    "noise_mask": {"model.optimizer.lr", "trainer.callbacks"},
    "tract": {"trainer.max_epochs", "model.lr_scheduler.T_max"},  # TrAct needs fewer epochs
    # a claim compares runs of equal cost
    "nm_sparsity": {"trainer.max_epochs", "model.lr_scheduler.T_max"},
    "noise_diffusion": {"data.noise"},  # the paper compares natural images with generated ones
    # the paper uses a separate rate for linear probing, and studies the labels of pre-training
    "nmtune": {"model.optimizer.lr", "trainer.callbacks"},
    # claims compare a detector trained on clean labels and many images with one trained on noisy labels or few images
    "mahalanobis": {
        *("data.label_noise.class_path", "data.label_noise.noise_rate", "data.images.train_size", "trainer.callbacks"),
    },
    # the method and its baselines are optimizers, each with the best rate of its own grid
    "sso": {"model.optimizer.class_path", "model.optimizer.lr"},
}
"""Keys other than a method's own arguments in which it may differ from its baseline, with the reasons."""


def unknown_keys(value: Any, place: str = "") -> Iterator[str]:
    """Find arguments that the named classes do not have, and classes that do not exist."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from unknown_keys(one, f"{place}.{number}")
    if not isinstance(value, dict):
        return
    if "class_path" in value:
        try:
            named = pkgutil.resolve_name(value["class_path"])
        except (ImportError, AttributeError):
            yield f"{place}: {value['class_path']}"
            return
        owners = inspect.getmro(named) if inspect.isclass(named) else (named,)
        signatures = [inspect.signature(owner).parameters for owner in owners if owner is not object]
        known = {key for parameters in signatures for key in parameters}
        handed_on = any(one.kind is one.VAR_KEYWORD for one in signatures[0].values())
        if not handed_on or len(signatures) > 1:
            yield from (f"{place}.{key}" for key in (value.get("init_args") or {}) if key.split(".")[0] not in known)
    for key, inner in value.items():
        yield from unknown_keys(inner, f"{place}.{key}")


@pytest.mark.parametrize("folder", sorted({path.parent for path in EXPERIMENTS}), ids=lambda path: path.name)
def test_configs_say_what_they_are_and_hold_keys_that_exist(folder: Path) -> None:
    for path in (path for path in EXPERIMENTS if path.parent == folder):
        lines = path.read_text().splitlines()
        comment = lines[: next(number for number, line in enumerate(lines) if not line.startswith("# "))]
        assert not comment[0].startswith("# needs:"), path
        assert len([line for line in comment if line.startswith("# needs: ") and len(line) > 9]) == 1, path
        own, settings = mapping_of(path), settings_of(path)
        assert settings["checkpoint.test_checkpoint"] in ("best", "last"), path
        assert not [key for key in settings if key.startswith("data.") and key.endswith("data_dir")], path
        assert not {f"trainer.{key}" for key in ("devices", "num_nodes", "strategy")} & set(settings), path
        assert list(unknown_keys(own)) == [], path
        if base_of(path) and path.stem.startswith("demo_baseline"):
            outside = {key for key in own if not key.startswith(("model", "base"))}
            assert {key.replace(".init_args", "") for key in outside} <= OWN_KEYS.get(folder.name, set()), path


def test_a_key_that_does_not_exist_is_found() -> None:
    wrong = {"class_path": "lightning_modules.networks.mlp.MLP", "init_args": {"in_features": 1, "depth": 2}}
    assert list(unknown_keys({"model": {"class_path": "torch.nn.Sequential", "init_args": {}}, "a": [wrong]})) == [
        ".a.0.depth"
    ]


def effective(arm: Arm) -> dict[str, Any]:
    """Return settings by dotted name, without the base file's arguments that a replacing class does not have."""
    settings = arm.settings
    changes = flatten_settings(mapping_of(arm.config)) if base_of(arm.config) else {}
    changes |= {
        key: value
        for each in flags(arm.overrides)
        for key, value in flatten_settings({each[0]: load_yaml(each[1])}).items()
    }
    for key, value in changes.items():
        if key.endswith(".class_path"):
            place = key.removesuffix("class_path")
            named = pkgutil.resolve_name(value)  # base-class arguments are passed as keywords
            owners = (
                [owner for owner in inspect.getmro(named) if owner is not object] if inspect.isclass(named) else [named]
            )
            known = {"class_path", *(key for owner in owners for key in inspect.signature(owner).parameters)}
            for name in [name for name in settings if name.startswith(place)]:
                if name.removeprefix(place).split(".")[0] not in known:
                    del settings[name]
    return settings


def optimization(config: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Find the class path, arguments and dotted location of all optimizers and schedulers in a configuration."""
    for key, value in config.items():
        if isinstance(value, dict):
            inner = place if key == "init_args" else f"{place}.{key}"
            if str(value.get("class_path", "")).startswith("torch.optim."):
                yield value["class_path"], value["init_args"], inner
            else:
                yield from optimization(value, inner)


def assert_class_defaults(arm: Arm, config: Any) -> None:
    """Check that omitted optimizer arguments get the defaults of the named class, not of the module's own optimizer."""
    written = effective(arm)
    for class_path, arguments, place in optimization(config.model.as_dict(), "model"):
        parameters = inspect.signature(pkgutil.resolve_name(class_path)).parameters
        for key in arguments:
            if f"{place}.{key}" not in written:
                assert arguments[key] == parameters[key].default, f"{class_path}: {key}"


# method and baseline


def claimed_pairs() -> Iterator[tuple[Arm, Arm]]:
    """Find the method and baseline of every claim, and of every folder with a demo of each."""
    yield from ((claim.method, claim.baseline) for claim in CLAIMS if claim.baseline)
    for baseline in sorted(CONFIGS.glob("*/demo_baseline*.yaml")):
        yield Arm(baseline.with_name("demo.yaml")), Arm(baseline)


def paper_pairs() -> Iterator[tuple[Arm, Arm]]:
    """Pair ELR and ELR+ with cross-entropy on the same labels; the paper trains them with the same settings."""
    for baseline in (*map(Arm, sorted((CONFIGS / "cross_entropy").glob("*.yaml"))), *HEADER_ARMS):
        folder = "elr_plus" if "PreActResNet18" in str(baseline) else "elr"
        method = CONFIGS / folder / baseline.config.name
        if baseline.config.parent.name == "cross_entropy" and method.is_file():
            arms = [Arm(method), *(arm for arm in HEADER_ARMS if arm.config == method)]
            noise = [arm.settings.get("data.label_noise.class_path") for arm in (baseline, *arms)]
            yield arms[noise[1:].index(noise[0])], baseline


PAIRS = list(dict.fromkeys([*claimed_pairs(), *paper_pairs()]))


@pytest.mark.parametrize(("method", "baseline"), PAIRS, ids=name)
def test_method_and_baseline_differ_in_the_methods_own_keys_alone(method: Arm, baseline: Arm) -> None:
    ours, theirs = effective(method), effective(baseline)
    differ = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key) or (key in ours) != (key in theirs)}
    outside = {key for key in differ if key.split(".")[0] != "model"}
    assert outside <= OWN_KEYS.get(method.config.parent.name, set())
    trained_alike = tuple(f"model.{key}" for key in ("network", "num_classes", "optimizer", "lr_scheduler"))
    own = OWN_KEYS.get(method.config.parent.name, set())
    assert not {key for key in differ if key.startswith(trained_alike)} - own


# layers and overrides


@pytest.mark.parametrize("layer", TRAINERS, ids=name)
def test_a_trainer_says_where_an_experiment_runs_and_leaves_the_rest(layer: Path) -> None:
    path = CONFIGS / "elr" / "cifar10.yaml"
    alone, layered = experiments().config("--config", path), experiments().config("--config", path, "--config", layer)
    given = load_yaml(layer.read_text())
    assert set(given) == {"trainer"}
    assert set(given["trainer"]) <= {"accelerator", "devices", "num_nodes", "strategy", "benchmark"}
    for config in (alone, layered):
        for key in given["trainer"]:
            config.trainer.pop(key, None)
        config.pop("config")
    assert layered == alone
    assert len(layered.trainer.callbacks) == 2


@pytest.mark.parametrize(
    "prefix", ["--data.label_noise.noise_rate", "--data.init_args.label_noise.init_args.noise_rate"]
)
def test_a_noise_rate_is_set_by_its_short_name_or_its_full_one(prefix: str) -> None:
    noise = experiments().config("--config", CONFIGS / "elr" / "cifar10.yaml", prefix, "0.6").data.init_args.label_noise
    assert noise.class_path == "datamodules.corruptions.label_noise.Symmetric"
    assert noise.init_args.noise_rate == 0.6
