import copy
import pickle
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.backbones import (
    Normalized,
    adapt,
    compile_in_place,
    frozen,
    in_dtype,
    with_gradient_checkpointing,
    with_lora,
)
from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.networks.mlp import MLP
from lightning_modules.networks.wide_resnet import WideResNet
from tests.networks.compared import gradients, same, trains


def moved(network: nn.Module, image: Tensor) -> set[str]:
    """Take one optimiser step in training mode, and return the names of the changed tensors."""
    before = copy.deepcopy(network.train().state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    network(image).square().mean().backward()
    optimizer.step()
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def test_a_frozen_network_survives_its_parents_training_bit_by_bit() -> None:
    network = nn.Sequential(frozen(CIFARResNet(8)), nn.Linear(10, 10))
    assert moved(network, torch.rand(4, 3, 8, 8)) == {"1.weight", "1.bias"}
    assert not any(module.training for module in network[0].modules())
    assert network[1].training


def test_what_stays_trainable_in_a_frozen_network_trains() -> None:
    network = frozen(CIFARResNet(8), trainable=["layer3", "linear"])
    assert {name.split(".")[0] for name in moved(network, torch.rand(4, 3, 8, 8))} == {"layer3", "linear"}
    assert network.layer3.training
    assert not network.layer3.eval().training
    assert not network.layer2.training


@pytest.mark.parametrize("duplicated", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_of_a_frozen_network_is_frozen_by_itself(duplicated: Any) -> None:
    original = frozen(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)), trainable=["1"])
    duplicate = duplicated(original)
    original.eval()
    assert duplicate.train() is duplicate
    assert (duplicate[0].training, duplicate[1].training, original[1].training) == (False, True, False)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 3 / 4), (True, 3 / 2)])
def test_rank_stabilised_adapters_are_scaled_by_the_root_of_the_rank(rslora: bool, scale: float) -> None:
    layer: Any = with_lora(MLP(6, [5], 3).double(), Adapters(4, ["layers.0"], 3, rslora=rslora)).layers[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(4, 6, dtype=torch.float64)
    weight = layer.base_layer.weight + scale * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(layer(x), x @ weight.T + layer.base_layer.bias, rtol=1e-12, atol=1e-12)


def test_dropout_zeroes_inputs_of_adapters_in_training_only() -> None:
    layer: Any = with_lora(MLP(6, [5], 3).double(), Adapters(4, ["layers.0"], 3, dropout=0.25)).layers[0]
    a, b = (getattr(layer, f"lora_{name}")["default"].weight for name in ("A", "B"))
    nn.init.normal_(b)
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.manual_seed(1)
    output = layer.train()(x)
    torch.manual_seed(1)
    kept = torch.empty_like(x).bernoulli_(0.75) / 0.75
    assert 0 < int((kept == 0).sum()) < kept.numel()
    torch.testing.assert_close(output, layer.base_layer(x) + 3 / 4 * (x * kept) @ a.T @ b.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.eval()(x), layer.base_layer(x) + 3 / 4 * x @ a.T @ b.T, rtol=1e-12, atol=1e-12)


def test_dora_rescales_rows_to_trained_norms_and_its_gradient_keeps_their_own_norms_constant() -> None:
    layer: Any = with_lora(MLP(6, [5], 3).double(), Adapters(2, ["layers.0"], 3, dora=True)).layers[0]
    a, b, m = (getattr(layer, f"lora_{name}")["default"].weight for name in ("A", "B", "magnitude_vector"))
    w, bias, x = layer.base_layer.weight, layer.base_layer.bias, torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(m, w.square().sum(dim=1).sqrt(), rtol=1e-12, atol=0)
    nn.init.normal_(b)
    nn.init.uniform_(m, 1, 2)
    direction = w + 3 / 2 * b @ a
    constant = direction.detach().square().sum(dim=1).sqrt()
    expected = x @ (direction * (m / constant)[:, None]).T + bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(expected.sin().sum(), (a, b, m))
    found = torch.autograd.grad(layer(x).sin().sum(), (a, b, m))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_dora_of_a_half_precision_network_begins_with_its_output() -> None:
    torch.manual_seed(0)
    half = MLP(6, [50], 3).bfloat16()
    x = torch.randn(7, 6)
    expected = copy.deepcopy(half).float()(x)
    network = with_lora(half, Adapters(2, dora=True))
    layer: Any = network.layers[0]
    magnitude = layer.lora_magnitude_vector["default"].weight
    assert magnitude.dtype == torch.float32
    torch.testing.assert_close(magnitude, layer.base_layer.weight.float().norm(dim=1), rtol=1e-6, atol=0)
    for module in network.modules():
        if hasattr(module, "base_layer"):
            module.base_layer.float()
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)


