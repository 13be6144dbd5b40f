import importlib.util
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from callbacks.attacks.robust_accuracy import RobustAccuracy
from lightning_modules.robustness.attacks import PGD, AutoAttack
from tests.two_processes import TwoProcesses

needs_autoattack = pytest.mark.skipif(
    importlib.util.find_spec("pyautoattack") is None, reason="pyautoattack is not installed"
)
ROOT = Path(__file__).resolve().parents[2]
LINF, L2 = 0.02, 0.06
NORMAL = torch.tensor([1.0, -2.0, 0.5, 1.5], dtype=torch.float64)


class HalfSpace(LightningModule):
    """Class 1 where w.x > w.(1/2), otherwise class 0; in float64, so that no batch changes a class."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(NORMAL.clone())
        self.dropout = nn.Dropout(0.5)
        self.evaluated = 0
        self.trained_on = False

    def forward(self, image: Tensor) -> Tensor:
        self.evaluated += len(image)
        self.trained_on |= self.dropout.training
        score = (self.dropout(image).double() - 0.5).flatten(1) @ self.weight
        return torch.stack([torch.zeros_like(score), score], dim=1)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        right = self(batch["image"]).argmax(1) == batch["label"]
        self.log("test/accuracy", right.double().mean(), batch_size=len(right), sync_dist=True)


def signed_distance(image: Tensor) -> Tensor:
    return (image.double() - 0.5).flatten(1) @ NORMAL


class Images(Dataset):
    """Images far from 0 and 1, whose labels are right, but for every fifth one."""

    def __init__(self, count: int = 31) -> None:
        self.image = 0.35 + 0.3 * torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(1))
        self.label = (signed_distance(self.image) > 0).long()
        self.label[::5] = 1 - self.label[::5]

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.image[index], "label": self.label[index], "index": index}


def known(budget: float, length: Tensor, rows: slice = slice(None)) -> float:
    """Robust accuracy by the exact distance to the plane."""
    images = Images()
    score = signed_distance(images.image)
    robust = (score.abs() / length > budget) & ((score > 0) == (images.label == 1))
    return float(robust[rows].double().mean())


def attacks() -> list[Any]:
    return [
        PGD("linf", LINF, steps=10, restarts=2, name="box"),
        PGD("l2", L2, steps=20, random_start=False, name="ball"),
    ]


def callback(**arguments: Any) -> RobustAccuracy:
    return RobustAccuracy(**{"attacks": attacks(), "batch_size": 8, **arguments})


def run(
    directory: Path, attacker: RobustAccuracy, module: LightningModule | None = None, data: Any = None, **options: Any
) -> dict[str, float]:
    settings: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, **options}
    checkpoint = settings.pop("ckpt_path", None)
    trainer = Trainer(
        default_root_dir=directory, logger=False, callbacks=[attacker], enable_model_summary=False, **settings
    )
    loader = DataLoader(Images(), batch_size=4) if data is None else data
    return dict(trainer.test(module or HalfSpace(), loader, ckpt_path=checkpoint, verbose=False)[0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    directory = tmp_path_factory.mktemp("finished")
    return directory, run(directory, callback())


def save(directory: Path, name: str, scale: float = 1.0) -> str:
    """A checkpoint of the half-space, or of its complement."""
    module = HalfSpace()
    module.weight.data *= scale
    saved = {"state_dict": module.state_dict(), "pytorch-lightning_version": "2.6.0", "epoch": 1, "global_step": 1}
    torch.save(saved, directory / f"{name}.ckpt")
    return str(directory / f"{name}.ckpt")


def blocks(directory: Path) -> list[Path]:
    return sorted((directory / "robust_accuracy_rows").glob("*/block_*.csv"))


# what a run leaves


def test_the_robust_accuracy_of_a_half_space_is_the_exact_one(finished: tuple[Path, dict[str, float]]) -> None:
    directory, metrics = finished
    box, ball = known(LINF, NORMAL.abs().sum()), known(L2, NORMAL.norm())
    assert 0 < box < 24 / 31
    assert 0 < ball < 24 / 31
    assert box != ball
    assert metrics["test/robust_accuracy_box"] == pytest.approx(box, abs=1e-6)
    assert metrics["test/robust_accuracy_ball"] == pytest.approx(ball, abs=1e-6)
    table = pd.read_csv(directory / "robust_accuracy.csv")
    assert table["attack"].tolist() == ["box", "ball"]
    assert table["checkpoint"].tolist() == ["none", "none"]
    assert table["norm"].tolist() == ["linf", "l2"]
    assert table["epsilon"].tolist() == [LINF, L2]
    assert table["steps"].tolist() == [10, 20]
    assert table["restarts"].tolist() == [2, 1]
    assert table["num_images"].tolist() == [31, 31]
    np.testing.assert_allclose(table["clean_accuracy"], 24 / 31)
    np.testing.assert_allclose(table["robust_accuracy"], [box, ball])
    np.testing.assert_allclose(table["largest_perturbation"], [LINF, L2], rtol=1e-5)
    assert metrics["test/accuracy"] == pytest.approx(24 / 31)  # the trainer's own testing took place


def test_rows_tell_each_image_apart(finished: tuple[Path, dict[str, float]]) -> None:
    assert len(blocks(finished[0])) == 4
    rows = pd.concat([pd.read_csv(path) for path in blocks(finished[0])])
    images = Images()
    for name, budget, length in (("box", LINF, NORMAL.abs().sum()), ("ball", L2, NORMAL.norm())):
        part = rows[rows["attack"] == name]
        assert part["index"].tolist() == list(range(31))
        assert part["label"].tolist() == images.label.tolist()
        score = signed_distance(images.image)
        right = (score > 0) == (images.label == 1)
        assert part["prediction"].tolist() == (score > 0).long().tolist()
        turned = right & (score.abs() / length < budget)
        assert ((part["prediction_under_attack"] != part["prediction"]).to_numpy() == turned.numpy()).all()
        assert (part["perturbation"].to_numpy()[~right.numpy()] == 0).all()
        assert (part["perturbation"] <= budget + 1e-6).all()


def test_the_module_and_the_generator_are_left_as_they_were(tmp_path: Path) -> None:
    module = HalfSpace()
    attacker = callback()
    seen = []

    def on_test_start(trainer: Trainer, pl_module: LightningModule) -> None:
        before = torch.get_rng_state()
        RobustAccuracy.on_test_start(attacker, trainer, pl_module)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.is_inference_mode_enabled()
        assert not pl_module.training
        seen.append(trainer)

    attacker.on_test_start = on_test_start  # type: ignore[method-assign]
    run(tmp_path, attacker, module)
    assert len(seen) == 1
    assert torch.equal(module.weight, NORMAL)
    assert module.weight.grad is None
    assert module.weight.requires_grad
    assert not module.trained_on


def test_skip_and_max_choose_positions(tmp_path: Path) -> None:
    metrics = run(tmp_path, callback(skip=3, max=20))
    rows = pd.concat([pd.read_csv(path) for path in blocks(tmp_path)])
    assert sorted(set(rows["index"])) == list(range(0, 20, 3))
    assert metrics["test/robust_accuracy_box"] == pytest.approx(
        known(LINF, NORMAL.abs().sum(), slice(0, 20, 3)), abs=1e-6
    )


def test_the_picture_is_written(finished: tuple[Path, dict[str, float]]) -> None:
    assert (finished[0] / "figures" / "adversarial.png").read_bytes().startswith(b"\x89PNG")
    assert not list(finished[0].rglob("*.partial*"))


def test_a_block_without_a_right_image_is_no_problem(tmp_path: Path) -> None:
    class Wrong(Images):
        def __init__(self) -> None:
            super().__init__()
            self.label = 1 - (signed_distance(self.image) > 0).long()

    metrics = run(tmp_path, callback(), data=DataLoader(Wrong(), batch_size=4))
    assert metrics["test/robust_accuracy_box"] == 0
    assert (pd.read_csv(tmp_path / "robust_accuracy.csv")["largest_perturbation"] == 0).all()


def test_fast_dev_run_attacks_one_image_and_leaves_nothing(tmp_path: Path) -> None:
    class Counted(HalfSpace):
        attacked = 0

        def forward(self, image: Tensor) -> Tensor:
            self.attacked += len(image) == 1  # the trainer's own testing has four at once
            return super().forward(image)

    module = Counted()
    metrics = run(tmp_path, callback(max=4, skip=3), module, fast_dev_run=True)  # the first image is labelled wrongly
    assert module.evaluated == module.attacked + 4
    assert metrics["test/robust_accuracy_box"] == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_the_network_alone_computes_in_another_precision(tmp_path: Path, precision: Any) -> None:
    kinds = set()

    class Layer(HalfSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)
            self.layer.weight.data = torch.stack([torch.zeros(4), NORMAL.float()])
            self.layer.bias.data = torch.tensor([0.0, -0.5 * float(NORMAL.sum())])

        def forward(self, image: Tensor) -> Tensor:
            kinds.add(image.dtype)
            return self.layer(image.flatten(1))

    metrics = run(tmp_path, callback(), Layer(), precision=precision)
    expected = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}
    assert kinds == {expected[precision]}
    assert metrics["test/robust_accuracy_box"] == pytest.approx(known(LINF, NORMAL.abs().sum()), abs=0.1)
    perturbation = pd.read_csv(tmp_path / "robust_accuracy.csv")["largest_perturbation"]
    assert (perturbation <= np.array([LINF, L2]) + 1e-6).all()


# smoothed classifiers


def test_a_smoothed_half_space_is_the_half_space(tmp_path: Path) -> None:
    """Gaussian noise leaves the majority's plane where it was."""
    smoothed = [PGD("linf", LINF, steps=10, num_draws=16, name="box")]
    metrics = run(tmp_path, callback(attacks=smoothed, sigma=0.1, num_draws=1000))
    table = pd.read_csv(tmp_path / "robust_accuracy.csv")
    assert table["clean_accuracy"][0] == pytest.approx(24 / 31, abs=1.5 / 31)
    assert metrics["test/robust_accuracy_box"] == pytest.approx(known(LINF, NORMAL.abs().sum()), abs=2.5 / 31)


