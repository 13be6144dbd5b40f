"""The module: stored sample norms, exact layers, adapters, precision, and rejections."""

import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.backbones.adaptation import Adapters, adapt
from lightning_modules.efficiency.wta_crs import WTACRS, module
from lightning_modules.efficiency.wta_crs.compact import CompactNorm
from tests.conformance.test_full_scale import Trainer
from tests.efficiency.wta_crs.networks import vit
from tests.trainers import quiet


def descent(lr: float = 0.0) -> Any:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def digits(batch_size: int = 16) -> LabelledImages:
    return LabelledImages(Digits(train_size=200, num_classes=3), batch_size=batch_size)


def small(**arguments: Any) -> WTACRS:
    torch.manual_seed(0)
    return WTACRS(vit(), num_classes=3, **{"layers": ["blocks.*"], "optimizer": descent(), **arguments})


def own_norms(network: Any, image: Tensor, label: Tensor, layer: str) -> Tensor:
    """Return the norms `[B, N]` of the gradients of each sample's loss with respect to a layer's outputs."""
    found: list[Tensor] = []
    network.eval()  # the plain layers

    def watch(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.register_hook(lambda gradient: found.append(gradient.norm(dim=-1)))

    handle = network.get_submodule(layer).register_forward_hook(watch)
    F.cross_entropy(network(image), label, reduction="sum").backward()
    handle.remove()
    return found[0]


@pytest.mark.parametrize(("batch_size", "accumulated"), [(16, 1), (7, 1), (16, 2)])
def test_the_norms_are_those_of_each_samples_own_loss_in_bfloat16(batch_size: int, accumulated: int) -> None:
    model, data = small(), digits(batch_size)
    trainer = quiet(max_epochs=1, limit_train_batches=2, accumulate_grad_batches=accumulated)
    trainer.fit(model, datamodule=data)
    checkpoint: dict[str, Any] = {}
    model.on_save_checkpoint(checkpoint)
    rows = checkpoint["gradient_norms"]["rows"]
    assert rows.dtype == torch.bfloat16
    seen = rows.float().amax(dim=1) > 0
    assert int(seen.sum()) == 2 * batch_size
    assert data.train_set is not None
    image = data.train_set.source.fetch(data.train_set.row, None).float() / 16
    widths = checkpoint["gradient_norms"]["widths"]
    starts = torch.tensor([0, *widths]).cumsum(0).tolist()
    for place, name in ((0, "blocks.0.attn.qkv"), (5, "blocks.1.attn.proj"), (7, "blocks.1.mlp.fc2")):
        assert model.sampler.products[place].name == name
        expected = own_norms(model.network, image, data.train_set.label, name)
        kept = rows[:, starts[place] : starts[place + 1]].float()
        torch.testing.assert_close(kept[seen], expected[seen], rtol=2**-7, atol=1e-6)


def test_a_checkpoint_says_which_normalisations_keep_their_inputs() -> None:
    model = small(compact=True)
    quiet(max_epochs=1, limit_train_batches=1).fit(model, datamodule=digits())
    layers = [each for each in model.network.modules() if isinstance(each, CompactNorm)]
    layers[1].reads_back = False
    checkpoint: dict[str, Any] = {}
    model.on_save_checkpoint(checkpoint)
    layers[1].reads_back = True
    model.on_load_checkpoint(checkpoint)
    assert [layer.reads_back for layer in layers[:3]] == [True, False, True]


def test_the_next_visit_knows_what_the_last_one_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, known = small(), {}  # a rate of zero, so that every epoch measures the same values
    step = model.training_step

    def noted(batch: Any, batch_idx: int) -> Any:
        norms = model.sampler.known
        for row, index in enumerate(batch["index"].tolist()):
            known[model.trainer.current_epoch, index] = None if norms is None else norms[row]
        return step(batch, batch_idx)

    monkeypatch.setattr(model, "training_step", noted)
    quiet(max_epochs=2, limit_train_batches=3).fit(model, datamodule=digits())
    model.on_save_checkpoint({})
    rows = model.gradient_norms.gather().float()
    again = {index: norms for (epoch, index), norms in known.items() if epoch == 1}
    assert 0 < sum((0, index) in known for index in again) < len(again)
    for index, norms in again.items():
        expected = rows[index] if (0, index) in known else torch.zeros_like(rows[index])
        torch.testing.assert_close(norms, expected, rtol=2**-7, atol=0)


def test_all_tokens_are_exact_fine_tuning() -> None:
    torch.manual_seed(0)
    plain = vit()
    plain.load_state_dict(small().network.state_dict())
    batch: Any = {"image": torch.rand(4, 1, 8, 8), "label": torch.tensor([0, 1, 2, 0]), "index": torch.arange(4)}
    expected = torch.autograd.grad(F.cross_entropy(plain(batch["image"]), batch["label"]), list(plain.parameters()))
    for arguments, same in (({"ratio": 1.0, "attention": ["*.attn"], "compact": True}, True), ({}, False)):
        model = small(**arguments)
        model.log = lambda *arguments, **options: None  # type: ignore[method-assign]
        model.trainer = standing()
        model.on_train_batch_start({**batch, "global_batch_size": 4}, 0)
        loss = model.training_step({**batch, "global_batch_size": 4}, 0)["loss"]
        found = torch.autograd.grad(loss, list(model.network.parameters()))
        alike = [torch.allclose(one, other, atol=1e-6) for one, other in zip(found, expected, strict=True)]
        assert all(alike) == same


def standing(**attributes: Any) -> Any:
    trainer = Trainer(types.SimpleNamespace(accumulate_grad_batches=1, max_epochs=1), data=None)
    for key, value in attributes.items():
        setattr(trainer, key, value)
    return trainer


def test_the_scale_of_half_precision_is_taken_out_and_overflows_are_not_kept() -> None:
    model = small()
    model.log = lambda *arguments, **options: None  # type: ignore[method-assign]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    data = types.SimpleNamespace(num_train_samples=4)
    model.trainer = standing(precision_plugin=types.SimpleNamespace(scaler=scaler), datamodule=data)
    model.on_fit_start()
    batch: Any = {"image": torch.rand(4, 1, 8, 8), "label": torch.tensor([0, 1, 2, 0]), "index": torch.arange(4)}
    batch["global_batch_size"] = 4
    kept = []
    for scale in (1.0, 1024.0, torch.inf):
        model.on_train_batch_start(batch, 0)
        loss = model.training_step(batch, 0)["loss"]
        (scale * loss).backward()
        if scale == 1:
            assert model._unstored is not None
            model._unstored = (*model._unstored[:2], 1.0)
        model._store()
        kept.append(model.gradient_norms.gather().float().clone())
    torch.testing.assert_close(kept[1], kept[0], rtol=1e-2, atol=0)
    assert not kept[2].any()


def test_adapters_alone_are_sampled() -> None:
    network = adapt(vit(), tuning="lora", adapters=Adapters(rank=2), trainable=["head"])
    model = WTACRS(network, 3, layers=["*.lora_A.default"], optimizer=descent(0.1))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    quiet(max_epochs=2, limit_train_batches=2).fit(model, datamodule=digits())
    assert len(model.sampler.products) == 8
    assert all(width == 17 for width in model.sampler.widths)
    moved = {name for name, value in network.state_dict().items() if not value.equal(before[name])}
    assert moved
    assert all("lora_" in name or name.startswith("head.") for name in moved)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layers": ["blocks.*.fc9"]},
            r"layers: 'blocks.\*.fc9' matches no Linear of VisionTransformer; it has: .*mlp.fc1",
        ),
        (
            {"attention": ["*.attention"]},
            r"attention: '\*.attention' matches no Module of VisionTransformer; it has: .*attn",
        ),
    ],
)
def test_what_does_not_fit_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_a_frozen_layer_is_named() -> None:
    network = vit()
    network.get_submodule("blocks.0.mlp").requires_grad_(False)
    with pytest.raises(ValueError, match=r"layers: blocks.0.mlp.fc1 is frozen"):
        WTACRS(network, 3, layers=["*.fc1"])


def test_other_processes_and_checkpoints_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(shares=3)
    monkeypatch.setattr(module, "world_size", lambda: 2)
    with pytest.raises(ValueError, match="shares must be a multiple of 2, the number of processes, got 3"):
        model.on_fit_start()
    with pytest.raises(ValueError, match="select 8 products, but the checkpoint has 2"):
        model.on_load_checkpoint(
            {"gradient_norms": {"rows": torch.zeros(1, 4), "widths": [2, 2]}, "gradient_errors": {}}
        )


def test_head_stays_a_plain_layer() -> None:
    kinds = {name: type(layer) for name, layer in small().network.named_modules() if isinstance(layer, nn.Linear)}
    assert [name for name, kind in kinds.items() if kind is nn.Linear] == ["head"]
