import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from scipy import stats
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import train
from callbacks.certification.certify import Certification
from callbacks.certification.curves import NO_GUARANTEE, accuracy_table, draw_curves, is_tight, read_log, summary
from callbacks.certification.log import COMMUNITY, SIDECAR, CertificationLog, row_of, write_table
from callbacks.certification.progress import CertificationProgress
from lightning_modules.resumable import tested_images
from lightning_modules.robustness.certificates.fewer_draws import Anytime, Curve, InputSpecific, Stages
from lightning_modules.robustness.certificates.modes import Certificate, Fixed, Mode, Predict
from lightning_modules.robustness.certificates.votes import Certified
from lightning_modules.robustness.drs.module import CERTIFICATES
from tests.two_processes import TwoProcesses

SIGMA = 0.25
ROOT = Path(__file__).resolve().parents[2]


class Planes(LightningModule):
    """Three classes of 2 x 2 images, bounded by planes; logits in float64, so that no batch changes a vote.

    Args:
        rest: seconds that every evaluation of more than one image takes.
        failing: whether it gives NaN for them.
    """

    num_classes = 3
    weight: Tensor

    def __init__(self, rest: float = 0.0, failing: bool = False) -> None:
        super().__init__()
        self.rest = rest
        self.failing = failing
        self.evaluated = 0
        weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.register_buffer("weight", 2 * weight)

    def forward(self, image: Tensor) -> Tensor:
        self.evaluated += len(image)
        if len(image) > 1:
            time.sleep(self.rest)
        logits = ((image.double() - 0.5).flatten(1)[:, None] * self.weight).sum(2)
        return logits * torch.nan if self.failing and len(image) > 1 else logits

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        right = self(batch["image"]).argmax(1) == batch["label"]
        self.log("test/accuracy", right.double().mean(), batch_size=len(right), sync_dist=True)


class Images(Dataset):
    """Images whose labels are right, but for every fifth one."""

    def __init__(self, count: int = 12, scale: float = 1.0) -> None:
        self.image = scale * torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(1))
        self.label = Planes()(self.image).argmax(1)
        self.label[::5] = (self.label[::5] + 1) % 3

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.image[index], "label": self.label[index], "index": index}


def run(
    directory: Path, callback: Certification, module: LightningModule | None = None, data: Any = None, **options: Any
) -> dict[str, float]:
    settings: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, **options}
    trainer = Trainer(
        default_root_dir=directory, logger=False, callbacks=[callback], enable_model_summary=False, **settings
    )
    if data is None:
        data = DataLoader(Images(), batch_size=4)
    source = {"datamodule": data} if isinstance(data, LightningDataModule) else {"dataloaders": data}
    return dict(trainer.test(module or Planes(), **source, verbose=False)[0])


def certification(mode: Mode | None = None, **arguments: Any) -> Certification:
    return Certification(**{"sigma": SIGMA, "mode": mode or Fixed(n0=20, n=600), "batch_size": 150, **arguments})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    directory = tmp_path_factory.mktemp("finished")
    return directory, run(directory, certification())


# what a run leaves


def test_the_log_is_the_published_one(finished: tuple[Path, dict[str, float]]) -> None:
    directory, _ = finished
    lines = (directory / "certification.tsv").read_text().splitlines()
    assert lines[0] == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    assert [line.split("\t")[0] for line in lines[1:]] == [str(index) for index in range(12)]
    exact = pd.read_csv(directory / "certification.csv")
    for line, row in zip(lines[1:], exact.itertuples(), strict=True):
        idx, label, prediction, radius, correct, duration = line.split("\t")
        assert (int(idx), int(label), int(prediction)) == (row.idx, row.label, row.predict)
        assert radius == f"{row.radius:.3}"
        assert int(correct) == int(prediction == label)
        assert str(pd.Timedelta(duration).to_pytimedelta()) == duration


def test_the_sidecar_holds_what_each_row_rests_on(finished: tuple[Path, dict[str, float]]) -> None:
    directory, _ = finished
    exact = pd.read_csv(directory / "certification.csv")
    assert tuple(exact.columns) == SIDECAR
    assert exact["predict"].eq(-1).any()
    assert not exact["predict"].eq(-1).all()
    for row in exact.itertuples():
        p = stats.beta.ppf(0.001, row.hits, 600 - row.hits + 1) if row.hits else 0.0
        assert row.p_lower == pytest.approx(p, rel=1e-12)
        assert (row.predict, row.radius) == (
            (row.selected, pytest.approx(SIGMA * stats.norm.ppf(p), rel=1e-10)) if p >= 0.5 else (-1, 0.0)
        )
        assert (row.n, row.draws, row.stage, row.outcome) == (600, 620, 1, "complete")


