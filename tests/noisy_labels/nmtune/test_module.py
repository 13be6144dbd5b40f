import copy
import functools
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from callbacks.save_tables import SaveTables
from datamodules.classification.digits import TuningDigits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.backbones.layer_features import without_head
from lightning_modules.networks.mlp import MLP
from lightning_modules.noisy_labels.nmtune import module as nmtune
from lightning_modules.noisy_labels.nmtune.module import (
    FeatureAdapter,
    NMTune,
    covariance_term,
    direction_term,
    singular_value_term,
)
from lightning_modules.optim.schedules import CosineOverSteps
from tests.configurations import whole
from tests.largest_tensor import LargestTensor
from tests.trainers import quiet

B, D = 12, 7
in_double = functools.partial(quiet, precision="64-true")


def tuning_digits(batch_size: int = 64) -> LabelledImages:
    return LabelledImages(TuningDigits(), batch_size)


def features(seed: int = 0) -> Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


@pytest.mark.parametrize("rows", [200, 16])  # more and fewer rows than features
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


class WordCounts(nn.Module):
    """Encodes tokenized texts by the counts of 16 words."""

    def forward(self, text: dict[str, Tensor]) -> Tensor:
        return nn.functional.one_hot(text["input_ids"], 16).double().sum(dim=1)


def test_a_step_on_texts_is_that_on_their_features() -> None:
    label = torch.tensor([0, 1, 2, 1, 0, 2])
    text = {"input_ids": torch.randint(0, 16, (6, 9), generator=torch.Generator().manual_seed(1))}
    losses = []
    for network, batch in ((WordCounts(), {"text": text}), (nn.Identity(), {"image": WordCounts()(text)})):
        torch.manual_seed(0)
        tuned = NMTune(network, num_features=16, num_classes=3).double()
        tuned.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
        losses.append(tuned.training_step({**batch, "label": label, "index": label}, 0)["loss"])
    assert losses[0] > 0
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)


def module(**options: Any) -> NMTune:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU())
    optimization = {
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        "lr_scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5),
    }
    return NMTune(encoder, num_features=16, num_classes=10, **{**optimization, **options})


