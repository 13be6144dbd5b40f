"""Which settings may change when a run is resumed."""

import copy
import re
from pathlib import Path

from lightning.pytorch import LightningDataModule

from datamodules.loading import Loading
from datamodules.loading.seeded_batches import SeededBatches
from experiments.calls.build import build, changeable, complete_settings, differing
from experiments.calls.parse import parse
from tests.command import ROOT


def test_a_resumed_run_may_find_its_data_elsewhere_and_fetch_them_faster() -> None:
    saved = {
        "seed_everything": 0,
        "model": {"class_path": "a.B", "init_args": {"strength": 3.0}},
        "data": {
            "class_path": "c.D",
            "init_args": {"data_dir": "here", "loading": {"num_workers": 2}, "batch_size": 8},
        },
    }
    now = copy.deepcopy(saved)
    now["data"]["init_args"] |= {"data_dir": "there", "loading": {"num_workers": 8, "evaluation_batch_size": 500}}  # type: ignore[index]
    now["model"]["init_args"]["new_argument"] = 1  # type: ignore[index]
    may_change = changeable({"data": {"class_path": "datamodules.classification.labelled_images.LabelledImages"}})
    assert differing(saved, now, may_change) == {}
    now["data"]["init_args"]["batch_size"] = 16  # type: ignore[index]
    assert differing(saved, now, may_change) == {"data.batch_size": (8, 16)}
    # another DataModule declares nothing
    assert {*differing(saved, now, {})} > {"data.data_dir", "data.loading.num_workers"}


def test_a_key_of_the_model_is_not_exempt_for_its_ending() -> None:
    name = "lightning_modules.dynamics.batch_lr.BatchLR"
    saved = {"model": {"class_path": name, "init_args": {"reference_batch_size": 128, "cache_dir": "a"}}}
    now = {"model": {"class_path": name, "init_args": {"reference_batch_size": 64, "cache_dir": "b"}}}
    may_change = changeable(saved)
    assert {*differing(saved, now, may_change)} == {"model.reference_batch_size", "model.cache_dir"}


def test_each_folder_that_data_may_move_to_is_an_argument_of_a_dataset() -> None:
    """The declared names are exact; an argument that is neither a folder nor about reading is not among them."""
    source = "".join(path.read_text() for path in (ROOT / "datamodules").rglob("*.py"))
    arguments = {*re.findall(r"^ {4}(?: {4})?(\w+): [\w| ]+(?: = .*)?,?$", source, re.MULTILINE)}
    assert {*SeededBatches.resume_may_change} <= arguments
    assert {name for name in arguments if name.endswith("_dir")} <= {*SeededBatches.resume_may_change}


class SeededByItsUser(LightningDataModule):
    """A user's own DataModule, with a seed among its arguments."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()


def test_the_seed_of_a_run_and_an_option_join_what_the_file_sets_of_loading(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("data.init_args.loading: {evaluation_batch_size: 50, prefetch_factor: 3}")
    options = ("--config", str(tmp_path / "own.yaml"), "--data.loading.num_workers", "0", "--seed_everything", "7")
    line = build(
        parse(["fit", "--config", "configs/elr/demo.yaml", *options, "--run_directory", str(tmp_path / "run")]),
        runs=False,
    )
    found = line.datamodule.loading  # type: ignore[union-attr]
    assert found == Loading(evaluation_batch_size=50, num_workers=0, prefetch_factor=3, seed=7)
    own = (
        "--data",
        f"{__name__}.SeededByItsUser",
        "--seed_everything",
        "7",
        "--run_directory",
        str(tmp_path / "other"),
    )
    parsed = parse(["fit", "--config", "configs/elr/demo.yaml", *own])
    complete_settings(parsed, runs=False)
    assert parsed.settings.data.init_args.seed == 7