@needs_autoattack
def test_autoattack_leaves_no_image_of_a_smoothed_classifier_alone(tmp_path: Path) -> None:
    """Between four half-spaces whose margins are so small that a single noisy vote is mostly wrong."""
    between = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    between = (between - between.mean(1, keepdim=True)) / between.norm(dim=0)

    class Four(HalfSpace):
        num_classes = 4

        def forward(self, image: Tensor) -> Tensor:
            return 20 * (image.double() - 0.5).flatten(1) @ between

    class Close(Images):
        def __init__(self) -> None:
            self.image = 0.5 + 0.15 * (torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(1)) - 0.5)
            self.label = Four()(self.image).argmax(1)

    data = DataLoader(Close(), batch_size=24)
    attacks = [PGD("linf", 0.02, num_draws=16, name="pgd"), AutoAttack("linf", 0.02, num_draws=8, name="auto")]
    metrics = run(tmp_path, callback(attacks=attacks, batch_size=24, sigma=0.25, num_draws=1000), Four(), data)
    rows = pd.concat([pd.read_csv(path) for path in blocks(tmp_path)])
    right = rows[rows["prediction"] == rows["label"]]
    assert len(right) > 30
    assert (right["perturbation"] > 0).all()
    assert metrics["test/robust_accuracy_auto"] <= metrics["test/robust_accuracy_pgd"] + 0.05
    assert metrics["test/robust_accuracy_pgd"] < 0.5