def first_loss(tuned: NMTune) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Return the loss, the gradients and the batch of the first training step."""
    seen: dict[str, Any] = {}

    def step(batch: Any, batch_idx: int) -> Any:
        seen["batch"] = dict(batch)
        seen["loss"] = (out := NMTune.training_step(tuned, batch, batch_idx))["loss"].detach()
        return out

    tuned.training_step = step  # type: ignore[method-assign]
    tuned.on_after_backward = lambda: seen.update(  # type: ignore[method-assign]
        gradients={name: p.grad.clone() for name, p in tuned.named_parameters() if p.grad is not None}
    )
    in_double(max_epochs=1, limit_train_batches=1).fit(tuned, datamodule=tuning_digits(64))
    return seen["loss"], seen["gradients"], seen["batch"]


def test_adapter_is_the_equation_and_with_scale_zero_it_is_linear_probing() -> None:
    adapter = FeatureAdapter(D, 4).double().eval()
    f = features()
    first, norm, _, last = adapter.layers
    assert isinstance(first, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(last, nn.Linear)
    hidden = (f @ first.weight.T + first.bias) / math.sqrt(1 + norm.eps)  # running statistics 0 and 1
    torch.testing.assert_close(adapter(f), hidden.relu() @ last.weight.T + last.bias + f)
    assert first.out_features == 4 * D
    nn.init.zeros_(adapter.scale)
    assert torch.equal(adapter(f), f)


def test_the_encoder_is_bit_for_bit_what_it_was_and_the_rest_is_trained() -> None:
    tuned = module()
    before = copy.deepcopy(tuned.state_dict())
    in_double(max_epochs=2).fit(tuned, datamodule=tuning_digits(64))
    tuned.train()
    assert not tuned.encoder.training
    for name, value in tuned.state_dict().items():
        assert torch.equal(value, before[name].to(value.dtype)) == name.startswith("network.encoder"), name
    assert not any(parameter.requires_grad for parameter in tuned.encoder.parameters())


def test_linear_probing_trains_the_classifier_alone() -> None:
    probe = module(adapter=False)
    before = copy.deepcopy(probe).double().train()
    loss, gradients, batch = first_loss(probe)
    torch.testing.assert_close(loss, F.cross_entropy(before(batch["image"]), batch["label"]).detach())
    assert set(gradients) == {"network.classifier.weight", "network.classifier.bias"}
    f = probe.encoder(batch["image"])
    assert torch.equal(probe(batch["image"]), probe.network[2](f))


def test_learning_rate_of_a_schedule_by_steps_is_the_authors_cosine_over_all_steps() -> None:
    """In step k, lr_k = lr (1 + cos(pi k / K)) / 2; 400 images in batches of 64 give 7 steps per epoch."""
    steps = 14
    tuned = module(lr_scheduler=lambda optimizer: CosineOverSteps(optimizer, T_max=steps))
    rates: list[float] = []
    tuned.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])  # type: ignore[method-assign]
    in_double(max_epochs=2).fit(tuned, datamodule=tuning_digits(64))
    assert rates == pytest.approx([1e-2 * (1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps)])


@pytest.mark.parametrize(
    ("config", "images"),
    [
        *(("cifar10", 50_000), ("cifar10_cached", 50_000)),
        *(("cifar10_vit_linear_probe", 50_000), ("domain_net", 120_906), ("imagenet_shift", 1_281_167)),
    ],
)
def test_the_cosine_of_the_paper_s_experiments_ends_with_the_last_batch(config: str, images: int) -> None:
    path = Path(__file__).resolve().parents[3] / f"configs/nmtune/{config}.yaml"
    experiment = whole(path)
    model, data = (experiment[key]["init_args"] for key in ("model", "data"))
    batch_size = data.get("data", {"init_args": data})["init_args"]["batch_size"]
    assert model["lr_scheduler"]["class_path"] == "lightning_modules.optim.schedules.CosineOverSteps"
    batches = math.ceil(images / batch_size)
    assert model["lr_scheduler"]["init_args"]["T_max"] == batches * experiment["trainer"]["max_epochs"]
    said = " ".join(path.read_text().replace("\n#", "").split())
    assert f"Each of the 30 epochs has {batches:,} batches of {batch_size}" in said or config == "cifar10_cached"


def test_the_linear_probe_sees_one_unaugmented_row_an_image() -> None:
    path = Path(__file__).resolve().parents[3] / "configs/nmtune/cifar10_vit_linear_probe.yaml"
    experiment = whole(path)
    assert experiment["model"]["init_args"]["network"]["init_args"]["mode"] == "bicubic"
    assert not {"augmentation", "second_view"} & set(experiment["data"]["init_args"])


def test_direction_term_is_two_over_d_times_one_minus_the_mean_cosine() -> None:
    z, f = features(0), features(1)
    expected = 2 / D * (1 - F.cosine_similarity(z, f).mean())
    torch.testing.assert_close(direction_term(z, f), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("weights", [(0.7, 0.3, 0.2), (0.0, 0.0, 0.0), (0.0, 0.3, 0.0)])
def test_value_and_gradients_of_a_step_are_the_equations(
    weights: tuple[float, float, float], views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two views, the step is that of the authors' code; terms with weight zero are not computed and may be NaN."""
    for weight, term in zip(weights, ("direction_term", "covariance_term", "singular_value_term"), strict=True):
        if weight == 0:
            monkeypatch.setattr(nmtune, term, lambda *args: torch.tensor(torch.nan))
    a, b, c = weights
    tuned = module(direction_weight=a, covariance_weight=b, singular_value_weight=c, num_singular_values=3)
    tuned.double().train()
    logged: dict[str, Tensor] = {}
    tuned.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign, assignment]
    reference = copy.deepcopy(tuned)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(20 * views, 1, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(10, (20,), generator=generator)
    batch: Any = {"image": image[:20], "label": y, "index": torch.arange(20), "global_batch_size": 20}
    out = tuned.training_step(batch | ({"second_view": image[20:]} if views == 2 else {}), 0)
    encoder, adapter, classifier = reference.network
    f = encoder(image).detach()
    z = adapter(f)
    logits = classifier(z)
    terms = {
        "direction": 2 / 16 * (1 - F.cosine_similarity(z[-20:], f[:20]).mean()),
        "covariance": torch.cov(z.T)[~torch.eye(16, dtype=torch.bool)].square().sum() / 16,
        "singular_value": -(torch.linalg.svdvals(z)[:3] / torch.linalg.svdvals(z).sum()).mean(),
    }
    counted = {name: weight for name, weight in zip(terms, weights, strict=True) if weight}
    expected = F.cross_entropy(logits, y.repeat(views)) + sum(w * terms[name] for name, w in counted.items())
    torch.testing.assert_close(out["loss"], expected, rtol=1e-10, atol=0)
    found, derived = (
        torch.autograd.grad(loss, [parameter for parameter in each.parameters() if parameter.requires_grad])
        for loss, each in ((out["loss"], tuned), (expected, reference))
    )
    torch.testing.assert_close(found, derived, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(out["logits"], logits[:20].detach())
    assert set(logged) == {"train/loss", "train/cross_entropy", *(f"train/{name}" for name in counted)}


def test_tested_spectra_are_those_of_all_test_features_and_are_written(tmp_path: Path) -> None:
    metrics = {}
    tuned, images = module().double(), []
    for processes in (1, 2):
        options: dict[str, Any] = {"default_root_dir": tmp_path}
        if processes == 1:
            tuned.encoder.register_forward_hook(lambda encoder, args, output: images.append(len(output)))
            options |= {"logger": CSVLogger(tmp_path, name="", version=""), "callbacks": [SaveTables()]}
        trainer = in_double(devices=processes, strategy="ddp_fork" if processes > 1 else "auto", **options)
        each = tuned if processes == 1 else module().double()
        (metrics[processes],) = trainer.test(each, datamodule=tuning_digits(100), verbose=False)
    assert sum(images) == 797  # the encoder runs once per image
    assert metrics[2] == pytest.approx(metrics[1], abs=1e-6)
    table = pd.read_csv(tmp_path / "spectrum.csv")
    assert list(table) == ["features", "position", "singular_value", "share"]
    f = tuned.eval().encoder(TuningDigits().test().image.double() / 16)
    for name, suffix, value in (("encoder", "", f), ("tuned", "_tuned", tuned.network[1](f))):
        sigma = torch.linalg.svdvals(F.normalize(value, dim=1)).detach()
        p = sigma / sigma.sum()
        assert metrics[1][f"test/sve{suffix}"] == pytest.approx(-float(torch.special.xlogy(p, p).sum()), abs=1e-5)
        assert metrics[1][f"test/lsvr{suffix}"] == pytest.approx(-math.log(p[0]), abs=1e-5)
        own = table[table["features"] == name]
        assert own["position"].tolist() == list(range(1, 17))
        assert own["singular_value"].tolist() == pytest.approx(sigma.tolist(), abs=1e-5)
        assert own["share"].tolist() == pytest.approx(p.tolist(), abs=1e-5)
    assert (tmp_path / "figures/spectrum.png").read_bytes().startswith(b"\x89PNG")


def test_without_head_gives_what_the_last_layer_is_given() -> None:
    network, image = MLP(64, [32, 8], 6), torch.rand(3, 1, 8, 8)
    logits, last, names = network(image), network.layers[-1], set(network.state_dict())
    torch.testing.assert_close(last(without_head(network)(image)), logits)
    assert names - set(network.state_dict()) == {"layers.4.weight", "layers.4.bias"}
    with pytest.raises(ValueError, match="Flatten has none"):
        without_head(nn.Flatten())