def test_with_adapters_the_output_is_at_first_that_of_the_network_and_only_they_train() -> None:
    network = MLP(6, [5, 4], 3)
    x = torch.randn(7, 6)
    expected = network(x)
    with_lora(network, Adapters(2))
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-6)
    expected = {f"layers.{i}.lora_{m}.default.weight" for i in (0, 2, 4) for m in "AB"}
    assert trains(network) == expected
    assert moved(network, x) | moved(network, x) == expected  # B is zero at first, so A changes only in the second step


def test_adapted_convolutions_leave_the_statistics_of_batch_normalisation() -> None:
    network = with_lora(CIFARResNet(8), Adapters(2, ["conv1", "conv2"]), trainable=["linear"])
    assert not any("running" in name for name in moved(network, torch.rand(4, 3, 8, 8)))
    assert {name for name in trains(network) if "lora_" not in name} == {"linear.weight", "linear.bias"}


def test_statistics_also_stay_when_batch_normalisation_has_become_synchronous() -> None:
    network = with_lora(CIFARResNet(8), Adapters(2, ["conv1"]), trainable=["layer3"])
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network)).train()
    modes = {
        name: module.training for name, module in converted.named_modules() if isinstance(module, nn.SyncBatchNorm)
    }
    assert len(modes) == 7
    assert modes == {name: name.startswith("layer3.") for name in modes}
    assert converted.layer1.training
    assert not any(module.training for module in converted.eval().modules())


def test_the_projection_of_torch_attention_gets_no_adapter_because_it_would_be_bypassed() -> None:
    network = with_lora(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), Adapters(2))
    adapted_layers = {name.split(".lora_")[0] for name in network.state_dict() if "lora_" in name}
    assert adapted_layers == {"linear1", "linear2"}


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'noiseworks\[lora\]'"):
        adapt(MLP(4, [3], 2), tuning="lora")


def test_recomputed_activations_give_the_same_gradients_and_count_batch_statistics_once() -> None:
    plain = WideResNet(10, 1, num_classes=3, dropout=0.5).double()
    recomputing = with_gradient_checkpointing(copy.deepcopy(plain))
    passes: list[int] = []
    recomputing.layer2[0].conv1.register_forward_hook(lambda module, args, output: passes.append(1))
    image = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    torch.manual_seed(1)
    expected = gradients(plain, image)
    torch.manual_seed(1)
    torch.testing.assert_close(gradients(recomputing, image), expected)
    assert len(passes) == 2
    assert same(recomputing, plain)
    assert recomputing.layer1[0].bn1.num_batches_tracked == 1
    assert recomputing.layer1[0].bn1.momentum == 0.1
    with torch.no_grad():
        recomputing(image)
    assert len(passes) == 3


def test_recomputation_also_holds_when_compiled() -> None:
    plain = WideResNet(10, 1, num_classes=3).double()
    recomputing = compile_in_place(with_gradient_checkpointing(copy.deepcopy(plain)), "aot_eager")
    image = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(gradients(recomputing, image), gradients(plain, image))
    torch.testing.assert_close(dict(recomputing.state_dict()), dict(plain.state_dict()))


def test_a_copy_of_a_recomputing_network_runs_its_own_blocks() -> None:
    original = with_gradient_checkpointing(CIFARResNet(8))
    duplicate = copy.deepcopy(original)
    nn.init.zeros_(original.layer1[0].bn2.weight)
    image = torch.rand(2, 3, 8, 8)
    gradients(duplicate, image)
    assert duplicate.layer1[0].conv1.weight.grad is not None
    assert original.layer1[0].conv1.weight.grad is None
    assert not torch.allclose(duplicate(image), original(image))