def test_a_module_with_votes_of_its_own_is_attacked_with_them(tmp_path: Path) -> None:
    class Turned(HalfSpace):
        """Smoothed, it says the other class."""

        certificate = "none"

        def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
            assert noise.shape == image.shape
            return -self(image + sigma * noise).expand(2, -1, -1)

        def certified_radius(self, probability: Any, sigma: float) -> float:
            return 0.0

    smoothed = [PGD("linf", 1e-4, steps=1, num_draws=2, name="box")]
    run(tmp_path, callback(attacks=smoothed, sigma=1e-3, num_draws=2), Turned())
    assert pd.read_csv(tmp_path / "robust_accuracy.csv")["clean_accuracy"][0] == pytest.approx(7 / 31)


def test_every_vote_counts_as_in_the_certificate(tmp_path: Path) -> None:
    """Two doubtful votes outweigh one that is certain of another class."""

    class Three(HalfSpace):
        certificate = "none"

        def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
            right = self(image + sigma * noise).sign()
            return torch.stack([1e-2 * right, 1e-2 * right, -50 * right])

        def certified_radius(self, probability: Any, sigma: float) -> float:
            return 0.0

    smoothed = [PGD("linf", 1e-4, steps=1, num_draws=2, name="box")]
    run(tmp_path, callback(attacks=smoothed, sigma=1e-3, num_draws=2), Three())
    assert pd.read_csv(tmp_path / "robust_accuracy.csv")["clean_accuracy"][0] == pytest.approx(24 / 31)