def test_metrics_table_and_picture_agree_with_the_rows(finished: tuple[Path, dict[str, float]]) -> None:
    directory, metrics = finished
    exact = pd.read_csv(directory / "certification.csv")
    correct = exact["predict"] == exact["label"]
    assert metrics["test/acr"] == pytest.approx((correct * exact["radius"]).mean(), abs=1e-6)
    for radius in (0.0, 0.25, 0.5, 1.5):
        share = (correct & (exact["radius"] >= radius)).mean()
        assert metrics[f"test/certified_accuracy_{radius:.2f}"] == pytest.approx(share, abs=1e-6)
    assert metrics["test/mean_draws"] == metrics["test/mean_draws_correct"] == 620
    assert metrics["test/abstained"] == pytest.approx(exact["predict"].eq(-1).mean(), abs=1e-6)
    assert metrics["test/accuracy"] == pytest.approx(9 / 12)  # the trainer's own testing took place
    table = pd.read_csv(directory / "certified_accuracy.csv")
    assert stats.binom.sf(1, 12, 0.001) < 0.001 < stats.binom.sf(0, 12, 0.001)  # one of 12 may be wrong
    expected = np.maximum(table["certified_accuracy"] - 1 / 12, 0)
    np.testing.assert_allclose(table["with_high_probability"], expected, atol=1e-12)
    assert (directory / "figures" / "certified_accuracy.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((directory / "certification_summary.json").read_text())
    assert written.pop("settings") == {
        **{"sigma": SIGMA, "mode": "fixed", "n0": 20, "n": 600, "alpha": 0.001},
        **{"certificate": "Cohen et al. 2019", "num_images": 12},
    }
    assert written.pop("lower_bounds") == []
    assert {f"test/{name}" for name in written} <= metrics.keys()
    assert table["tight"].all()
    assert set(table["certificate"]) == {"Cohen et al. 2019"}
    assert set(table["num_images"]) == {12}


@pytest.mark.parametrize(
    ("mode", "radii", "tight"),
    [
        (Fixed(), [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5], [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, None]),
        (Curve(grid=0.2), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]),
        (Stages(radius=0.3), [0.0, 0.25, 0.3, 0.5, 0.75, 1.0, 1.25, 1.5], [0.3]),
        (Anytime(radius=0.5), [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5], [0.5]),
        (Anytime(), [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5], [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, None]),
        (Anytime(largest_radius=0.5), [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5], [0.0, 0.25, 0.5]),
        (InputSpecific(), [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5], [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, None]),
    ],
)
def test_every_mode_is_reported_where_it_is_tight(mode: Mode, radii: list[float], tight: list[float | None]) -> None:
    """Of the mean radius, None stands here for it, and of the accuracy at each radius."""
    assert certification(mode).radii == radii
    assert [radius for radius in [*radii, None] if is_tight(mode.settings, radius)] == tight
    if isinstance(mode, Curve):
        assert [is_tight(mode.settings, radius) for radius in (0.25, 0.5, 0.75, 1.0)] == [False, False, False, True]


def test_a_curve_off_its_grid_is_said_to_be_a_lower_bound(tmp_path: Path) -> None:
    run(tmp_path, certification(Curve(grid=0.2, n0=20, n_max=1000), radii=[0.0, 0.25, 0.4]))
    assert pd.read_csv(tmp_path / "certified_accuracy.csv")["tight"].tolist() == [True, False, True]
    written = json.loads((tmp_path / "certification_summary.json").read_text())
    assert written["lower_bounds"] == ["acr", "certified_accuracy_0.25"]
    assert (written["settings"]["mode"], written["settings"]["n_max"]) == ("curve", 1000)


def test_radii_that_are_no_guarantee_have_no_bound_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    class Formula(Planes):
        certificate = f"a formula: {NO_GUARANTEE}"

        def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
            return self(image + sigma * noise)[None]

        def certified_radius(self, probability: Any, sigma: float) -> float:
            return 9 * sigma * float(stats.norm.ppf(probability[0]))

    labels: list[str] = []
    step = Axes.step
    monkeypatch.setattr(
        Axes, "step", lambda self, *values, **options: labels.append(options["label"]) or step(self, *values, **options)
    )
    run(tmp_path, certification(), Formula())
    table = pd.read_csv(tmp_path / "certified_accuracy.csv")
    assert table["certified_accuracy"].max() > 0
    assert table["with_high_probability"].isna().all()
    assert set(table["certificate"]) == {"a formula: not a guarantee"}
    assert labels[0].endswith("\na formula: not a guarantee")
    written = json.loads((tmp_path / "certification_summary.json").read_text())
    assert written["settings"]["certificate"] == "a formula: not a guarantee"
    assert all(NO_GUARANTEE in text for name, text in CERTIFICATES.items() if name.startswith("published"))
    assert NO_GUARANTEE not in CERTIFICATES["joint"]


def test_a_finished_certification_is_not_computed_again(finished: tuple[Path, dict[str, float]]) -> None:
    directory, metrics = finished
    before = (directory / "certification.tsv").read_bytes()
    module = Planes()
    assert run(directory, certification(batch_size=77), module) == metrics
    assert module.evaluated == 12  # by the trainer's own testing
    assert (directory / "certification.tsv").read_bytes() == before


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


