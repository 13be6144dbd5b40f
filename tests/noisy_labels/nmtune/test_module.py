import copy
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from callbacks.measurements import Measurements
from datamodules.classification.digits import TuningDigits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.baselines.cross_entropy import CrossEntropy
from lightning_modules.networks.features import without_head
from lightning_modules.networks.mlp import MLP
from lightning_modules.noisy_labels.nmtune import module as nmtune
from lightning_modules.noisy_labels.nmtune.module import (
    Adapter,
    NMTune,
    covariance_term,
    direction_term,
    singular_value_term,
)
from lightning_modules.noisy_labels.nmtune.spectrum import (
    Center,
    Spectrum,
    largest_singular_value_ratio,
    singular_value_entropy,
)
from lightning_modules.training.schedules import CosineOverSteps
from tests.configurations import whole
from tests.largest_tensor import LargestTensor

B, D = 12, 7
QUIET: dict[str, Any] = {
    **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
    **{"accelerator": "cpu", "precision": "64-true", "use_distributed_sampler": False},
}


def tuning_digits(batch_size: int = 64) -> LabelledImages:
    return LabelledImages(TuningDigits(), batch_size)


def features(seed: int = 0) -> Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# the three terms


def test_direction_term_is_two_over_d_times_one_minus_the_mean_cosine() -> None:
    z, f = features(0), features(1)
    expected = 2 / D * (1 - F.cosine_similarity(z, f).mean())
    torch.testing.assert_close(direction_term(z, f), expected, rtol=1e-12, atol=0)


def test_direction_term_ignores_lengths_and_is_zero_for_the_same_directions_alone() -> None:
    z, f = features(0), features(1)
    lengths = torch.rand(B, 1, dtype=torch.float64) + 0.1
    torch.testing.assert_close(direction_term(lengths * z, f), direction_term(z, f))
    assert direction_term(lengths * f, f) < 1e-30
    assert direction_term(-f, f) == pytest.approx(4 / D)


def test_covariance_term_is_that_of_numpy_s_covariance() -> None:
    z = features()
    covariance = torch.cov(z.T)
    expected = covariance[~torch.eye(D, dtype=torch.bool)].square().sum() / D
    torch.testing.assert_close(covariance_term(z), expected, rtol=1e-12, atol=0)


def test_covariance_term_ignores_shifts_grows_with_the_fourth_power_and_is_zero_for_uncorrelated_features() -> None:
    z = features()
    torch.testing.assert_close(covariance_term(z + features(1)[0]), covariance_term(z))
    torch.testing.assert_close(covariance_term(3 * z), 81 * covariance_term(z))
    q, _ = torch.linalg.qr(z - z.mean(dim=0))  # orthonormal columns of mean 0
    assert covariance_term(q * torch.arange(1.0, D + 1)) < 1e-28


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), rows=st.integers(2, 12), width=st.integers(2, 12))
def test_covariance_term_is_the_same_from_the_products_of_rows(seed: int, rows: int, width: int) -> None:
    z = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
    covariance = torch.cov(z.T)
    expected = covariance[~torch.eye(width, dtype=torch.bool)].square().sum() / width
    (slope,) = torch.autograd.grad(expected, z)
    term = covariance_term(z)
    torch.testing.assert_close(term, expected, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(torch.autograd.grad(term, z)[0], slope, rtol=1e-8, atol=1e-10)


def test_covariance_term_makes_nothing_of_the_size_of_the_features_squared() -> None:
    with LargestTensor() as largest:
        covariance_term(torch.randn(8, 100))
    assert largest.elements == 8 * 100


@pytest.mark.parametrize("rows", [200, 16])  # more and fewer than the features
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_covariance_term_of_half_precision_is_computed_in_single(dtype: torch.dtype, rows: int) -> None:
    z = 30 * torch.randn(rows, 32, generator=torch.Generator().manual_seed(0)) @ torch.ones(32, 32)
    z = z.to(dtype)
    expected = covariance_term(z.double())
    assert expected > torch.finfo(torch.float16).max
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [covariance_term(z), covariance_term(z.float())]
    for term in found:
        assert term.dtype == torch.float32
        torch.testing.assert_close(term.double(), expected, rtol=1e-5, atol=0)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), rows=st.integers(2, 12), width=st.integers(2, 12))
def test_singular_value_term_lies_between_its_bounds_whatever_the_scale(seed: int, rows: int, width: int) -> None:
    z = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    term = singular_value_term(z, 5)
    rank = min(rows, width)
    assert -1 / min(5, rank) - 1e-12 <= term <= -1 / rank + 1e-12
    torch.testing.assert_close(singular_value_term(100 * z, 5), term)


