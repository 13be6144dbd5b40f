"""A weight average with decay 0 equals a run without averaging, even for methods that write weights themselves."""

from pathlib import Path
from typing import Any

import pytest

from experiments.config_files import dump_yaml, load_yaml
from tests.conformance.runs import assert_alike, methods, run, state, written

pytestmark = pytest.mark.nightly
FORGETFUL = {
    "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
    "init_args": {"decay": 0.0, "use_buffers": False},
}
OTHERWISE = {
    "tester_learner",  # rejects averages
    "noise_mask_reinforce",  # computes its own average at the end of training, which the callback's average replaces
}
COUNT = "average._extra_state"
"""Number of updates of a method's own average; it is wrong in the callback's copy, but right in resumed runs."""


@pytest.mark.parametrize("name", sorted(methods().keys() - OTHERWISE))
def test_what_is_saved_is_what_was_trained(name: str, tmp_path: Path) -> None:
    plain = written(name, tmp_path, {"trainer.limit_train_batches": 2, "trainer.limit_val_batches": 1})
    settings: dict[str, Any] = load_yaml(plain.read_text())
    settings["trainer"]["callbacks"] = [*(settings["trainer"].get("callbacks") or []), FORGETFUL]
    (tmp_path / "averaged.yaml").write_text(dump_yaml(settings))
    weights = []
    for config in (plain, tmp_path / "averaged.yaml"):
        run("fit", "--config", config, "--run_directory", tmp_path / config.stem, "--test_after_fit", "false")
        saved = state(tmp_path / config.stem)["state_dict"]
        weights.append({key: value for key, value in saved.items() if key != COUNT})
    assert_alike(*weights, name)