def test_skip_and_max_choose_positions(tmp_path: Path, finished: tuple[Path, dict[str, float]]) -> None:
    run(tmp_path, certification(skip=3, max=10))
    part = pd.read_csv(tmp_path / "certification.csv")
    assert list(part["idx"]) == [0, 3, 6, 9]
    whole = pd.read_csv(finished[0] / "certification.csv")
    pd.testing.assert_frame_equal(part, whole.iloc[[0, 3, 6, 9]].reset_index(drop=True))


def test_datamodules_that_deal_requests_are_read_by_position(tmp_path: Path) -> None:
    from datamodules.classification.digits import Digits

    class Brightness(Planes):
        num_classes = 10

        def forward(self, image: Tensor) -> Tensor:
            assert image.dtype == torch.float32
            middle = image.double().mean(dim=(1, 2, 3))[:, None]
            return -((middle - torch.linspace(0.2, 0.4, 10, dtype=torch.float64)) ** 2)

    run(tmp_path, certification(skip=100), Brightness(), Digits(batch_size=64), use_distributed_sampler=False)
    rows = pd.read_csv(tmp_path / "certification.csv")
    assert list(rows["idx"]) == [0, 100, 200, 300, 400]
    data = Digits(batch_size=64)
    data.setup("test")
    assert data.test_set is not None
    assert list(rows["label"]) == data.test_set.label[::100].tolist()


