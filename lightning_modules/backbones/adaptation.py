"""Adapt networks: trainable parameters (all, none or LoRA), gradient checkpointing, precision and compilation.

Every function changes a network in place and returns it. The signature of the forward pass, the attributes and the
state_dict keys stay the same, apart from added adapters. `adapt` combines these functions for configs.

LoRA freezes a layer's weight W and replaces y = W x with y = (W + s B A) x, where s = alpha / r. The matrix A [r, in]
is initialised randomly, and the matrix B [out, r] with zeros. Rank-stabilised LoRA has s = alpha / sqrt(r). DoRA also
trains a norm m_i for each row i of the weight:

    y_i = m_i (W + s B A)_i x / |(W + s B A)_i|.

Here m_i starts at |W_i|, and the gradient treats the norm in the denominator as a constant. LoHa, LoKr and OFT are
other adapters of peft: the product of two low-rank matrices by elements, the Kronecker product of two matrices, and a
rotation of the layer's inputs in blocks.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, arXiv 2106.09685; Kalajdzievski, A
Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, 2023, arXiv 2312.03732; Liu et al., DoRA: Weight-Decomposed
Low-Rank Adaptation, ICML 2024, arXiv 2402.09353; Hyeon-Woo et al., FedPara, ICLR 2022, arXiv 2108.06098, for LoHa; Yeh
et al., Navigating Text-To-Image Customization, ICLR 2024, arXiv 2309.14859, for LoKr; Qiu et al., Controlling
Text-to-Image Diffusion by Orthogonal Finetuning, NeurIPS 2023, arXiv 2306.07280, for OFT; Chen et al., Training Deep
Nets with Sublinear Memory Cost, arXiv 1604.06174, for gradient checkpointing.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils.checkpoint import checkpoint

from datamodules.arguments import at_least, one_of, only_with, positive
from lightning_modules.backbones.adapters import adapter_names
from lightning_modules.backbones.normalized import BATCH_NORM, Normalized
from lightning_modules.backbones.weights import join_names
from lightning_modules.torch_internals import tree_leaves, tree_map

Tuning = Literal["full", "lora", "frozen"]
Kind = Literal["lora", "loha", "lokr", "oft"]
Precision = Literal["float32", "bfloat16", "float16"]
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Adapters:
    """Adapters of a network's layers. They are added only if `tuning` is lora.

    Args:
        rank: r, rank of the adapters; for OFT, the size of the blocks in which a layer's inputs are rotated.
        targets: layers to adapt, given by name or by the last part of the name; None adapts the projections of the
            attention in a diffusion pipeline, and every `nn.Linear` in other networks.
        alpha: alpha, which sets the scale of the adapters, alpha / r. None sets alpha to r.
        dropout: dropout probability of an adapter's inputs.
        rslora: use rank-stabilised LoRA, which scales adapters by alpha / sqrt(r).
        dora: use DoRA, which also trains the row norms of the adapted weights.
        kind: class of peft: `lora`, `loha`, `lokr` or `oft`.
        gaussian: initialise the matrices A of LoRA from a normal distribution with standard deviation 1 / r, as the
            scripts of diffusers do, and not from a uniform distribution.
    """

    rank: int = 4
    targets: Sequence[str] | None = None
    alpha: int | None = None
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    kind: Kind = "lora"
    gaussian: bool = False

    def __post_init__(self) -> None:
        at_least(1, **{"adapters.rank": self.rank})
        positive(**{"adapters.alpha": self.alpha})
        one_of(get_args(Kind), **{"adapters.kind": self.kind})
        for_lora = {f"adapters.{key}": getattr(self, key) for key in ("dropout", "rslora", "dora", "gaussian")}
        only_with("adapters.kind lora", self.kind == "lora", Adapters, **for_lora)
        only_with("adapters.kind lora, loha or lokr", self.kind != "oft", Adapters, **{"adapters.alpha": self.alpha})

    def check_tuning(self, tuning: Tuning) -> None:
        """Reject settings of adapters if `tuning` is not lora."""
        settings = {f"adapters.{key}": value for key, value in vars(self).items()}
        only_with("tuning lora", tuning == "lora", Adapters, **settings)

    def config(self, targets: str) -> Any:
        """Return the configuration of peft for the layers whose names match a pattern."""
        import peft

        alpha = self.rank if self.alpha is None else self.alpha
        if self.kind == "lora":
            return peft.LoraConfig(
                r=self.rank, lora_alpha=alpha, lora_dropout=self.dropout, target_modules=targets,
                use_rslora=self.rslora, use_dora=self.dora, init_lora_weights="gaussian" if self.gaussian else True,
            )  # fmt: skip
        if self.kind == "oft":
            return peft.OFTConfig(oft_block_size=self.rank, target_modules=targets)
        kinds: dict[str, Any] = {"loha": peft.LoHaConfig, "lokr": peft.LoKrConfig}
        return kinds[self.kind](r=self.rank, alpha=alpha, target_modules=targets)


def adapt(
    network: nn.Module,
    tuning: Tuning = "full",
    trainable: list[str] | None = None,
    adapters: Adapters = Adapters(),
    gradient_checkpointing: bool = False,
    dtype: Precision | None = None,
    compile: str | None = None,
) -> nn.Module:
    """Set a network's trainable parameters, its precision and its memory use in training.

    Args:
        network: any network. For a `Normalized` network, use the layer names of the wrapped network.
        tuning: `full` trains all parameters, `lora` trains only adapters, and `frozen` trains nothing.
        trainable: names of submodules that are also trained if `tuning` is lora or frozen; they are converted to
            float32.
        adapters: settings of the adapters; used only if `tuning` is lora.
        gradient_checkpointing: recompute activations in the backward pass instead of storing them.
        dtype: precision of weights and internal computation; inputs and outputs are float32. None keeps the precision.
        compile: a `torch.compile` backend, such as inductor; None does not compile the network.

    Raises:
        ValueError: if an argument is invalid, if a named layer does not exist, if the network has no layers to adapt,
            or if gradient checkpointing is requested for a network without blocks.
        ImportError: if `tuning` is lora and peft is not installed.
    """
    adapters.check_tuning(tuning)
    only_with("tuning lora or frozen", tuning != "full", adapt, trainable=trainable)
    inner = network.network if isinstance(network, Normalized) else network
    if dtype is not None:
        in_dtype(inner, dtype)
    if gradient_checkpointing:
        with_gradient_checkpointing(inner)
    if tuning == "lora":
        with_lora(inner, adapters, trainable)
    elif tuning == "frozen":
        frozen(inner, trainable)
    elif tuning != "full":
        raise ValueError(f"tuning must be full, lora or frozen, got {tuning!r}")
    if compile is not None:
        compile_in_place(network, compile)
    return network


def frozen(network: nn.Module, trainable: list[str] | None = None) -> nn.Module:
    """Freeze a network: no parameter requires a gradient, and the network stays in evaluation mode.

    Submodules whose names are in `trainable` are not frozen. They are converted from half precision to float32, because
    half precision would round small optimizer steps to zero. The arguments are described in `adapt`.
    """
    names = list(trainable or ())
    network.requires_grad_(False)
    _left_to_training(_submodules(network, names))
    # `train` is replaced on the instance. A subclass would change the network's type, and a wrapper its state_dict
    # keys.
    network.train = partial(_train, network, names, False)  # type: ignore[method-assign]
    return network.train()


def _train(network: nn.Module, names: list[str], trains: bool, mode: bool = True) -> nn.Module:
    """Set the mode of all submodules except `names` if `trains` is true, or only of `names` if it is false.

    The remaining submodules stay in evaluation mode.
    """
    type(network).train(network, mode and trains)
    for submodule in _submodules(network, names):
        submodule.train(mode and not trains)
    return network


def _submodules(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    modules = dict(network.named_modules())
    unknown = [name for name in names if name not in modules]
    if unknown:
        children = join_names((name for name, _ in network.named_children()), at_most=20)
        raise ValueError(
            f"trainable: {type(network).__name__} has no submodule {join_names(unknown)}; it has: {children}"
        )
    return [modules[name] for name in names]


def _left_to_training(submodules: Sequence[nn.Module]) -> None:
    for module in (module for submodule in submodules for module in submodule.requires_grad_(True).modules()):
        half = [tensor for tensor in _own_tensors(module) if tensor.dtype in HALF]
        if half:
            module.forward = partial(_in_its_precision, module.forward, module, half[0].dtype)
        for tensor in half:
            tensor.data = tensor.data.float()


def _own_tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _in_its_precision(forward: Any, module: nn.Module, outside: torch.dtype, *args: Any, **kwargs: Any) -> Any:
    """Call a module in its own precision.

    Inputs are cast to the precision of the module. Outputs are cast to the precision that the first floating-point
    input had before the call; if there is no such input, they are cast to `outside`.
    """
    inside = next(tensor.dtype for tensor in _own_tensors(module) if tensor.is_floating_point())
    given = (value.dtype for value in tree_leaves((args, kwargs)) if _is_floating(value))
    outside = next(given, outside)
    args, kwargs = _cast((args, kwargs), inside)
    return _cast(forward(*args, **kwargs), outside)


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _cast(values: Any, dtype: torch.dtype) -> Any:
    return tree_map(lambda value: value.to(dtype) if _is_floating(value) else value, values)


def with_lora(network: nn.Module, adapters: Adapters = Adapters(), trainable: list[str] | None = None) -> nn.Module:
    """Add adapters, and freeze all other parameters and the running statistics of batch normalisation.

    The adapters initially do not change the output. Adapters and other trainable submodules use float32, even if the
    weights have half precision. The state dict contains the original weights and the adapters. The arguments are
    described in `adapt`.
    """
    try:
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise ImportError("tuning by lora needs peft: pip install 'noiseworks[lora]'") from error
    trained = _submodules(network, list(trainable or ()))
    inside = {module for submodule in trained for module in submodule.modules()}
    layers = {name: module for name, module in network.named_modules() if name and not any(module.children())}
    if adapters.targets is None:
        # nn.MultiheadAttention reads the weight of its output projection without calling this layer. An adapter of the
        # layer would therefore have no effect.
        chosen = [
            name
            for name, module in layers.items()
            if isinstance(module, nn.Linear)
            and not isinstance(module, NonDynamicallyQuantizableLinear)
            and module not in inside
        ]
        if not chosen:
            raise ValueError(
                f"adapters.targets must be given: {type(network).__name__} has no nn.Linear; {_adaptable(layers)}"
            )
    else:
        matches = {t: [name for name in layers if name == t or name.endswith(f".{t}")] for t in adapters.targets}
        unknown = [target for target, found in matches.items() if not found]
        if unknown or not matches:
            raise ValueError(
                f"adapters.targets: {type(network).__name__} has no layer named {join_names(unknown)}; "
                f"{_adaptable(layers)}"
            )
        chosen = [name for found in matches.values() for name in found]
    large = [name for name in chosen if max(getattr(layers[name], "kernel_size", (1,))) > 1]
    if adapters.kind == "oft" and large:  # peft's adapter changes the output of such a layer before training
        raise ValueError(f"adapters.kind oft is only for linear layers and 1 x 1 convolutions, got {join_names(large)}")
    inject_adapter_in_model(adapters.config("|".join(map(re.escape, chosen))), network)
    added = adapter_names(network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name in added
        if parameter.requires_grad and parameter.dtype in HALF:
            parameter.data = parameter.data.float()
    if adapters.dora:
        _initialise_magnitudes(network)
    _left_to_training(trained)
    fixed = [
        name for name, module in network.named_modules() if isinstance(module, BATCH_NORM) and module not in inside
    ]
    # Submodules are identified by name, because the conversion to SyncBatchNorm replaces modules.
    network.train = partial(_train, network, fixed, True)  # type: ignore[method-assign]
    return network.train(network.training)


def _initialise_magnitudes(network: nn.Module) -> None:
    """Initialise DoRA's magnitudes with the row norms of the frozen weights, computed in the precision of the adapters.

    For weights in half precision, peft would compute these norms in half precision, which would change the network's
    initial output.
    """
    for module in network.modules():
        for name, magnitude in dict(getattr(module, "lora_magnitude_vector", None) or {}).items():
            layer: Any = module
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            magnitude.update_layer(
                base_layer=layer.get_base_layer(), lora_A=a.detach(), lora_B=b.detach(), scaling=layer.scaling[name]
            )


def _adaptable(layers: dict[str, nn.Module]) -> str:
    last_parts = {name.split(".")[-1] for name, module in layers.items() if isinstance(module, nn.Linear | nn.Conv2d)}
    return f"it has: {join_names(sorted(last_parts), at_most=20)}"


def with_gradient_checkpointing(network: nn.Module) -> nn.Module:
    """Store only the inputs of a network's blocks, and recompute the activations inside them in the backward pass.

    If a network has no batch normalisation and its library (diffusers, transformers or timm) implements checkpointing,
    the library's implementation is used. In all other networks, the blocks are those elements of an outermost
    `nn.Sequential` or `nn.ModuleList` that have child modules. A network without such blocks is rejected. Batch
    normalisation updates its running statistics in the forward pass, but not during recomputation.
    """
    own = ("enable_gradient_checkpointing", "gradient_checkpointing_enable", "set_grad_checkpointing")
    method = next((getattr(network, name) for name in own if hasattr(network, name)), None)
    if method is not None and not any(isinstance(module, BATCH_NORM) for module in network.modules()):
        with suppress(AssertionError, ValueError):  # the class of the network does not implement it
            method()
            return network
    blocks = list(_blocks(network))
    if not blocks:
        raise ValueError(
            f"gradient_checkpointing: {type(network).__name__} has no blocks in nn.Sequential or nn.ModuleList"
        )
    for block in blocks:
        block.forward = partial(_recompute, block.forward, block)
    return network


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(module, nn.Sequential | nn.ModuleList) and any(True for _ in child.children()):
            yield child
        else:
            yield from _blocks(child)


def _recompute(forward: Any, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if torch.compiler.is_compiling():  # the compiler excludes buffer updates from the recomputation
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, block), **kwargs)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _running_statistics_kept(block)


@contextmanager
def _running_statistics_kept(block: nn.Module) -> Iterator[None]:
    """Set the momentum of batch normalisation to 0 during recomputation.

    The forward pass has already updated the running statistics, so they must not change again.
    """
    moving = [m for m in block.modules() if isinstance(m, BATCH_NORM) and m.training and m.track_running_stats]
    kept = [(module.momentum, module.num_batches_tracked) for module in moving]
    for module in moving:
        module.momentum, module.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for module, (momentum, counter) in zip(moving, kept, strict=True):
            module.momentum, module.num_batches_tracked = momentum, counter


def in_dtype(network: nn.Module, dtype: Precision) -> nn.Module:
    """Convert a network's weights and computation to a precision; inputs and outputs of `forward` remain float32.

    Inputs with two or more dimensions are cast to `dtype`, and floating-point outputs are cast back to float32. Inputs
    with one dimension, such as timesteps and noise levels `[B]`, are not cast. Some diffusers models require float32
    for certain modules; these modules stay in float32. Methods other than `forward` compute in `dtype`, without these
    casts.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype must be float32, bfloat16 or float16, got {dtype!r}")
    precision = getattr(torch, dtype)
    kept = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        if tensor.is_floating_point() and not kept.intersection(name.split(".")):
            tensor.data = tensor.data.to(precision)
    network.register_forward_pre_hook(partial(_inputs_in, precision), with_kwargs=True)
    network.register_forward_hook(_outputs_in_float32)
    return network


def _inputs_in(
    dtype: torch.dtype, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def cast(value: Any) -> Any:
        return value.to(dtype) if _is_floating(value) and value.ndim > 1 else value

    return tree_map(cast, args), tree_map(cast, kwargs)


def _outputs_in_float32(network: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return _cast(output, torch.float32)


def compile_in_place(network: nn.Module, backend: str = "inductor") -> nn.Module:
    """Compile a network in place.

    Unlike `torch.compile(network)`, this keeps the type and the state_dict keys of the network.
    """
    backends = torch.compiler.list_backends(exclude_tags=())
    if backend not in backends:
        raise ValueError(f"compile must be one of {', '.join(backends)}, got {backend!r}")
    network.compile(backend=backend)
    return network
