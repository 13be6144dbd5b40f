"""Quantise a timm vision transformer in place, layer by layer, and export the result."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lightning_modules.backbones.replacement import (
    Conv2dOfFunction,
    FunctionOfThirds,
    LinearOfFunction,
    WeightFunction,
    effective_weights,
    layers_of_functions,
    replace_layers,
)
from lightning_modules.efficiency.ofq.attention import QKRAttention, QuantizedAttention, attention_names
from lightning_modules.efficiency.ofq.quantizers import (
    LSQWeight,
    Quantizer,
    StatsQ,
    WeightQuantizer,
    integers,
    row_scale,
    weight_quantizer,
)

HEADS = ("head", "head_dist", "head.fc")


class QuantizedLinear(LinearOfFunction):
    """A quantised linear layer that also quantises its input."""

    def __init__(self, layer: nn.Linear, function: WeightFunction, input: nn.Module) -> None:
        super().__init__(layer, function)
        self.input = input

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.input(input))


class QuantizedConv2d(Conv2dOfFunction):
    """A quantised convolution that also quantises its input."""

    def __init__(self, layer: nn.Conv2d, function: WeightFunction, input: nn.Module) -> None:
        super().__init__(layer, function)
        self.input = input

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.input(input))


def transformer_of(network: nn.Module) -> Any:
    """Find the timm vision transformer inside wrappers, quantised or not.

    Raises:
        ValueError: if there is no timm vision transformer.
    """
    for module in network.modules():
        if isinstance(module, VisionTransformer | SwinTransformer):
            return module
    attention_names(network)
    raise ValueError(f"network: {type(network).__name__} contains no VisionTransformer or SwinTransformer of timm")


def input_shapes(transformer: Any) -> dict[str, torch.Size]:
    """Find the input shapes of all modules for one image, by a forward pass on the meta device."""
    shapes: dict[str, torch.Size] = {}

    def note(name: str, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            shapes[name] = inputs[0].shape

    handles = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: note(name, inputs))
        for name, module in transformer.named_modules()
    ]
    if not transformer.patch_embed.img_size:
        raise ValueError("network takes images of any size, but scales need a fixed number of tokens")
    height, width = transformer.patch_embed.img_size
    tensors = {**dict(transformer.named_parameters()), **dict(transformer.named_buffers())}
    image = torch.empty(1, transformer.patch_embed.proj.in_channels, height, width, device="meta")
    training = transformer.training
    transformer.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            torch.func.functional_call(transformer, {name: each.to("meta") for name, each in tensors.items()}, image)
    finally:
        transformer.train(training)
        for handle in handles:
            handle.remove()
    return shapes


def quantize(
    network: nn.Module,
    weight_bits: int,
    activation_bits: int | None,
    end_bits: int | None,
    reparametrised: bool,
    kind: WeightQuantizer = "statsq",
) -> None:
    """Quantise a vision transformer, in place; its parameters keep their names and values.

    MLPs, attention and patch merging get StatsQ or LSQ weights and LSQ inputs; the first layer and the heads get LSQ
    weights and LSQ inputs. Scales must be calibrated afterwards.

    Args:
        network: a VisionTransformer or SwinTransformer of timm, or a wrapper of one.
        weight_bits: bits of the weights, at least 2.
        activation_bits: bits of the activations, at least 2; None does not quantise activations.
        end_bits: bits of weights and activations of first layer and heads; None does not quantise these.
        reparametrised: quantise the product of query and key weights (QKR).
        kind: quantizer of the weights of MLPs, attention and patch merging.

    Raises:
        ValueError: if the network or its attention is frozen or of an unsupported class.
    """
    transformer = transformer_of(network)
    names, shapes = attention_names(transformer), input_shapes(transformer)

    def made(owner: str, bits: int | None, part: str, scales: int, **arguments: Any) -> nn.Module:
        if activation_bits is None or bits is None:
            return nn.Identity()
        return Quantizer(f"{owner}.{part}", bits, scales, **arguments)

    def body(name: str, layer: nn.Linear, signed: bool = True) -> nn.Module:
        shape = shapes[name]
        quantizer = made(name, activation_bits, "input", shape[-2], dim=-2, signed=signed, shift=(shape[-1],))
        return QuantizedLinear(layer, weight_quantizer(kind, weight_bits, layer.out_features), quantizer)

    def end(name: str, layer: Any) -> nn.Module:
        assert end_bits is not None
        function = LSQWeight(end_bits, len(layer.weight))
        if isinstance(layer, nn.Linear):
            quantizer = made(name, end_bits, "input", 1, dim=-1, shift=(layer.in_features,))
            return QuantizedLinear(layer, function, quantizer)
        image = shapes[name][1:]
        quantizer = made(name, end_bits, "input", image[0], dim=-3, signed=None, shift=tuple(image[1:]))
        return QuantizedConv2d(layer, function, quantizer)

    def values(name: str, layer: nn.Linear) -> nn.Module:
        return LinearOfFunction(
            layer, FunctionOfThirds({"v": weight_quantizer(kind, weight_bits, layer.out_features // 3)})
        )

    chosen: dict[str, Any] = {}
    for name, module in transformer.named_modules():
        if isinstance(module, Mlp):
            chosen |= {f"{name}.fc1": body, f"{name}.fc2": partial(body, signed=False)}  # fc2 follows a GELU
        elif isinstance(module, PatchMerging):
            chosen[f"{name}.reduction"] = body
        elif name in names:
            chosen |= {f"{name}.qkv": values if reparametrised else body, f"{name}.proj": body}
        elif end_bits is not None and isinstance(module, PatchEmbed):
            chosen[f"{name}.proj"] = end
        elif end_bits is not None and name in HEADS and isinstance(module, nn.Linear):
            chosen[name] = end
    layers = {name: transformer.get_submodule(name) for name in chosen}
    replace_layers(transformer, layers, "network", lambda name, layer: chosen[name](name, layer))
    for name in names:
        attention, tokens = transformer.get_submodule(name), shapes[name][1]
        quantizers = partial(made, name, activation_bits)
        new: nn.Module
        try:
            if reparametrised:
                rows = attention.num_heads * attention.qkv.in_features
                new = QKRAttention(attention, tokens, quantizers, weight_quantizer(kind, weight_bits, rows))
            else:
                new = QuantizedAttention(attention, tokens, quantizers)
        except ValueError as error:
            raise ValueError(f"network: {name}: {error}") from error
        transformer.set_submodule(name, new.train(attention.training))


class QuantizedRows(NamedTuple):
    """Quantised rows of the weight of a layer in a block."""

    name: str
    layer: LinearOfFunction
    start: int
    bits: int

    @property
    def weight(self) -> Tensor:
        """The trained values of the rows, `[out, in]`, a view of the parameter."""
        return self.layer.weight.detach()[self.start :]

    @property
    def quantizer(self) -> Any:
        """The `StatsQ` or `LSQWeight` of the rows."""
        function: Any = self.layer.function
        return function.functions["v"] if isinstance(function, FunctionOfThirds) else function

    @property
    def positions(self) -> Tensor:
        """Position t of each entry between the rounding thresholds, `[out, in]`."""
        return self.quantizer.positions(self.weight)

    @property
    def integers(self) -> Tensor:
        """Integer of each entry, `[out, in]`."""
        return integers(self.positions, self.bits)

    @property
    def gradient(self) -> Tensor | None:
        return None if self.layer.weight.grad is None else self.layer.weight.grad[self.start :]


def quantized_rows(network: nn.Module) -> Iterator[QuantizedRows]:
    """Find the quantised rows of the blocks, by the plain network's names; with QKR, only the value rows of a `qkv`."""
    for name, layer in layers_of_functions(transformer_of(network)).items():
        function: Any = layer.function
        if isinstance(function, FunctionOfThirds):
            values: Any = function.functions["v"]
            yield QuantizedRows(f"{name}/v", layer, len(layer.weight) // 3 * 2, values.bits)  # type: ignore[arg-type]
        elif isinstance(function, StatsQ | LSQWeight) and isinstance(layer, nn.Linear) and name not in HEADS:
            yield QuantizedRows(name, layer, 0, function.bits)


def exported(network: nn.Module, plain: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the quantised weights under the plain network's names, and bits, ranges, scales and shifts by layer.

    If the quantised network has no quantised activations and no QKR, a plain network with these weights has the same
    logits. The plain network cannot hold the quantised product. It gets the trained query and key weights instead.
    To quantise activations, use the returned ranges, scales and shifts in the named layers.

    Args:
        network: quantised network.
        plain: network of the same architecture, not quantised.
    """
    transformer = transformer_of(network)
    weights, described = effective_weights(transformer)
    names = transformer_of(plain).state_dict()
    for rows in quantized_rows(network):
        if not isinstance(rows.quantizer, StatsQ):  # LSQ describes its own scales
            continue
        name, _, third = rows.name.partition("/")
        told = described[name][third] if third else described[name]
        told["scale"] = row_scale(rows.weight).flatten().tolist()
    for name, module in transformer.named_modules():
        if isinstance(module, Quantizer):
            described[name] = module.describe()
        elif isinstance(module, QKRAttention):
            described[f"{name}.product"] = {**module.product.describe(), "effective_weights": False}  # type: ignore[operator]
    return {name: weights[name] for name in names}, described
