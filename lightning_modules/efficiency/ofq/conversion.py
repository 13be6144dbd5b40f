"""Conversion of a timm vision transformer to a quantised network, in place, and export of the quantised weights."""

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
    """A linear layer that quantises its weight and its input."""

    def __init__(self, layer: nn.Linear, function: WeightFunction, input: nn.Module) -> None:
        super().__init__(layer, function)
        self.input = input

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.input(input))


class QuantizedConv2d(Conv2dOfFunction):
    """A convolution that quantises its weight and its input."""

    def __init__(self, layer: nn.Conv2d, function: WeightFunction, input: nn.Module) -> None:
        super().__init__(layer, function)
        self.input = input

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.input(input))


def transformer_of(network: nn.Module) -> Any:
    """Return the timm vision transformer, quantised or not, that a network or its wrappers contain."""
    for module in network.modules():
        if isinstance(module, VisionTransformer | SwinTransformer):
            return module
    attention_names(network)
    raise ValueError(f"network: {type(network).__name__} contains no VisionTransformer or SwinTransformer of timm")


def input_shapes(transformer: Any) -> dict[str, torch.Size]:
    """Return the input shape of each module for one image, computed by a forward pass on the meta device."""
    shapes: dict[str, torch.Size] = {}

    def note(name: str, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            shapes[name] = inputs[0].shape

    handles = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: note(name, inputs))
        for name, module in transformer.named_modules()
    ]
    if not transformer.patch_embed.img_size:
        raise ValueError("network accepts images of any size, but OFQ needs a fixed number of tokens per image")
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
    """Quantise a vision transformer in place; its parameters keep their names and values.

    In MLPs, attention and patch merging, weights are quantised by StatsQ or LSQ, and inputs by LSQ. In the first layer
    and the heads, weights and inputs are quantised by LSQ. The scales must be calibrated afterwards.

    Args:
        network: timm's VisionTransformer or SwinTransformer, or a network that wraps it.
        weight_bits: number of bits of the weights in MLPs, attention and patch merging, at least 2.
        activation_bits: number of bits of activations, at least 2; None means that activations are not quantised.
        end_bits: number of bits of the weights and activations of the first layer and the heads; None means that they
            are not quantised.
        reparametrised: whether to quantise the product of query and key weights as one weight (QKR).
        kind: quantizer of the weights in MLPs, attention and patch merging, `statsq`, `lsq` or `lsq_half`.

    Raises:
        ValueError: if the network or its attention is frozen, or if its class is not supported.
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
            chosen |= {f"{name}.fc1": body, f"{name}.fc2": partial(body, signed=False)}  # GELU precedes fc2
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
    """Quantised rows of a layer's weight in a transformer block."""

    name: str
    layer: LinearOfFunction
    start: int
    bits: int

    @property
    def weight(self) -> Tensor:
        """The trained full-precision values of the rows, `[out, in]`, as a view of the parameter."""
        return self.layer.weight.detach()[self.start :]

    @property
    def quantizer(self) -> Any:
        """The `StatsQ` or `LSQWeight` that quantises the rows."""
        function: Any = self.layer.function
        return function.functions["v"] if isinstance(function, FunctionOfThirds) else function

    @property
    def positions(self) -> Tensor:
        """Position t of each weight relative to the rounding thresholds, `[out, in]`."""
        return self.quantizer.positions(self.weight)

    @property
    def integers(self) -> Tensor:
        """Integer to which each weight is quantised, `[out, in]`."""
        return integers(self.positions, self.bits)

    @property
    def gradient(self) -> Tensor | None:
        return None if self.layer.weight.grad is None else self.layer.weight.grad[self.start :]


def quantized_rows(network: nn.Module) -> Iterator[QuantizedRows]:
    """Yield the quantised rows of all transformer blocks; with QKR, only the value rows of each `qkv` weight.

    The rows have the names that they have in the plain network.
    """
    for name, layer in layers_of_functions(transformer_of(network)).items():
        function: Any = layer.function
        if isinstance(function, FunctionOfThirds):
            values: Any = function.functions["v"]
            yield QuantizedRows(f"{name}/v", layer, len(layer.weight) // 3 * 2, values.bits)  # type: ignore[arg-type]
        elif isinstance(function, StatsQ | LSQWeight) and isinstance(layer, nn.Linear) and name not in HEADS:
            yield QuantizedRows(name, layer, 0, function.bits)


def export_weights(network: nn.Module, plain: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the quantised weights by parameter name, and the bits, ranges, scales and shifts by layer name.

    If the quantised network has neither quantised activations nor QKR, a plain network with these weights computes the
    same logits. With QKR, the quantised product cannot be represented in the plain network, so the trained
    full-precision query and key weights are returned instead. To quantise activations, use the returned ranges, scales
    and shifts in the layers that they are named after.

    Args:
        network: quantised network.
        plain: network of the same architecture that is not quantised; the returned weights have the names of its
            parameters.
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