def test_the_smoothed_half_of_a_mixture_is_not_attacked_for_the_whole(tmp_path: Path) -> None:
    class Mixing(HalfSpace):
        chooses_alpha = False

        def mix(self, image: Tensor, alpha: float | None = None) -> Any: ...

    smoothed = [PGD("linf", 1e-4, steps=1, num_draws=2, name="box")]
    with pytest.raises(ValueError, match=r"sigma must be 0 for Mixing, got 0\.1"):
        run(tmp_path, callback(attacks=smoothed, sigma=0.1, num_draws=2), Mixing())


def test_the_class_is_that_of_most_draws(tmp_path: Path) -> None:
    class Fickle(HalfSpace):
        """The other class in three tenths of all evaluations."""

        def forward(self, image: Tensor) -> Tensor:
            logits = super().forward(image)
            return torch.where(torch.rand(len(image), 1) < 0.3, -logits, logits)

    smoothed = [PGD("linf", 1e-4, steps=1, num_draws=2, name="box")]
    metrics = run(tmp_path, callback(attacks=smoothed, num_draws=301), Fickle())
    assert metrics["test/robust_accuracy_box"] == pytest.approx(24 / 31, abs=1e-6)


# interruption, several checkpoints


def test_an_interrupted_evaluation_goes_on(finished: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    whole = HalfSpace()
    assert run(tmp_path, callback(), whole) == finished[1]
    again = HalfSpace()
    assert run(tmp_path, callback(), again) == finished[1]
    assert again.evaluated == 31  # by the trainer's own testing
    blocks(tmp_path)[2].unlink()
    (tmp_path / "robust_accuracy.csv").unlink()
    part = HalfSpace()
    assert run(tmp_path, callback(), part) == finished[1]
    assert 31 < part.evaluated < whole.evaluated / 2
    for one, other in zip(blocks(tmp_path), blocks(finished[0]), strict=True):
        assert one.read_bytes() == other.read_bytes()
    table = "robust_accuracy.csv"
    assert (tmp_path / table).read_bytes() == (finished[0] / table).read_bytes()


def test_each_checkpoint_keeps_its_picture(tmp_path: Path) -> None:
    """Whatever order they are tested in, and however often."""
    pictures: dict[str, list[bytes]] = {"last": [], "best": []}
    for number, name in enumerate(pictures):
        module = HalfSpace()
        module.weight.data *= 1 - 2 * number * torch.tensor([0.0, 1.0, 0.0, 1.0])
        state = {"state_dict": module.state_dict(), "pytorch-lightning_version": "2.6.0", "epoch": 1, "global_step": 1}
        torch.save(state, tmp_path / f"{name}.ckpt")
    for name in ("last", "best", "last"):
        run(tmp_path, callback(), ckpt_path=str(tmp_path / f"{name}.ckpt"))
        for other, seen in pictures.items():
            path = tmp_path / "figures" / f"adversarial_{other}.png"
            if path.is_file():
                seen.append(path.read_bytes())
    assert [len(seen) for seen in pictures.values()] == [3, 2]
    assert [len(set(seen)) for seen in pictures.values()] == [1, 1]
    assert pictures["last"][0] != pictures["best"][0]
    assert not (tmp_path / "figures" / "adversarial.png").exists()


@pytest.mark.parametrize("changed", [{"seed": 1}, {"batch_size": 9}, {"max": 20}, {"attacks": attacks()[:1]}])
def test_rows_of_other_settings_are_not_used(
    finished: tuple[Path, dict[str, float]], tmp_path: Path, changed: dict[str, Any]
) -> None:
    run(tmp_path, callback())
    before = len(blocks(tmp_path))
    run(tmp_path, callback(**changed))
    assert len({path.parent for path in blocks(tmp_path)}) == 2
    settings = [json.loads(path.read_text()) for path in tmp_path.rglob("settings.json")]
    assert settings[0] != settings[1]
    assert len(blocks(tmp_path)) > before


def test_random_numbers_of_an_attack_do_not_depend_on_the_one_before(tmp_path: Path) -> None:
    perturbations = []
    for restarts in (1, 2):
        first = PGD("linf", LINF, steps=1, restarts=restarts, name="first")
        second = PGD("l2", L2, steps=1, step_size=1e-4, name="second")  # about where it began
        run(tmp_path / str(restarts), callback(attacks=[first, second]))
        rows = pd.concat([pd.read_csv(path) for path in blocks(tmp_path / str(restarts))])
        perturbations.append(rows["perturbation"][rows["attack"] == "second"].tolist())
    assert perturbations[0] == perturbations[1]
    assert len(set(perturbations[0])) > 10


def test_each_checkpoint_has_its_rows_in_the_table(tmp_path: Path) -> None:
    checkpoints = {"last": save(tmp_path, "last"), "best": save(tmp_path, "best", -1.0)}
    for name in ("last", "best", "last"):
        run(tmp_path, callback(), ckpt_path=checkpoints[name])
    table = pd.read_csv(tmp_path / "robust_accuracy.csv")
    assert table["checkpoint"].tolist() == ["best", "best", "last", "last"]
    np.testing.assert_allclose(table["clean_accuracy"], [7 / 31, 7 / 31, 24 / 31, 24 / 31])


def test_another_attack_on_a_checkpoint_adds_its_row(tmp_path: Path) -> None:
    """The same one replaces its own, and other weights those of the checkpoint before."""
    box, ball = attacks()
    shorter = PGD("linf", LINF, steps=5, restarts=2, name="box")
    checkpoint = save(tmp_path, "12")  # a number
    for attack in (box, ball, shorter, ball):
        run(tmp_path, callback(attacks=[attack]), ckpt_path=checkpoint)
    table = pd.read_csv(tmp_path / "robust_accuracy.csv", dtype={"checkpoint": str})
    assert table["checkpoint"].tolist() == ["12"] * 3
    assert table["attack"].tolist() == ["box", "box", "ball"]
    assert table["steps"].tolist() == [10, 5, 20]
    assert table["weights"].nunique() == 1
    np.testing.assert_allclose(table["robust_accuracy"][2], known(L2, NORMAL.norm()))
    run(tmp_path, callback(attacks=[ball]), ckpt_path=save(tmp_path, "12", -1.0))
    run(tmp_path, callback(attacks=[box]), ckpt_path=save(tmp_path, "13"))
    table = pd.read_csv(tmp_path / "robust_accuracy.csv")
    assert list(zip(table["checkpoint"], table["attack"], strict=True)) == [(12, "ball"), (13, "box")]


@pytest.mark.parametrize("name", ["8", "0.5", "NA", "nan"])
def test_an_attack_may_have_any_name(finished: tuple[Path, dict[str, float]], tmp_path: Path, name: str) -> None:
    metrics = run(tmp_path, callback(attacks=[replace(attacks()[0], name=name)]))
    assert metrics[f"test/robust_accuracy_{name}"] == finished[1]["test/robust_accuracy_box"]
    run(tmp_path, callback(attacks=[replace(attacks()[0], name=name)]))
    table = pd.read_csv(tmp_path / "robust_accuracy.csv", dtype=str, keep_default_na=False)
    assert table["attack"].tolist() == [name]


# several processes, really


def test_two_processes_find_the_same(
    finished: tuple[Path, dict[str, float]], tmp_path: Path, two_processes: TwoProcesses
) -> None:
    processes = two_processes(process_main, str(tmp_path), None)
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    for one, other in zip(blocks(tmp_path), blocks(finished[0]), strict=True):
        assert one.read_bytes() == other.read_bytes()
    table = "robust_accuracy.csv"
    assert (tmp_path / table).read_bytes() == (finished[0] / table).read_bytes()
    each = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    for _, metrics in each:
        for name in ("test/robust_accuracy_box", "test/robust_accuracy_ball"):
            assert metrics[name] == pytest.approx(finished[1][name], abs=1e-6)
    assert min(evaluated for evaluated, _ in each) > 100  # both attacked


def test_nobody_waits_for_a_process_that_fails(tmp_path: Path, two_processes: TwoProcesses) -> None:
    processes = two_processes(process_main, str(tmp_path), 0)
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert all(process.returncode not in (0, None) for process in processes), outputs
    assert "RuntimeError: process 0 failed, and this one stops: ValueError" in outputs[1]


def test_a_run_that_is_told_to_end_ends_with_the_block(finished: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    module = HalfSpace()

    def tell(module: HalfSpace, inputs: tuple[Tensor]) -> None:
        if module.evaluated == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    module.register_forward_pre_hook(tell)
    with pytest.raises(SIGTERMException):
        run(tmp_path, callback(), module)
    assert [path.stem for path in blocks(tmp_path)] == ["block_00000"]
    assert run(tmp_path, callback()) == finished[1]


class Broken(HalfSpace):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) * torch.nan


def process_main(directory: str, failing: int | None) -> None:
    """One of two processes that the tests above start."""
    module = (Broken if os.environ["RANK"] == str(failing) else HalfSpace)()
    metrics = run(Path(directory), callback(), module, devices=2, strategy="ddp")
    Path(directory, f"rank{os.environ['RANK']}.json").write_text(json.dumps([module.evaluated, metrics]))


# on the command line, and AutoAttack


def test_a_second_config_adds_it_to_any_experiment(tmp_path: Path) -> None:
    import train

    arguments = ["fit", "--config", "configs/elr/demo.yaml", "--config", "configs/callbacks/robust_accuracy.yaml"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    run_once = ["--trainer.max_epochs", "1", "--run_directory", str(tmp_path), "--test_after_fit", "true"]
    assert train.main([*arguments, *quiet, *run_once]) == 0
    table = pd.read_csv(tmp_path / "robust_accuracy.csv")
    assert table["attack"].tolist() == ["pgd_linf_0.03137", "pgd_l2_0.5"] * 2
    assert table["checkpoint"].tolist() == ["last", "last", "best", "best"]  # also_test_best of that experiment
    assert (table["robust_accuracy"] < table["clean_accuracy"]).all()
    assert {path.name for path in (tmp_path / "figures").glob("adversarial*")} == {
        "adversarial_last.png",
        "adversarial_best.png",
    }
    metrics = pd.read_csv(tmp_path / "test_metrics.csv").set_index("metric")["value"]
    assert metrics["test/robust_accuracy_pgd_l2_0.5"] == pytest.approx(table["robust_accuracy"][1], abs=1e-6)


@needs_autoattack
def test_autoattack_is_one_more_attack(tmp_path: Path) -> None:
    """It is exact where gradients of cross-entropy lead to the farther of two neighbours."""

    class Bands(HalfSpace):
        """Ten classes, one beside another along w; every class turns into its neighbour."""

        num_classes = 10

        def forward(self, image: Tensor) -> Tensor:
            score = (image.double() - 0.5).flatten(1) @ self.weight
            return -((score[:, None] - torch.linspace(-0.6, 0.6, 10, dtype=torch.float64)) ** 2)

    class Banded(Images):
        def __init__(self) -> None:
            super().__init__(12)
            self.label = Bands()(self.image).argmax(1)

    data = DataLoader(Banded(), batch_size=4)
    strong = [AutoAttack("linf", 0.01), PGD("linf", 0.01, name="pgd")]
    metrics = run(tmp_path, callback(attacks=strong, batch_size=12), Bands(), data)
    score = signed_distance(Banded().image)
    edges = torch.linspace(-0.6, 0.6, 10, dtype=torch.float64).unfold(0, 2, 1).mean(1)
    robust = (score[:, None] - edges).abs().min(1).values / NORMAL.abs().sum() > 0.01
    assert metrics["test/robust_accuracy_autoattack_linf_0.01"] == pytest.approx(
        float(robust.double().mean()), abs=1e-6
    )
    assert 0 < metrics["test/robust_accuracy_autoattack_linf_0.01"] < metrics["test/robust_accuracy_pgd"] < 1


# what the user must mend


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attacks", []),
        ("attacks", [PGD("linf", 0.1), PGD("linf", 0.1, steps=3)]),
        ("batch_size", 0),
        ("skip", 0),
        ("max", 0),
        ("sigma", -0.1),
        ("num_draws", 0),
        ("seed", -1),
        ("num_shown", 0),
    ],
)
def test_bad_arguments_are_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        callback(**{key: value})