def test_singular_value_term_of_known_spectra() -> None:
    q, _ = torch.linalg.qr(features())
    torch.testing.assert_close(singular_value_term(q, 5), torch.tensor(-1 / D, dtype=torch.float64))
    sigma = torch.tensor([8.0, 4, 2, 1, 1, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(singular_value_term(q * sigma, 1), torch.tensor(-0.5, dtype=torch.float64))
    torch.testing.assert_close(singular_value_term(q * sigma, 2), torch.tensor(-6 / 16, dtype=torch.float64))


def test_gradient_of_the_sum_of_singular_values_is_u_v() -> None:
    """With k = 1, d(-sigma_1 / S) = -(u_1 v_1^T S - sigma_1 U V^T) / S^2."""
    z = features().requires_grad_()
    (gradient,) = torch.autograd.grad(singular_value_term(z, 1), z)
    u, sigma, vh = torch.linalg.svd(z.detach(), full_matrices=False)
    total = sigma.sum()
    expected = -(torch.outer(u[:, 0], vh[0]) * total - sigma[0] * (u @ vh)) / total**2
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


# the spectrum


@pytest.mark.parametrize(("rows", "width"), [(20, 6), (6, 6)])
def test_orthonormal_features_have_the_greatest_entropy_and_ratio(rows: int, width: int) -> None:
    q, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))
    spectrum = Spectrum(width)
    spectrum.update(q[torch.arange(rows) % width] if rows == width else q.repeat(rows // width, 1))
    sigma = spectrum.compute()
    assert float(singular_value_entropy(sigma)) == pytest.approx(math.log(width))
    assert float(largest_singular_value_ratio(sigma)) == pytest.approx(math.log(width))


def test_features_along_one_direction_have_neither() -> None:
    spectrum = Spectrum(5)
    spectrum.update(torch.arange(1.0, 9.0)[:, None] * torch.tensor([[1.0, 2, 3, 0, -1]]))
    sigma = spectrum.compute()
    assert float(singular_value_entropy(sigma)) == pytest.approx(0, abs=1e-5)
    assert float(largest_singular_value_ratio(sigma)) == pytest.approx(0, abs=1e-5)


def test_singular_values_are_those_of_all_features_with_rows_of_unit_length() -> None:
    f = features()
    whole, parts = Spectrum(D), Spectrum(D)
    whole.update(f)
    for part in f.split(5):
        parts.update(part)
    expected = torch.linalg.svdvals(f / f.norm(dim=1, keepdim=True)).flip(0)
    torch.testing.assert_close(whole.compute(), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(parts.compute(), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("center", ["none", "feature", "row"])
def test_centred_singular_values_are_those_of_the_centred_rows_over_any_batches(center: Center) -> None:
    f = features() + 3  # far from centred
    rows = f / f.norm(dim=1, keepdim=True)
    dims = {"feature": 0, "row": 1}
    if center in dims:
        rows = rows - rows.mean(dim=dims[center], keepdim=True)
    expected = torch.linalg.svdvals(rows).flip(0)
    spectrum = Spectrum(D, center)
    for start, stop in ((0, 5), (5, 6), (6, B)):
        spectrum.update(f[start:stop])
    torch.testing.assert_close(spectrum.compute(), expected, rtol=1e-8, atol=1e-7)
    with pytest.raises(ValueError, match="center must be one of none, feature, row, got 'rows'"):
        Spectrum(D, "rows")  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), rows=st.integers(2, 30), center=st.sampled_from(["none", "feature", "row"]))
def test_entropy_and_ratio_lie_between_their_bounds(seed: int, rows: int, center: Center) -> None:
    f = torch.randn(rows, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    spectrum = Spectrum(D, center)
    spectrum.update(f)
    sigma = spectrum.compute()
    for value in (singular_value_entropy(sigma), largest_singular_value_ratio(sigma)):
        assert -1e-6 <= value <= math.log(min(rows, D)) + 1e-4


# the module


def module(**options: Any) -> NMTune:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU())
    optimization = {
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        "lr_scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5),
    }
    return NMTune(encoder, num_features=16, num_classes=10, **{**optimization, **options})


def first_loss(tuned: NMTune) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Loss and gradients of the first step, and its batch."""
    seen: dict[str, Any] = {}

    def step(batch: Any, batch_idx: int) -> Any:
        seen["batch"] = dict(batch)
        seen["loss"] = (out := NMTune.training_step(tuned, batch, batch_idx))["loss"].detach()
        return out

    tuned.training_step = step  # type: ignore[method-assign]
    tuned.on_after_backward = lambda: seen.update(  # type: ignore[method-assign]
        gradients={name: p.grad.clone() for name, p in tuned.named_parameters() if p.grad is not None}
    )
    Trainer(max_epochs=1, limit_train_batches=1, **QUIET).fit(tuned, datamodule=tuning_digits(64))
    return seen["loss"], seen["gradients"], seen["batch"]


def test_loss_is_the_weighted_sum_of_the_equations() -> None:
    tuned = module(direction_weight=0.7, covariance_weight=0.3, singular_value_weight=0.2, num_singular_values=3)
    before = copy.deepcopy(tuned).double().train()
    loss, _, batch = first_loss(tuned)
    encoder, adapter, classifier = before.network
    f = encoder(batch["image"])
    z = adapter(f)
    expected = (
        F.cross_entropy(classifier(z), batch["label"])
        + 0.7 * direction_term(z, f)
        + 0.3 * covariance_term(z)
        + 0.2 * singular_value_term(z, 3)
    )
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)


def test_without_weights_it_is_cross_entropy_of_the_residual_perceptron() -> None:
    tuned = module(direction_weight=0.0, covariance_weight=0.0, singular_value_weight=0.0)
    before = copy.deepcopy(tuned).double().train()
    loss, gradients, batch = first_loss(tuned)
    expected = F.cross_entropy(before(batch["image"]), batch["label"])
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    own = {name: p.grad for name, p in before.named_parameters() if p.grad is not None}
    assert gradients.keys() == own.keys()
    for name, gradient in own.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-10, atol=1e-14, msg=name)


@pytest.mark.parametrize(
    ("options", "computed"),
    [
        ({"direction_weight": 0.0, "covariance_weight": 0.0, "singular_value_weight": 0.0}, set()),
        ({"direction_weight": 0.0}, {"covariance_term", "singular_value_term"}),
        ({"adapter": False}, set()),
        ({}, {"direction_term", "covariance_term", "singular_value_term"}),
    ],
)
def test_only_terms_that_count_are_computed_and_logged(
    options: dict[str, Any], computed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: set[str] = set()
    for name in ("direction_term", "covariance_term", "singular_value_term"):
        own = getattr(nmtune, name)
        monkeypatch.setattr(nmtune, name, lambda *args, name=name, own=own: called.add(name) or own(*args))
    tuned = module(**options)
    trainer = Trainer(max_epochs=1, limit_train_batches=1, **QUIET)
    trainer.fit(tuned, datamodule=tuning_digits(64))
    assert called == computed
    logged = {name for name in trainer.callback_metrics if name.startswith("train/")}
    assert logged == {
        "train/loss",
        "train/cross_entropy",
        *(f"train/{name.removesuffix('_term')}" for name in computed),
    }


def test_a_term_of_weight_zero_can_not_spoil_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nmtune, "singular_value_term", lambda *args: torch.tensor(torch.nan))
    assert first_loss(module(singular_value_weight=0.0))[0].isfinite()


def test_adapter_is_the_equation_and_with_scale_zero_it_is_linear_probing() -> None:
    adapter = Adapter(D, 4).double().eval()
    f = features()
    first, norm, _, last = adapter.layers
    assert isinstance(first, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(last, nn.Linear)
    hidden = (f @ first.weight.T + first.bias) / math.sqrt(1 + norm.eps)  # fresh statistics: mean 0, variance 1
    torch.testing.assert_close(adapter(f), hidden.relu() @ last.weight.T + last.bias + f)
    assert first.out_features == 4 * D
    nn.init.zeros_(adapter.scale)
    assert torch.equal(adapter(f), f)


def test_the_encoder_is_bit_for_bit_what_it_was_and_the_rest_is_trained() -> None:
    tuned = module()
    before = copy.deepcopy(tuned.state_dict())
    Trainer(max_epochs=2, **QUIET).fit(tuned, datamodule=tuning_digits(64))
    tuned.train()
    assert not tuned.encoder.training
    for name, value in tuned.state_dict().items():
        assert torch.equal(value, before[name].to(value.dtype)) == name.startswith("network.encoder"), name
    assert not any(parameter.requires_grad for parameter in tuned.encoder.parameters())


def test_linear_probing_trains_the_classifier_alone() -> None:
    probe = module(adapter=False)
    _, gradients, batch = first_loss(probe)
    assert set(gradients) == {"network.classifier.weight", "network.classifier.bias"}
    f = probe.encoder(batch["image"])
    assert torch.equal(probe(batch["image"]), probe.network[2](f))


def test_learning_rate_follows_the_cosine_from_its_first_value_and_ends_above_zero() -> None:
    tuned = module()
    rates: list[float] = []
    tuned.on_train_epoch_start = lambda: rates.append(tuned.trainer.optimizers[0].param_groups[0]["lr"])  # type: ignore[method-assign]
    Trainer(max_epochs=5, **QUIET).fit(tuned, datamodule=tuning_digits(64))
    assert rates == pytest.approx([1e-2 * (1 + math.cos(math.pi * epoch / 5)) / 2 for epoch in range(5)])
    assert rates[0] == 1e-2
    assert rates[-1] > 0


def test_learning_rate_of_a_schedule_by_steps_is_the_authors_cosine_over_all_steps() -> None:
    """lr_k = lr (1 + cos(pi k / K)) / 2; 400 images in batches of 64 are 7 steps an epoch."""
    steps = 14
    tuned = module(lr_scheduler=lambda optimizer: CosineOverSteps(optimizer, T_max=steps))
    rates: list[float] = []
    tuned.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])  # type: ignore[method-assign]
    Trainer(max_epochs=2, **QUIET).fit(tuned, datamodule=tuning_digits(64))
    assert rates == pytest.approx([1e-2 * (1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps)])


@pytest.mark.parametrize(
    ("config", "images"),
    [
        *(("cifar10", 50_000), ("cifar10_cached", 50_000), ("cifar10_vit", 50_000)),
        *(("cifar10_vit_linear_probe", 50_000), ("domain_net", 120_906), ("imagenet_shift", 1_281_167)),
    ],
)
def test_the_cosine_of_the_paper_s_experiments_ends_with_the_last_batch(config: str, images: int) -> None:
    path = Path(__file__).resolve().parents[3] / f"configs/nmtune/{config}.yaml"
    experiment = whole(path)
    model, data = (experiment[key]["init_args"] for key in ("model", "data"))
    batch_size = data.get("data", {"init_args": data})["init_args"]["batch_size"]
    assert model["lr_scheduler"]["class_path"] == "lightning_modules.training.schedules.CosineOverSteps"
    batches = math.ceil(images / batch_size)
    assert model["lr_scheduler"]["init_args"]["T_max"] == batches * experiment["trainer"]["max_epochs"]
    assert f"{batches:,} batches of {batch_size} in each of 30" in path.read_text() or config == "cifar10_cached"


def test_the_linear_probe_sees_one_unaugmented_row_an_image() -> None:
    path = Path(__file__).resolve().parents[3] / "configs/nmtune/cifar10_vit_linear_probe.yaml"
    experiment = whole(path)
    assert experiment["model"]["init_args"]["network"]["init_args"]["mode"] == "bicubic"
    assert not {"augmentation", "second_view"} & set(experiment["data"]["init_args"])


def test_a_step_with_two_views_is_that_of_the_authors_code() -> None:
    tuned = module(direction_weight=0.7, covariance_weight=0.3, singular_value_weight=0.2).double().train()
    tuned.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    random = torch.Generator().manual_seed(0)
    w, s = torch.rand(2, 20, 1, 8, 8, generator=random, dtype=torch.float64)
    y = torch.randint(10, (20,), generator=random)
    reference = copy.deepcopy(tuned)
    batch: Any = {"image": w, "second_view": s, "label": y, "index": torch.arange(20), "global_size": 20}
    out = tuned.training_step(batch, 0)
    encoder, adapter, classifier = reference.network
    f = encoder(torch.cat([w, s])).detach()
    z = adapter(f)
    logits = classifier(z)
    cosine = F.cosine_similarity(z[20:], f[:20])
    centred = z - z.mean(dim=0)
    covariance = centred.T @ centred / 39
    sigma = torch.linalg.svdvals(z)
    expected = (
        -logits.log_softmax(dim=1)[torch.arange(40), torch.cat([y, y])].mean()
        + 0.7 * 2 / 16 * (1 - cosine).mean()
        + 0.3 * covariance[~torch.eye(16, dtype=torch.bool)].square().sum() / 16
        - 0.2 * (sigma[:5] / sigma.sum()).mean()
    )
    torch.testing.assert_close(out["loss"], expected, rtol=1e-10, atol=0)
    assert torch.equal(out["logits"], logits[:20])
    assert not out["logits"].requires_grad


def test_tested_spectra_are_those_of_all_test_features(tmp_path: Path) -> None:
    metrics = {}
    for processes in (1, 2):
        strategy = "ddp_fork" if processes > 1 else "auto"
        trainer = Trainer(devices=processes, strategy=strategy, default_root_dir=tmp_path, **QUIET)
        (metrics[processes],) = trainer.test(module().double(), datamodule=tuning_digits(100), verbose=False)
    assert metrics[2] == pytest.approx(metrics[1], abs=1e-6)
    tuned = module().double().eval()
    source = TuningDigits().test()
    f = tuned.encoder(source.image.double() / 16)
    for suffix, value in (("", f), ("_tuned", tuned.network[1](f))):
        p = torch.linalg.svdvals(F.normalize(value, dim=1))
        p = p / p.sum()
        entropy = -(p * p.clamp(min=1e-300).log()).sum()
        assert metrics[1][f"test/sve{suffix}"] == pytest.approx(entropy.item(), abs=1e-5)
        assert metrics[1][f"test/lsvr{suffix}"] == pytest.approx(-math.log(p[0]), abs=1e-5)


def test_a_test_runs_the_encoder_once_for_each_image() -> None:
    tuned = module()
    images: list[int] = []
    tuned.encoder.register_forward_hook(lambda encoder, args, output: images.append(len(output)))
    Trainer(**QUIET).test(tuned, datamodule=tuning_digits(100), verbose=False)
    assert sum(images) == 797


def test_the_spectra_are_written_and_drawn(tmp_path: Path) -> None:
    tuned = module(center="row")
    options = {**QUIET, "logger": CSVLogger(tmp_path, name="", version="")}
    trainer = Trainer(callbacks=[Measurements()], **options)
    (metrics,) = trainer.test(tuned, datamodule=tuning_digits(100), verbose=False)
    table = pd.read_csv(tmp_path / "spectrum.csv")
    assert list(table) == ["features", "position", "singular_value", "share"]
    for name, suffix in (("encoder", ""), ("tuned", "_tuned")):
        own = table[table["features"] == name]
        assert own["position"].tolist() == list(range(1, 17))
        assert own["singular_value"].is_monotonic_decreasing
        assert own["share"].sum() == pytest.approx(1)
        assert -math.log(own["share"].iloc[0]) == pytest.approx(metrics[f"test/lsvr{suffix}"], abs=1e-5)
        assert -(own["share"] * own["share"].clip(1e-300).map(math.log)).sum() == pytest.approx(
            metrics[f"test/sve{suffix}"], abs=1e-5
        )
    assert (tmp_path / "figures/spectrum.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TypeError, match="Measurements needs a TableSource, and CrossEntropy lacks tables"):
        trainer.test(CrossEntropy(MLP(64, [8], 10), 10), datamodule=tuning_digits(), verbose=False)


def test_two_processes_train_the_linear_probe_of_one() -> None:
    """Without the adapter, whose batch statistics are a process's own; 400 images in batches of 67: the last has 65."""
    trained = []
    for processes in (1, 2):
        probe = module(adapter=False, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)).double()
        strategy = "ddp_fork" if processes > 1 else "auto"
        Trainer(max_epochs=2, devices=processes, strategy=strategy, **QUIET).fit(probe, datamodule=tuning_digits(67))
        trained.append(probe.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=0, atol=1e-10, msg=name)
    assert not torch.equal(trained[0]["network.classifier.bias"], torch.zeros(10, dtype=torch.float64))


def test_without_head_gives_what_the_last_layer_is_given() -> None:
    network = MLP(64, [32, 8], 6)
    image = torch.rand(3, 1, 8, 8)
    logits, last = network(image), network.layers[-1]
    names = set(network.state_dict())
    f = without_head(network)(image)
    assert f.shape == (3, 8)
    torch.testing.assert_close(last(f), logits)
    assert names - set(network.state_dict()) == {"layers.4.weight", "layers.4.bias"}
    with pytest.raises(ValueError, match="Flatten has none"):
        without_head(nn.Flatten())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("direction_weight", -1.0), ("covariance_weight", -1.0), ("singular_value_weight", -1.0)),
        *(("adapter_ratio", 0), ("num_singular_values", 0)),
    ],
)
def test_bad_arguments_are_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{key} must be at least ., got {value}"):
        module(**{key: value})
