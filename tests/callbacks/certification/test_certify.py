import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningDataModule
from scipy import stats
from torch import Tensor
from torch.utils.data import DataLoader

import train
from callbacks.certification.curves import NO_GUARANTEE, read_log
from lightning_modules.robustness.certificates.adaptive_sampling import Anytime, Curve, InputSpecific, Stages
from lightning_modules.robustness.certificates.modes import FixedSampling, MeanProbability, Predict
from tests.callbacks.certification.planes import SIGMA, Images, OwnVotes, Planes, certification, run, same_rows
from tests.command import ROOT
from tests.trainers import quiet

Finished = tuple[Path, dict[str, float]]


# output files of a run


def test_metrics_table_and_picture_agree_with_the_rows(finished: Finished) -> None:
    directory, metrics = finished
    exact = pd.read_csv(directory / "certification.csv")
    correct = exact["predict"] == exact["label"]
    assert metrics["test/acr"] == pytest.approx((correct * exact["radius"]).mean(), abs=1e-6)
    for radius in (0.0, 0.25, 0.5, 1.5):
        share = (correct & (exact["radius"] >= radius)).mean()
        assert metrics[f"test/certified_accuracy_{radius:.2f}"] == pytest.approx(share, abs=1e-6)
    assert metrics["test/mean_draws"] == metrics["test/mean_draws_correct"] == 620
    assert metrics["test/abstained"] == pytest.approx(exact["predict"].eq(-1).mean(), abs=1e-6)
    assert metrics["test/accuracy"] == pytest.approx(9 / 12)  # the trainer's own test loop has run
    table = pd.read_csv(directory / "certified_accuracy.csv")
    assert stats.binom.sf(1, 12, 0.001) < 0.001 < stats.binom.sf(0, 12, 0.001)  # at most one of 12 may be wrong
    expected = np.maximum(table["certified_accuracy"] - 1 / 12, 0)
    np.testing.assert_allclose(table["with_high_probability"], expected, atol=1e-12)
    assert table["tight"].all()
    assert (set(table["certificate"]), set(table["num_images"])) == ({"Cohen et al. 2019"}, {12})
    assert (directory / "figures" / "certified_accuracy.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((directory / "certification_summary.json").read_text())
    assert written.pop("settings") == {
        **{"sigma": SIGMA, "mode": "fixed", "n0": 20, "n": 600, "alpha": 0.001},
        **{"certificate": "Cohen et al. 2019", "num_images": 12},
    }
    assert written.pop("lower_bounds") == []
    assert {f"test/{name}" for name in written} <= metrics.keys()


def test_a_curve_off_its_grid_is_said_to_be_a_lower_bound(tmp_path: Path) -> None:
    run(tmp_path, certification(Curve(grid=0.2, n0=20, n_max=1000), radii=[0.0, 0.25, 0.4]))
    assert pd.read_csv(tmp_path / "certified_accuracy.csv")["tight"].tolist() == [True, False, True]
    written = json.loads((tmp_path / "certification_summary.json").read_text())
    assert written["lower_bounds"] == ["acr", "certified_accuracy_0.25"]
    assert (written["settings"]["mode"], written["settings"]["n_max"]) == ("curve", 1000)


def test_radii_that_are_no_guarantee_have_no_bound_and_say_so(tmp_path: Path) -> None:
    class Formula(OwnVotes):
        certificate = f"a formula: {NO_GUARANTEE}"

    run(tmp_path, certification(), Formula())
    table = pd.read_csv(tmp_path / "certified_accuracy.csv")
    assert table["certified_accuracy"].max() > 0
    assert table["with_high_probability"].isna().all()
    assert set(table["certificate"]) == {"a formula: not a guarantee"}
    written = json.loads((tmp_path / "certification_summary.json").read_text())
    assert written["settings"]["certificate"] == "a formula: not a guarantee"


def test_predict_writes_the_log_of_predictions(tmp_path: Path) -> None:
    metrics = run(tmp_path, certification(Predict(n=200)))
    lines = [line.split("\t") for line in (tmp_path / "certification.tsv").read_text().splitlines()]
    assert lines[0] == ["idx", "label", "predict", "correct", "time"]
    right = [line[2] == line[1] for line in lines[1:]]
    assert metrics["test/smoothed_accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
    with pytest.raises(ValueError, match="radius"):
        read_log(tmp_path / "certification.tsv")


def test_curve_counts_draws_of_right_images_apart(tmp_path: Path) -> None:
    metrics = run(tmp_path, certification(Curve(grid=0.05, n0=20, n_max=2000)))
    rows = pd.read_csv(tmp_path / "certification.csv")
    right = rows["selected"] == rows["label"]
    assert (rows["draws"][~right] == 20).all()
    assert (rows["predict"][~right] == -1).all()
    assert metrics["test/mean_draws"] == pytest.approx(rows["draws"].mean(), rel=1e-6)
    assert metrics["test/mean_draws_correct"] == pytest.approx(rows["draws"][right].mean(), rel=1e-6)
    assert metrics["test/mean_draws"] < metrics["test/mean_draws_correct"]
    assert metrics["test/abstained"] == pytest.approx((right & (rows["predict"] == -1)).mean(), abs=1e-6)


# selection of images


def test_skip_and_max_choose_positions(tmp_path: Path, finished: Finished) -> None:
    run(tmp_path, certification(skip=3, max=10))
    part, whole = (pd.read_csv(path / "certification.csv") for path in (tmp_path, finished[0]))
    pd.testing.assert_frame_equal(part, whole.iloc[[0, 3, 6, 9]].reset_index(drop=True))


@pytest.mark.parametrize("owner", ["module", "datamodule"])
def test_images_are_those_that_the_module_tests(
    tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    """A hook of the module or of the DataModule inverts the images."""

    def invert(self: Any, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        return {**batch, "image": 1 - batch["image"]}

    class Data(LightningDataModule):
        def test_dataloader(self) -> DataLoader:
            inverted = Images()
            inverted.image = 1 - inverted.image
            return DataLoader(inverted, batch_size=4)

    monkeypatch.setattr(Planes if owner == "module" else Data, "on_before_batch_transfer", invert)
    assert run(tmp_path, certification(), data=Data()) == pytest.approx(finished[1], abs=1e-6)


def test_of_several_test_sets_the_first_is_certified(tmp_path: Path, finished: Finished) -> None:
    class TwoSets(Planes):
        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None: ...  # type: ignore[override]

    run(tmp_path, certification(), TwoSets(), [DataLoader(Images(scale=scale), batch_size=4) for scale in (1.0, 0.5)])
    assert same_rows(tmp_path, finished[0])


def test_fast_dev_run_certifies_one_image_and_leaves_nothing(tmp_path: Path) -> None:
    module = Planes()
    metrics = run(tmp_path, certification(), module, fast_dev_run=True)
    assert module.evaluated == 1 + 620 + 4  # logit shape, one image, and one batch of the test loop
    assert metrics["test/mean_draws"] == 620
    assert not list(tmp_path.iterdir())


# how the network is evaluated


def test_a_module_with_votes_and_radius_of_its_own(tmp_path: Path) -> None:
    class Twice(OwnVotes):
        """The classifier with two equal votes, for which the radius is halved."""

        certificate = "two votes"

        def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
            return super().smoothed_logits(image, noise, sigma).expand(2, -1, -1)

        def certified_radius(self, probability: Any, sigma: float) -> float:
            return sigma * float(sum(stats.norm.ppf(p) for p in probability)) / 4

    run(tmp_path, certification(), Twice())
    run(tmp_path / "plain", certification(FixedSampling(n0=20, n=600, alpha=0.0005)))
    twice, plain = (read_log(path) for path in (tmp_path, tmp_path / "plain"))
    assert twice["hits"].tolist() == [f"{hits} {hits}" for hits in plain["hits"]]
    np.testing.assert_allclose(twice["radius"], plain["radius"] / 2, rtol=1e-9)
    with pytest.raises(ValueError, match="certificate 'two votes', and this run has 'Cohen"):
        run(tmp_path, certification())


class Layer(Planes):
    """A convolution that records the dtypes of its inputs and outputs."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(1, 3, 2, dtype=dtype)
        self.kinds: set[torch.dtype] = set()

    def forward(self, image: Tensor) -> Tensor:
        logits = self.layer(image.double() if self.layer.weight.dtype == torch.float64 else image)
        self.kinds |= {image.dtype, logits.dtype}
        return logits.flatten(1)


HALF = torch.bfloat16
KINDS = {"bf16-mixed": {torch.float32, HALF}, "bf16-true": {HALF}, "64-true": {torch.float64}}


@pytest.mark.parametrize("precision", KINDS)
def test_the_network_alone_computes_in_another_precision(tmp_path: Path, precision: Any) -> None:
    module = Layer()
    run(tmp_path, certification(skip=4), module, precision=precision, limit_test_batches=1)
    assert module.kinds == KINDS[precision]


def test_channels_last_leaves_the_votes(tmp_path: Path) -> None:
    module = Layer(torch.float64)
    run(tmp_path / "last", certification(channels_last=True), module)
    run(tmp_path / "first", certification(), Layer(torch.float64))
    assert same_rows(tmp_path / "last", tmp_path / "first")
    module.layer(torch.rand(1, 1, 2, 2).double()).sum().backward()  # it is still trainable


def test_channels_last_is_also_for_modules_with_votes_of_their_own(tmp_path: Path) -> None:
    layouts: set[tuple[bool, ...]] = set()

    class Own(OwnVotes):
        def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
            layouts.add(tuple(each.is_contiguous(memory_format=torch.channels_last) for each in (image, noise)))
            return super().smoothed_logits(image, noise, sigma)

        def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None: ...

    coloured = Images()
    coloured.image = coloured.image.expand(-1, 3, -1, -1)
    for channels_last in (False, True):
        layouts.clear()
        run(tmp_path / str(channels_last), certification(channels_last=channels_last), Own(), data=coloured)
        assert layouts == {(channels_last, channels_last)}
    assert same_rows(tmp_path / "True", tmp_path / "False")


@pytest.mark.nightly
def test_a_second_checkpoint_has_files_of_its_own(tmp_path: Path) -> None:
    shipped = (ROOT / "configs" / "callbacks" / "certification.yaml").read_text()
    layer = tmp_path / "certification.yaml"
    layer.write_text(shipped.replace("n: 100000", "n: 100").replace("skip: 20", "skip: 60"))
    directory = tmp_path / "run"
    arguments = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    arguments += ["--trainer.max_epochs", "2", "--run_directory", str(directory), "--test_after_fit", "true"]
    assert train.main(["fit", "--config", "configs/elr/demo.yaml", "--config", str(layer), *arguments]) == 0
    metrics = pd.read_csv(directory / "test_metrics.csv").set_index("metric")["value"]
    for folder, metric in ((".", "test/acr"), ("certification_best", "best_epoch/test/acr")):
        rows = pd.read_csv(directory / folder / "certification.csv")
        assert metrics[metric] == pytest.approx((rows["correct"] * rows["radius"]).mean(), abs=1e-6)


# user settings


def test_the_shipped_configuration_and_its_alternatives_are_accepted() -> None:
    text = (ROOT / "configs" / "callbacks" / "certification.yaml").read_text()
    [entry] = yaml.safe_load(text)["trainer"]["callbacks+"]
    parser = ArgumentParser()
    parser.add_argument("--callback", type=Callback)
    shipped = parser.instantiate_classes(parser.parse_object({"callback": entry})).callback
    assert (shipped.mode, shipped.skip, shipped.sigma) == (FixedSampling(), 20, 0.25)
    modes = []
    for line in re.findall(r"^#   (\{.*?\}\})", text, re.MULTILINE):
        entry["init_args"]["mode"] = yaml.safe_load(line)
        modes.append(parser.instantiate_classes(parser.parse_object({"callback": entry})).callback.mode)
    others = [Curve(grid=0.25), Anytime(radius=0.5), Stages(radius=0.5), InputSpecific(max_loss=0.05)]
    assert modes == [*others, MeanProbability()]


def test_two_of_these_callbacks_are_refused_before_anything_is_tested() -> None:
    module, two = Planes(), [certification(), certification(sigma=0.5)]
    with pytest.raises(ValueError, match="has more than one Certification"):
        quiet(callbacks=two).test(module, DataLoader(Images(), batch_size=4), verbose=False)
    assert module.evaluated == 0
