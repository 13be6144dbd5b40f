"""Every DataModule whose seed is not set uses that of `seed_everything`, in Python and on the command line."""

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from lightning import seed_everything
from lightning.pytorch import LightningDataModule

import datamodules
from datamodules.loading import Loading
from datamodules.loading.seeded_batches import SeededBatches
from tests.configurations import whole
from tests.tiny_texts import save_rte, save_tokenizer

CONFIGS = Path(__file__).parents[2] / "configs"
TEXTS = "datamodules.text.labelled_texts.LabelledTexts"


def below(kind: type) -> set[type]:
    return {kind}.union(*(below(one) for one in kind.__subclasses__()))


def of_demos() -> dict[str, dict[str, Any]]:
    """Find the data of one demo for each DataModule, keyed by class path."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(CONFIGS.glob("*/demo*.yaml")):
        if "class_path" in (data := whole(file).get("data", {})):
            found.setdefault(data["class_path"], data)
    return found


def made(settings: dict[str, Any]) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    arguments = {key: value for key, value in settings.get("init_args", {}).items() if key != "loading"}
    return parser.instantiate(parser.parse_object({"data": {**settings, "init_args": arguments}})).data


def test_every_data_module_is_tested_here() -> None:
    for module in pkgutil.walk_packages(datamodules.__path__, "datamodules."):
        importlib.import_module(module.name)
    names = {f"{one.__module__}.{one.__name__}" for one in below(SeededBatches) if not inspect.isabstract(one)}
    assert {name for name in names if name.startswith("datamodules.")} == {*of_demos(), TEXTS}


@pytest.mark.parametrize("path", [*sorted(of_demos()), TEXTS])
def test_none_takes_the_seed_of_seed_everything(path: str, tmp_path: Path) -> None:
    if path == TEXTS:  # not in any demo, because tokenizers are not bundled
        save_tokenizer(tmp_path / "tokenizer")
        save_rte(tmp_path / "glue")
        glue = {
            "class_path": "datamodules.text.glue.Glue",
            "init_args": {"task": "rte", "data_dir": f"{tmp_path}/glue"},
        }
        data = made(
            {
                "class_path": path,
                "init_args": {"texts": glue, "tokenizer": f"{tmp_path}/tokenizer", "max_length": 9, "batch_size": 4},
            }
        )
    else:
        data = made(of_demos()[path])
    seed_everything(7, verbose=False)
    data.setup("test" if path.endswith("ImagesToInterpolate") else "fit")
    seed_everything(8, verbose=False)  # too late: existing datasets do not change
    assert data.seed == 7
    for name in ("table", "sequences"):
        assert getattr(getattr(data, name, None), "seed", None) in (7, None)
    if data.train_set is not None:
        batches = data.training_batches(0, 0, 1)
        assert getattr(batches, "seed", 7) == 7


def test_a_seed_of_its_own_stays_and_zero_is_taken_without_seed_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    settings = of_demos()["datamodules.tables.tables.Tables"]
    data = made(settings)
    data.setup("fit")
    assert data.seed == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    own = type(data)(data.table, loading=Loading(seed=3))
    own.setup("fit")
    assert own.seed == 3