@pytest.mark.parametrize("owner", ["module", "datamodule"])
def test_images_are_those_that_the_module_tests(
    tmp_path: Path, finished: tuple[Path, dict[str, float]], monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    """A hook inverts them, whether it is the module's or the DataModule's."""

    def invert(self: Any, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        return {**batch, "image": 1 - batch["image"]}

    class Inverted(Images):
        def __init__(self) -> None:
            super().__init__()
            self.image = 1 - self.image

    class Data(LightningDataModule):
        def test_dataloader(self) -> DataLoader:
            return DataLoader(Inverted(), batch_size=4)

    monkeypatch.setattr(Planes if owner == "module" else Data, "on_before_batch_transfer", invert)
    metrics = run(tmp_path, certification(), data=Data())
    assert metrics == pytest.approx(finished[1], abs=1e-6)
    assert metrics["test/accuracy"] == pytest.approx(9 / 12)


def test_a_module_with_votes_and_radius_of_its_own(tmp_path: Path) -> None:
    class Twice(Planes):
        """Two equal votes, and half the radius."""

        certificate = "two votes"

        def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
            return self(image + sigma * noise).expand(2, -1, -1)

        def certified_radius(self, probability: Any, sigma: float) -> float:
            return sigma * float(sum(stats.norm.ppf(p) for p in probability)) / 4

    run(tmp_path, certification(), Twice())
    run(tmp_path / "plain", certification(Fixed(n0=20, n=600, alpha=0.0005)))
    twice, plain = (read_log(path) for path in (tmp_path, tmp_path / "plain"))
    assert twice["hits"].tolist() == [f"{hits} {hits}" for hits in plain["hits"]]
    np.testing.assert_allclose(twice["radius"], plain["radius"] / 2, rtol=1e-9)
    with pytest.raises(ValueError, match="certificate 'two votes', and this run has 'Cohen"):
        run(tmp_path, certification())


def test_fast_dev_run_certifies_one_image_and_leaves_nothing(tmp_path: Path) -> None:
    module = Planes()
    metrics = run(tmp_path, certification(), module, fast_dev_run=True)
    assert module.evaluated == 1 + 620 + 4  # the shape of the logits, one image, and one batch of the trainer's testing
    assert metrics["test/mean_draws"] == 620
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_the_network_alone_computes_in_another_precision(tmp_path: Path, precision: Any) -> None:
    kinds = set()

    class Layer(Planes):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(1, 3, 2)

        def forward(self, image: Tensor) -> Tensor:
            kinds.add(image.dtype)
            kinds.add(self.layer(image).dtype)
            return self.layer(image).flatten(1)

    run(tmp_path, certification(skip=4), Layer(), precision=precision, limit_test_batches=1)
    expected = {
        "bf16-mixed": {torch.float32, torch.bfloat16},
        "bf16-true": {torch.bfloat16},
        "64-true": {torch.float64},
    }
    assert kinds == expected[precision]


def test_channels_last_leaves_the_votes(tmp_path: Path) -> None:
    class Layer(Planes):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Conv2d(1, 3, 2).double()

        def forward(self, image: Tensor) -> Tensor:
            return self.layer(image.double()).flatten(1)

    module = Layer()
    run(tmp_path / "last", certification(channels_last=True), module)
    run(tmp_path / "first", certification(), Layer())
    assert (tmp_path / "last" / "certification.csv").read_bytes() == (
        tmp_path / "first" / "certification.csv"
    ).read_bytes()
    module.layer(torch.rand(1, 1, 2, 2).double()).sum().backward()  # it can still be trained


def test_channels_last_is_also_for_modules_with_votes_of_their_own(tmp_path: Path) -> None:
    layouts: set[tuple[bool, bool]] = set()

    class Own(Planes):
        certificate = "its own"

        def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
            layouts.add(tuple(each.is_contiguous(memory_format=torch.channels_last) for each in (image, noise)))  # type: ignore[arg-type]
            return self((image + sigma * noise)[:, :1])[None]

        def certified_radius(self, probability: Any, sigma: float) -> float:
            return sigma * float(stats.norm.ppf(probability[0]))

        def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None: ...

    class Coloured(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {**super().__getitem__(index), "image": self.image[index].expand(3, 2, 2)}

    for channels_last in (False, True):
        layouts.clear()
        directory = tmp_path / str(channels_last)
        run(directory, certification(channels_last=channels_last), Own(), data=DataLoader(Coloured(), batch_size=4))
        assert layouts == {(channels_last, channels_last)}
    assert (tmp_path / "True" / "certification.csv").read_bytes() == (
        tmp_path / "False" / "certification.csv"
    ).read_bytes()


# interruption


def interrupted(finished: Path, directory: Path, keep: int, torn: str = "") -> None:
    """The state after a process died: some rows, and part of another one."""
    (directory / "certification_rows").mkdir(parents=True)
    settings = "certification_settings.json"
    (directory / settings).write_bytes((finished / settings).read_bytes())
    lines = (finished / "certification_rows" / "rank0.tsv").read_text().splitlines(keepends=True)
    (directory / "certification_rows" / "rank0.tsv").write_text("".join(lines[: 1 + keep]) + torn)


@pytest.mark.parametrize(("keep", "torn"), [(0, ""), (5, ""), (5, "7\t1\t1\t0.3"), (11, "7\t" + 500 * "1"), (0, "7")])
def test_resuming_ends_with_the_same_file(
    finished: tuple[Path, dict[str, float]], tmp_path: Path, keep: int, torn: str
) -> None:
    interrupted(finished[0], tmp_path, keep, torn)
    module = Planes()
    assert run(tmp_path, certification(batch_size=100), module) == finished[1]
    assert module.evaluated == (12 - keep) * 620 + 1 + 12  # one image more for the shape of the logits
    assert (tmp_path / "certification.csv").read_bytes() == (finished[0] / "certification.csv").read_bytes()
    assert len((tmp_path / "certification_rows" / "rank0.tsv").read_text().splitlines()) == 13


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sigma": 0.5}, "sigma 0.25, and this run has 0.5"),
        ({"mode": Fixed(n0=20, n=700)}, "n 600, and this run has 700"),
        ({"mode": Fixed(n0=20, n=600, alpha=0.01)}, "alpha 0.001, and this run has 0.01"),
        ({"mode": Curve(n0=20)}, "mode 'fixed', and this run has 'curve'"),
        ({"seed": 3}, "seed 0, and this run has 3"),
        ({"skip": 2}, "skip 1, and this run has 2"),
        ({"max": 8}, "max None, and this run has 8"),
    ],
)
def test_other_settings_are_refused_by_name(
    finished: tuple[Path, dict[str, float]], changed: dict[str, Any], message: str
) -> None:
    before = (finished[0] / "certification.csv").read_bytes()
    with pytest.raises(ValueError, match=message):
        run(finished[0], certification(**changed))
    assert (finished[0] / "certification.csv").read_bytes() == before


def test_other_weights_and_data_are_refused(finished: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    interrupted(finished[0], tmp_path, keep=3)
    module = Planes()
    module.weight[0, 0] += 1e-3
    with pytest.raises(ValueError, match="weights"):
        run(tmp_path, certification(), module)
    with pytest.raises(ValueError, match=r"dataset 'Images of 12 images', and this run has 'Images of 13 images'"):
        run(tmp_path, certification(), data=DataLoader(Images(13), batch_size=4))
    with pytest.raises(ValueError, match="images '"):
        run(tmp_path, certification(), data=DataLoader(Images(scale=0.9), batch_size=4))


class Changed(Images):
    """The same images, with other labels or with all but the first in another order."""

    def __init__(self, what: str) -> None:
        super().__init__()
        if what == "labels":
            self.label[7] = (self.label[7] + 1) % 3
        else:
            self.image[1:] = self.image[1:].flip(0)


class Unnamed(Dataset):
    """A set that holds no labels in memory under a name that is known."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.images[index]


@pytest.mark.parametrize("what", ["labels", "images"])
@pytest.mark.parametrize("wrapped", [Unnamed, lambda images: images], ids=["read", "in memory"])
def test_other_labels_and_other_images_of_a_set_of_that_name_are_refused(
    tmp_path: Path, what: str, wrapped: Callable[[Images], Dataset]
) -> None:
    run(tmp_path, certification(max=8), data=DataLoader(wrapped(Images()), batch_size=4))
    with pytest.raises(ValueError, match=rf"with {what} '\w+', and this run has '\w+'"):
        run(tmp_path, certification(max=8), data=DataLoader(wrapped(Changed(what)), batch_size=4))


def test_all_labels_in_memory_and_few_images_tell_sets_apart(tmp_path: Path) -> None:
    """200 labels, of which any may differ, and at most 16 images read."""
    read: list[int] = []

    class Counted(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            read.append(index)
            return super().__getitem__(index)

    def settings(images: Images) -> dict[str, Any]:
        trainer = SimpleNamespace(
            test_dataloaders=DataLoader(images),
            datamodule=None,
            lightning_module=Planes(),
            strategy=SimpleNamespace(batch_to_device=lambda batch: batch),
            precision="32-true",
        )
        return tested_images.TestedImages(trainer, "a test").settings(Planes(), range(200))  # type: ignore[arg-type]

    images = Counted(200)
    before = settings(images)
    assert len(read) <= 16
    assert max(read) >= 180
    images.label[101] += 1
    assert 101 not in read
    assert {key for key, value in settings(images).items() if value != before[key]} == {"labels"}


def test_a_refused_run_leaves_a_finished_result(tmp_path: Path) -> None:
    run(tmp_path, certification(skip=3))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="skip 3, and this run has 1"):
        run(tmp_path, certification())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_rows_of_unknown_settings_are_refused(finished: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    interrupted(finished[0], tmp_path, keep=3)
    (tmp_path / "certification_settings.json").unlink()
    with pytest.raises(ValueError, match=r"certification_settings\.json, which says with what settings .* is missing"):
        run(tmp_path, certification())


def test_settings_of_a_log_without_rows_are_replaced(finished: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    interrupted(finished[0], tmp_path, keep=0, torn="3\t1")
    run(tmp_path, certification(sigma=0.3, max=2))
    assert json.loads((tmp_path / "certification_settings.json").read_text())["sigma"] == 0.3


def test_nothing_of_other_settings_stays_where_their_rows_were_removed(
    finished: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    """From the first row on: the new run may be interrupted, or read while it goes on."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "certification_rows")
    log = CertificationLog(tmp_path, {"sigma": 1.0}, with_radius=True)
    log.prepare(range(12))
    log.append(image(), rank=0)
    log.close()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"certification_settings.json", "certification_rows/rank0.tsv"}
    write_table(log.tsv, COMMUNITY, [row_of(image())], "\t")
    with pytest.raises(FileNotFoundError, match="its certification is not complete"):
        read_log(tmp_path)


def image(index: int = 4, radius: float = 0.49996, seconds: float = 1.5, **changed: Any) -> Certified:
    values: dict[str, Any] = {"prediction": 2, "outcome": "complete", "selected": 2, "hits": (9, 8), "n": 10}
    return Certified(index, 2, Certificate(**{**values, "radius": radius, "p_lower": (0.1, 0.2), **changed}), seconds)


def test_a_row_rounds_the_radius_for_others_alone() -> None:
    row = row_of(image())
    assert row["radius"] == "0.5"
    assert row["exact_radius"] == "0.49996"
    assert (row["hits"], row["p_lower"], row["time"]) == ("9 8", "0.1 0.2", str(timedelta(seconds=1.5)))
    assert row_of(image(radius=0.0, prediction=-1))["correct"] == "0"
    assert row_of(Certified(0, -1, Certificate(-1, 0.0, "complete", 0), 0.0))["correct"] == "0"


def test_contradicting_and_damaged_rows_are_named(tmp_path: Path) -> None:
    log = CertificationLog(tmp_path, {"sigma": 1}, with_radius=True)
    log.prepare([4])
    log.append(image(), rank=0)
    log.close()
    log.append(image(seconds=9.0), rank=1)
    log.close()
    assert list(log.rows()) == [4]  # the same row twice
    log.append(image(radius=0.2), rank=2)
    log.close()
    with pytest.raises(ValueError, match="two different rows of image 4"):
        log.rows()
    (tmp_path / "certification_rows" / "rank2.tsv").write_text("\t".join(COMMUNITY) + "\n1\t2\n")
    with pytest.raises(ValueError, match=r"line 2 of .*rank2.tsv is damaged"):
        log.rows()


def test_a_directory_that_is_not_shared_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="storage that all processes share"):
        CertificationLog(tmp_path, {}, with_radius=True).check()