def test_a_smoothed_classifier_needs_draws() -> None:
    with pytest.raises(ValueError, match=r"num_draws must be at least 2 with sigma 0.1"):
        callback(sigma=0.1)
    with pytest.raises(ValueError, match=r"box: num_draws must be at least 2 with sigma 0.1"):
        callback(sigma=0.1, num_draws=10)


@needs_autoattack
def test_autoattack_refuses_a_classifier_with_random_numbers_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"needs a deterministic classifier, and num_draws 10 without sigma"):
        callback(attacks=[AutoAttack("l2", 0.1)], num_draws=10)
    with pytest.raises(ValueError, match=r"autoattack_l2_0.1: num_draws must be at least 2 with sigma 0.1"):
        callback(attacks=[AutoAttack("l2", 0.1, num_draws=1)], sigma=0.1, num_draws=10)


def test_what_cannot_be_attacked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit_test_batches"):
        run(tmp_path, callback(), limit_test_batches=0)

    with pytest.raises(ValueError, match=r"RobustAccuracy needs gradients, .* 16-true"):
        run(tmp_path, callback(), precision="16-true")

    class Nameless(LightningModule):
        def test_step(self, batch: Any, batch_idx: int) -> None: ...

    with pytest.raises(TypeError, match="RobustAccuracy needs a Classifier, and Nameless lacks"):
        run(tmp_path, callback(), Nameless())

    with pytest.raises(ValueError, match=r"logits are NaN for images in 0\.\.\.7"):
        run(tmp_path, callback(), Broken())