class Conditioned(nn.Module):
    """Records the dtype of all its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self._keep_in_fp32_modules = ["norm"]

    def forward(self, x: Tensor, sigma: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        self.seen = x.dtype, sigma.dtype, condition["text"].dtype, condition["label"].dtype
        return {"sample": self.linear(x), "label": condition["label"]}


def test_precision_changes_inside_alone_and_noise_levels_keep_theirs() -> None:
    network = in_dtype(Conditioned(), "bfloat16")
    condition = {"text": torch.rand(2, 4), "label": torch.tensor([1, 2])}
    output = network(torch.rand(2, 4), torch.rand(2), condition=condition)
    assert network.seen == (torch.bfloat16, torch.float32, torch.bfloat16, torch.int64)
    assert network.linear.weight.dtype == torch.bfloat16
    assert network.norm.weight.dtype == torch.float32
    assert output["sample"].dtype == torch.float32
    assert output["label"].dtype == torch.int64


class Embedded(nn.Module):
    """A network with integer inputs and with a list of blocks; the list is never called as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 16)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True) for _ in range(2))
        self.head = nn.Linear(16, 4)

    def forward(self, token: Tensor) -> Tensor:
        x = self.embedding(token)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=1))


@pytest.mark.parametrize(
    ("network", "given", "trainable"),
    [
        (MLP(4, [8], 3), torch.rand(5, 4), ["layers.2"]),
        (CIFARResNet(8), torch.rand(5, 3, 8, 8), ["layer2", "layer2.0", "linear"]),
        (CIFARResNet(8), torch.rand(5, 3, 8, 8), ["layer2.0.bn1", "layer2"]),
        (Embedded(), torch.randint(8, (5, 3)), ["embedding", "blocks"]),
    ],
)
@pytest.mark.parametrize("tuning", ["lora", "frozen"])
def test_what_is_trainable_in_a_half_precision_network_moves_by_small_steps(
    network: nn.Module, given: Tensor, trainable: list[str], tuning: Any
) -> None:
    keys, expected = list(network.state_dict()), copy.deepcopy(network).eval()(given)
    targets = ["conv1"] if isinstance(network, CIFARResNet) else None
    options: Any = {"adapters": Adapters(targets=targets)} if tuning == "lora" else {}
    network = adapt(copy.deepcopy(network), tuning, trainable, **options, dtype="bfloat16")
    assert tuning == "lora" or list(network.state_dict()) == keys
    torch.testing.assert_close(network.eval()(given), expected, rtol=0.1, atol=0.05)
    network = copy.deepcopy(network).train()
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4)
    for _ in range(5):
        optimizer.zero_grad()
        network(given).square().sum().backward()
        optimizer.step()
    for name, parameter in network.named_parameters():
        below = any(f"{name}.".startswith(f"{submodule}.") for submodule in trainable)
        assert parameter.dtype == (torch.float32 if below or "lora_" in name else torch.bfloat16)
        if below and parameter.grad is not None and "embedding" not in name:
            assert (parameter != before[name])[parameter.grad != 0].float().mean() > 0.95, name


def test_compilation_runs_the_backend_and_keeps_keys_and_outputs() -> None:
    graphs: list[int] = []

    def recording(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(1)
        return graph.forward

    torch._dynamo.register_backend(recording, name="recording")
    network = Normalized(MLP(4, [3], 2), [0.5], [0.5])
    image = torch.rand(5, 1, 2, 2)
    keys, expected = list(network.state_dict()), network(image)
    assert compile_in_place(network, "recording") is network
    torch.testing.assert_close(network(image), expected)
    assert graphs
    assert list(network.state_dict()) == keys
    assert type(network) is Normalized


@pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])
def test_choices_combine_on_a_normalized_network_on_the_meta_device(tuning: Any) -> None:
    with torch.device("meta"):
        network = Normalized(WideResNet(10, 1), [0.5] * 3, [0.25] * 3)
        targets: Any = {"adapters": Adapters(targets=["conv1", "conv2"])} if tuning == "lora" else {}
        adapt(network, tuning, gradient_checkpointing=True, dtype="bfloat16", **targets)
        network.train()
        image = torch.rand(2, 3, 16, 16, requires_grad=True)
        network(image).sum().backward()
    assert image.grad is not None
    assert image.grad.dtype == torch.float32
    has_gradient = {name: parameter.grad is not None for name, parameter in network.named_parameters()}
    expected = {name: tuning == "full" or (tuning == "lora" and "lora_" in name) for name in has_gradient}
    assert has_gradient == expected
