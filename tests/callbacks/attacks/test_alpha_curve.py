from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from callbacks.attacks.alpha_curve import AlphaCurve, accuracy_at_equal_robustness, draw_alpha_curve
from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.baselines.cross_entropy import CrossEntropy
from lightning_modules.networks.mlp import MLP
from lightning_modules.robustness.adaptive_smoothing.mixture import MixingPerceptron, Mixture
from lightning_modules.robustness.adaptive_smoothing.module import AdaptiveSmoothing
from lightning_modules.robustness.attacks.ascent import PGD, pgd
from tests.trainers import quiet

ATTACK = PGD("linf", epsilon=0.1, steps=3, random_start=False)


def module(learned: bool = True) -> AdaptiveSmoothing:
    torch.manual_seed(0)
    g, h = MLP(64, [12], 10), MLP(64, [6], 10)
    if not learned:
        return AdaptiveSmoothing(Mixture(g, h, alpha=0.7), num_classes=10)
    names = ["layers.1"]
    mixture = Mixture(g, h, MixingPerceptron(18, [4]), accurate_features=names, robust_features=names)
    return AdaptiveSmoothing(mixture, num_classes=10)


def evaluate(callback: AlphaCurve, built: Any, directory: Path, **options: Any) -> None:
    trainer = quiet(callbacks=[callback], default_root_dir=directory, **options)
    trainer.test(built, datamodule=LabelledImages(Digits()), verbose=False)


def test_the_table_is_what_the_attack_does_to_each_mixture(tmp_path: Path) -> None:
    built = module()
    evaluate(AlphaCurve(ATTACK, alphas=[1.0, 0.0, 0.6], batch_size=40, skip=5), built, tmp_path)
    built.eval()
    table = pd.read_csv(tmp_path / "alpha_curve.csv")
    assert table["alpha"].tolist() == ["0", "0.6", "1", "learned"]
    data = LabelledImages(Digits())
    data.setup("test")
    images = list(data.test_dataloader())
    image, label = (torch.cat([batch[key] for batch in images])[::5] for key in ("image", "label"))
    for row, alpha in zip(table.itertuples(), [0.0, 0.6, 1.0, None], strict=True):

        def network(given: torch.Tensor, alpha: float | None = alpha) -> torch.Tensor:
            return built.mix(given, alpha).log_probability

        assert row.accuracy == pytest.approx(float((network(image).argmax(1) == label).float().mean()))
        attacked = pgd(network, image, label, "linf", 0.1, 3, 2.5 * 0.1 / 3, starts_at_random=False)
        assert row.robust_accuracy == pytest.approx(1 - float(attacked.fooled.float().mean()))
        assert row.mean_alpha == pytest.approx(float(built.mix(image, alpha).alpha.mean()), rel=1e-5)
        assert row.mean_alpha_attacked == pytest.approx(float(built.mix(attacked.image, alpha).alpha.mean()), rel=1e-5)
    assert (tmp_path / "figures" / "alpha_curve.png").stat().st_size > 0


def test_a_mixture_without_a_learned_alpha_has_no_such_row(tmp_path: Path) -> None:
    evaluate(AlphaCurve(ATTACK, alphas=[0.5], skip=50), module(learned=False), tmp_path)
    assert pd.read_csv(tmp_path / "alpha_curve.csv")["alpha"].tolist() == [0.5]


def test_fixed_alphas_are_interpolated_at_the_robust_accuracy_of_the_learned_alpha() -> None:
    rows = {"alpha": ["0", "0.5", "1", "learned"], "accuracy": [1.0, 0.9, 0.8, 0.95]}
    for robust, accuracy in ((0.5, 0.85), (0.9, 0.8), (0.1, 0.95)):
        table = pd.DataFrame({**rows, "robust_accuracy": [0.0, 0.2, 0.8, robust]})
        assert accuracy_at_equal_robustness(table) == pytest.approx(accuracy)


def in_blocks() -> AlphaCurve:
    return AlphaCurve(ATTACK, alphas=[0.0, 0.6], batch_size=20, skip=5)


def blocks(directory: Path) -> list[Path]:
    return sorted((directory / "alpha_curve_rows").glob("*/block_*.csv"))


def test_a_block_that_is_missing_is_computed_again_and_other_alphas_are_other_rows(tmp_path: Path) -> None:
    evaluate(in_blocks(), module(), tmp_path)
    table, first, *others = (tmp_path / "alpha_curve.csv"), *blocks(tmp_path)
    before, written = table.read_bytes(), [path.stat().st_mtime_ns for path in others]
    assert len(others) > 1
    first.unlink()
    table.unlink()
    evaluate(in_blocks(), module(), tmp_path)
    assert [path.stat().st_mtime_ns for path in others] == written
    assert table.read_bytes() == before
    evaluate(AlphaCurve(ATTACK, alphas=[0.5], batch_size=20, skip=5), module(), tmp_path)
    assert pd.read_csv(table)["alpha"].tolist() == ["0.5", "learned"]


def test_a_fast_dev_run_leaves_nothing(tmp_path: Path) -> None:
    evaluate(in_blocks(), module(), tmp_path, fast_dev_run=True)
    assert not list(tmp_path.iterdir())


def test_the_picture_shows_fixed_and_learned_alphas() -> None:
    rows = {"alpha": ["0", "0.5", "1", "learned"], "accuracy": [0.97, 0.97, 0.93, 0.96]}
    table = pd.DataFrame({**rows, "robust_accuracy": [0.0, 0.01, 0.5, 0.45]})
    left, right = draw_alpha_curve(table, "pgd").axes
    curves = [list(line.get_ydata()) for line in left.lines if len(line.get_ydata()) == 3]
    assert curves == [[0.97, 0.97, 0.93], [0.0, 0.01, 0.5]]
    drawn = {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in right.lines}
    assert drawn["between the two"] == ([0.97, 0.93], [0.0, 0.5])
    assert drawn["learned alpha"] == ([0.96], [0.45])


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"alphas must be one or more numbers in \[0, 1\], got \[0.5, 1.2\]"):
        AlphaCurve(ATTACK, alphas=[0.5, 1.2])
    with pytest.raises(ValueError, match="AlphaCurve needs gradients"):
        evaluate(AlphaCurve(ATTACK), module(), tmp_path, precision="16-true")
    lacks = "AlphaCurve needs a MixedClassifier, and CrossEntropy lacks chooses_alpha, mix"
    with pytest.raises(TypeError, match=lacks):
        evaluate(AlphaCurve(ATTACK), CrossEntropy(MLP(64, [4], 10), num_classes=10), tmp_path)


def test_a_mixture_is_evaluated_once_on_clean_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is evaluated once on clean images, in three attack steps, once at the last state, and once at the result."""
    built, calls = module(learned=False).eval(), []
    mix = built.mix
    monkeypatch.setattr(built, "mix", lambda *given: calls.append(given) or mix(*given))
    image = torch.rand(5, 1, 8, 8)
    in_blocks()._attack(quiet(), built, image, mix(image, 0.6).log_probability.argmax(dim=1), 0.6)
    assert len(calls) == 1 + 3 + 1 + 1