# several processes, really


def test_two_processes_share_images_or_draws_and_write_the_same_file(
    finished: tuple[Path, dict[str, float]], tmp_path: Path, two_processes: TwoProcesses
) -> None:
    processes = two_processes(process_main, str(tmp_path), "images", "draws")
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    for share in ("images", "draws"):
        directory = tmp_path / share
        assert (directory / "certification.csv").read_bytes() == (finished[0] / "certification.csv").read_bytes()
        metrics = json.loads((directory / "metrics.json").read_text())
        assert metrics == pytest.approx(finished[1], abs=1e-6)
    rows = [len((tmp_path / "images" / "certification_rows" / f"rank{r}.tsv").read_text().splitlines()) for r in (0, 1)]
    assert rows == [7, 7]
    assert not (tmp_path / "draws" / "certification_rows" / "rank1.tsv").exists()
    evaluated = json.loads((tmp_path / "draws" / "evaluated.json").read_text())
    assert evaluated[0] == pytest.approx(12 * 620 / 2, rel=0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_processes_lose_only_what_was_under_way(
    finished: tuple[Path, dict[str, float]], tmp_path: Path, two_processes: TwoProcesses, number: int
) -> None:
    directory = tmp_path / "images"
    files = [directory / "certification_rows" / f"rank{rank}.tsv" for rank in range(2)]
    processes = two_processes(process_main, str(tmp_path), "images", "slowly")
    deadline = time.monotonic() + 100
    while not all(path.is_file() and path.read_text().count("\n") > 1 for path in files):
        assert time.monotonic() < deadline, "no row was written"
        assert all(process.poll() is None for process in processes), processes[0].communicate()[0]
        time.sleep(0.02)
    for process in processes:
        process.send_signal(number)
    for process in processes:
        process.communicate(timeout=60)
    done = sum(path.read_text().count("\n") - 1 for path in files)
    assert 2 <= done < 12
    assert not (directory / "certification.csv").exists()
    with files[1].open("a") as file:
        file.write("11\t0\t0\t0.")  # as if the kill had come while a row was written
    module = Planes()
    run(directory, certification(), module)
    assert module.evaluated == (12 - done) * 620 + 1 + 12
    assert (directory / "certification.csv").read_bytes() == (finished[0] / "certification.csv").read_bytes()


def test_nobody_waits_for_a_process_that_fails(tmp_path: Path, two_processes: TwoProcesses) -> None:
    processes = two_processes(process_main, str(tmp_path), "images", "failing0")
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert all(process.returncode not in (0, None) for process in processes), outputs
    assert "ValueError: the network's logits are NaN" in outputs[0]
    assert "RuntimeError: process 0 failed, and this one stops: ValueError" in outputs[1]


def test_a_run_that_is_told_to_end_keeps_what_is_finished(
    finished: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    module = Planes()

    def tell(module: Planes, inputs: tuple[Tensor]) -> None:
        if module.evaluated > 1000 and len(inputs[0]) > 12:
            os.kill(os.getpid(), signal.SIGTERM)

    module.register_forward_pre_hook(tell)
    with pytest.raises(SIGTERMException):
        run(tmp_path, certification(), module)
    assert len(CertificationLog(tmp_path, {}, with_radius=True).rows()) in (1, 2, 3)
    assert run(tmp_path, certification()) == finished[1]


def test_a_run_that_is_told_to_end_does_not_wait_for_a_slow_image(tmp_path: Path) -> None:
    module = Planes()

    def tell(module: Planes, inputs: tuple[Tensor]) -> None:
        if module.evaluated > 500:
            os.kill(os.getpid(), signal.SIGTERM)

    module.register_forward_pre_hook(tell)
    with pytest.raises(SIGTERMException):
        run(tmp_path, certification(Fixed(n0=20, n=20_000)), module)
    assert module.evaluated < 1500


def process_main(directory: str, *arguments: str) -> None:
    """One of two processes that the tests above start."""
    rest = 0.05 if "slowly" in arguments else 0.0

    for share in arguments:
        if share not in ("images", "draws"):
            continue
        module = Planes(rest, failing=f"failing{os.environ['RANK']}" in arguments)
        options: dict[str, Any] = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": True}
        metrics = run(Path(directory, share), certification(share=share), module, **options)
        if os.environ["RANK"] == "0":
            Path(directory, share, "metrics.json").write_text(json.dumps(metrics))
            Path(directory, share, "evaluated.json").write_text(json.dumps([module.evaluated]))


# what the user sees and writes


def test_progress_shows_images_accuracy_and_draws(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    monkeypatch.setenv("COLUMNS", "200")
    rows: dict[int, dict[str, str]] = {}
    with CertificationProgress(lambda: rows, 4, [0.0, 0.25], enabled=True) as progress:
        for index, radius in enumerate((0.3, 0.1)):
            rows[index] = row_of(image(index, radius=radius))
        progress.show(5000, now=True)
        time.sleep(0.2)
    shown = capsys.readouterr().out
    for part in ("2/4", "certified accuracy 100.0% at 0, 50.0% at 0.25", "draws/s"):
        assert part in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("callbacks.certification.progress.rank_zero_info", lines.append)
    monkeypatch.setattr("callbacks.certification.progress.SECONDS_BETWEEN_LINES", 0.0)
    with CertificationProgress(lambda: {0: row_of(image())}, 4, [0.0], enabled=True) as progress:
        progress.show(100, now=True)
    assert lines[0].startswith("certified 1 of 4 images  certified accuracy 100.0% at 0")
    assert "left" not in lines[0]  # of the only row nobody knows how long it took
    with CertificationProgress(lambda: {}, 4, [0.0], enabled=False) as progress:
        progress.show(100, now=True)
    assert len(lines) == 2


def test_a_line_counts_draws_of_all_processes_and_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    clock = [100.0]
    monkeypatch.setattr("callbacks.certification.progress.rank_zero_info", lines.append)
    monkeypatch.setattr("callbacks.certification.progress.time.monotonic", lambda: clock[0])
    rows = {0: row_of(image(0, draws=10**9))}  # of an earlier run
    with CertificationProgress(lambda: rows, 9, [0.0], enabled=True) as progress:
        rows.update({index: row_of(image(index, draws=5000)) for index in (1, 2)})
        clock[0] += 100
        progress.show(3000)
        clock[0] += 100
        rows[3] = row_of(image(3, draws=5000))
        progress.show(None)
    assert "  100 draws/s  0:05:00 left" in lines[0]
    assert "  75 draws/s  0:05:33 left" in lines[1]


def test_progress_is_shown_while_an_image_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int | None] = []
    monkeypatch.setattr(CertificationProgress, "show", lambda self, num_draws, now=False: shown.append(num_draws))
    run(tmp_path, certification(Fixed(n0=150, n=3000), max=1))
    assert 150 in shown
    assert len({draws for draws in shown if draws}) == 21


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_the_trainers_own_bar_goes_on_afterwards(
    bar: type, finished: tuple[Path, dict[str, float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(
        default_root_dir=tmp_path, logger=False, accelerator="cpu", callbacks=[bar(), certification(skip=4)]
    )
    trainer.test(Planes(), DataLoader(Images(), batch_size=4), verbose=False)
    assert "Testing" in capsys.readouterr().out
    assert (tmp_path / "certification.csv").is_file()


def test_the_shipped_configuration_and_its_alternatives_are_accepted() -> None:
    text = (ROOT / "configs" / "callbacks" / "certification.yaml").read_text()
    [entry] = yaml.safe_load(text)["trainer"]["callbacks+"]
    parser = ArgumentParser()
    parser.add_argument("--callback", type=Callback)
    shipped = parser.instantiate_classes(parser.parse_object({"callback": entry})).callback
    assert shipped.mode == Fixed()
    assert (shipped.skip, shipped.sigma) == (20, 0.25)
    alternatives = [yaml.safe_load(line) for line in re.findall(r"^#   (\{.*?\}\})", text, re.MULTILINE)]
    modes = []
    for mode in alternatives:
        entry["init_args"]["mode"] = mode
        modes.append(parser.instantiate_classes(parser.parse_object({"callback": entry})).callback.mode)
    assert modes == [Curve(grid=0.25), Anytime(radius=0.5), Stages(radius=0.5), InputSpecific(max_loss=0.05)]


# what the user must mend


@pytest.mark.parametrize(
    ("key", "value"),
    [("sigma", 0.0), ("batch_size", 0), ("skip", 0), ("max", 0), ("seed", -1), ("radii", [-0.1])],
)
def test_bad_arguments_are_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        certification(**{key: value})


def test_what_cannot_be_certified_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit_test_batches"):
        run(tmp_path, certification(), limit_test_batches=0)
    with pytest.raises(ValueError, match=r"needs images in \[0, 1\]"):
        run(tmp_path, certification(), data=DataLoader(Images(scale=2.0), batch_size=4))

    class Bytes(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {**super().__getitem__(index), "image": (self.image[index] * 255).byte()}

    with pytest.raises(ValueError, match=r"torch.uint8"):
        run(tmp_path, certification(), data=DataLoader(Bytes(), batch_size=4))

    class Pairs(Images):
        def __getitem__(self, index: int) -> Any:
            return self.image[index], self.label[index]

    with pytest.raises(TypeError, match="dictionaries with `image` and `label`"):
        run(tmp_path, certification(), data=DataLoader(Pairs(), batch_size=4))

    module = Planes()
    two: Any = [certification(), certification(sigma=0.5)]
    trainer = Trainer(logger=False, callbacks=two, accelerator="cpu", enable_progress_bar=False)
    with pytest.raises(ValueError, match="holds more than one Certification"):
        trainer.test(module, DataLoader(Images(), batch_size=4), verbose=False)
    assert module.evaluated == 0

    class Nameless(LightningModule):
        def test_step(self, batch: Any, batch_idx: int) -> None: ...

    with pytest.raises(TypeError, match="Certification needs a Classifier, and Nameless lacks"):
        run(tmp_path, certification(), Nameless())


def test_of_several_test_sets_the_first_is_certified(tmp_path: Path, finished: tuple[Path, dict[str, float]]) -> None:
    class TwoSets(Planes):
        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None: ...  # type: ignore[override]

    sets = [DataLoader(Images(), batch_size=4), DataLoader(Images(scale=0.5), batch_size=4)]
    run(tmp_path, certification(), TwoSets(), sets)
    assert (tmp_path / "certification.csv").read_text() == (finished[0] / "certification.csv").read_text()


def test_a_second_checkpoint_has_files_of_its_own(tmp_path: Path) -> None:
    layer = tmp_path / "certification.yaml"
    layer.write_text(
        Path("configs/callbacks/certification.yaml")
        .read_text()
        .replace("n: 100000", "n: 100")
        .replace("skip: 20", "skip: 60")
    )
    arguments = ["fit", "--config", "configs/elr/demo.yaml", "--config", str(layer)]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    run_directory = tmp_path / "run"
    once = ["--trainer.max_epochs", "2", "--run_directory", str(run_directory), "--test_after_fit", "true"]
    assert train.main([*arguments, *quiet, *once]) == 0
    metrics = pd.read_csv(run_directory / "test_metrics.csv").set_index("metric")["value"]
    for folder, metric in ((".", "test/acr"), ("certification_best", "best_epoch/test/acr")):
        rows = pd.read_csv(run_directory / folder / "certification.csv")
        assert metrics[metric] == pytest.approx((rows["correct"] * rows["radius"]).mean(), abs=1e-6)


# logs and curves

OFFICIAL = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t3\t3\t1.01\t1\t0:00:15.9
20\t8\t-1\t0.0\t1\t15.2
40\t1\t1\t0.25\t2\t15.1
60\t4\t2\t0.7\t2\t15.0
80\t4\t4\t0.0\t3\t15.0
"""


def test_logs_of_other_projects_are_read(tmp_path: Path) -> None:
    """A running count under `correct`, seconds under `time`, and an end within a line."""
    path = tmp_path / "official"
    path.write_text(OFFICIAL + "100\t4\t4\t8.6")  # of 8.6e-05
    log = read_log(path)
    assert log["correct"].tolist() == [True, False, True, False, True]
    numbers = summary(log, [0.0, 0.25, 0.5, 0.125])
    assert numbers == {
        **{"acr": pytest.approx((1.01 + 0.25) / 5), "certified_accuracy_0.00": 0.6, "certified_accuracy_0.25": 0.4},
        **{"certified_accuracy_0.50": 0.2, "certified_accuracy_0.125": 0.4},
    }
    wide = tmp_path / "wide.tsv"
    lines = OFFICIAL.splitlines()
    wide.write_text("\n".join([lines[0] + "\tpA\tsamplesize", *(line + "\t0.9\t1000" for line in lines[1:]), ""]))
    pd.testing.assert_frame_equal(read_log(wide)[list(COMMUNITY)], log[list(COMMUNITY)])
    path.write_text(OFFICIAL + "40\t1\t1\t0.25\t2\t15.1\n")
    with pytest.raises(ValueError, match="several rows of image 40"):
        read_log(path)


@pytest.mark.parametrize(
    ("line", "torn"),
    [
        (3, "20\t8\t-1\t0."),
        (3, "20\t8\t-1\t0.40\t1\t1\t0.25\t2\t15.1"),
        (3, ""),
        (3, "20\tx\t-1\t0.0\t1\t15.2"),
        (6, "80\t4\t4\t"),
        (6, "80\t4\t4\t\t3\t15.0"),
    ],
)
def test_a_damaged_line_of_a_log_is_named(tmp_path: Path, line: int, torn: str) -> None:
    lines = OFFICIAL.splitlines()
    lines[line - 1] = torn
    (tmp_path / "official").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"line {line} of .*official is damaged"):
        read_log(tmp_path / "official")


def test_a_curve_falls_just_beyond_each_radius(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[tuple[np.ndarray, np.ndarray, str]] = []
    monkeypatch.setattr(Axes, "step", lambda self, x, y, where, label: drawn.append((x, y, where)))
    monkeypatch.setattr(Axes, "legend", lambda self, fontsize: None)
    log = pd.DataFrame(
        {"idx": range(4), "label": [0, 0, 0, 0], "predict": [0, 0, 1, 0], "radius": [0.2, 0.5, 3.0, 0.5]}
    )
    log["correct"] = log["predict"] == log["label"]
    draw_curves({"one": log}, tmp_path / "curve.png", {"one": {"alpha": 0.001}})
    x, y, where = drawn[0]
    np.testing.assert_allclose(x, [0.0, 0.2, 0.5, 3.15])
    np.testing.assert_allclose(y, [0.75, 0.75, 0.5, 0.0])
    assert where == "pre"  # between two radii, the value at the right one
    assert accuracy_table({"one": log}, [0.3], {"one": {"alpha": 0.001}})["certified_accuracy"].tolist() == [0.5]
