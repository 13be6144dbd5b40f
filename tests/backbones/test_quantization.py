"""Frozen weights in 8 and 4 bits with trainable adapters; tests that quantise weights require the `quantized` extra."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from datamodules.files.module_hash import hash_of_module
from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.flux import Flux
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from lightning_modules.backbones.quantization import dequantized_state, is_quantized, prepare_for_ddp
from lightning_modules.diffusion.finetuning.data_checks import check_sharding
from tests.backbones.diffusion.family_checks import FAMILIES as EVERY
from tests.backbones.diffusion.family_checks import noise, side_of
from tests.backbones.diffusion.test_adapters import alone, sampled
from tests.backbones.diffusion.test_export import moved
from tests.diffusion.finetuning.models import digits, tuning
from tests.diffusion.golden_noise import small
from tests.diffusion.one_more_step.test_module import Linear, built
from tests.nightly import nightly_beyond
from tests.trainers import quiet

FAMILIES = ("text_to_image", "stable_diffusion_3", "pixart_sigma", "sana", "qwen_image", "z_image", "hunyuan_dit")


@pytest.fixture(params=["float8", "int8", "nf4"])
def quantization(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a quantisation, or skip if its package is missing; for nf4, disable the check of diffusers for a GPU."""
    if request.param != "float8":
        pytest.importorskip({"int8": "torchao", "nf4": "bitsandbytes"}[request.param])
    if request.param == "nf4":
        from diffusers.quantizers.bitsandbytes.bnb_quantizer import BnB4BitDiffusersQuantizer as Quantizer

        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(Quantizer, "validate_environment", lambda *_, **__: None)
        monkeypatch.setattr(Quantizer, "update_device_map", lambda self, device_map: device_map)
    return request.param


def adapted_model(folder: Path, quantization: Any, **options: Any) -> TextToImage:
    options = {"tuning": "lora", "weights": Weights(quantization=quantization), **options}
    torch.manual_seed(0)  # seeds the adapters
    # In evaluation mode, bitsandbytes repacks the weights for a CPU, which fails for tiny layers.
    return text_to_image_pipeline(str(folder), **options).train(quantization == "nf4")


def test_int8_errs_by_half_a_step_of_each_row(flux: Path) -> None:
    pytest.importorskip("torchao")
    own = dict(adapted_model(flux, None).network.named_modules())
    layers = 0
    for name, module in adapted_model(flux, "int8").network.named_modules():
        if isinstance(module, nn.Linear) and "lora_" not in name:
            weight: Any = own[name].weight
            step = weight.abs().amax(dim=1, keepdim=True) / 127
            quantised: Any = module.weight
            assert ((quantised.dequantize() - weight).abs() <= 0.501 * step).all()
            assert not torch.equal(quantised.dequantize(), weight)
            assert quantised.qdata.dtype == torch.int8
            layers += 1
    assert layers > 10


@pytest.mark.parametrize("use_dora", [False, True])
def test_outputs_and_gradients_are_those_of_dequantised_weights(quantization: str, use_dora: bool, flux: Path) -> None:
    if use_dora and quantization == "float8":
        with pytest.raises(ValueError, match=r"adapters\.dora must be false with quantization float8"):
            adapted_model(flux, quantization, adapters=Adapters(dora=True))
        return
    model = adapted_model(flux, quantization, adapters=Adapters(dora=use_dora))
    moved(model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    plain = adapted_model(flux, None, adapters=Adapters(dora=use_dora))
    before = {name: value.clone() for name, value in plain.network.state_dict().items()}
    plain.network.load_state_dict(dequantized_state(model.network))
    assert any((value - before[name]).abs().max() > 1e-5 for name, value in plain.network.state_dict().items())
    prompts, given = model.encode_prompts(["a cat", "dog"]), noise(model)
    outputs = [each(given, torch.tensor([300.0, 700.0]), prompts) for each in (model, plain)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad(output.sin().sum(), [p for p in each.parameters() if p.requires_grad])
        for output, each in zip(outputs, (model, plain), strict=True)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fixture", ["text_to_image", "xl", "sana"])
@pytest.mark.parametrize("recomputed", [False, True])
def test_convolutions_in_float8_have_the_gradients_of_their_rounded_weights(
    fixture: str, recomputed: bool, request: pytest.FixtureRequest
) -> None:
    folder = str(request.getfixturevalue(fixture))
    kind = type(text_to_image_pipeline(folder))
    options: Any = {"tuning": "lora", "gradient_checkpointing": recomputed}
    model, plain = (kind(folder, weights=Weights(quantization=each), **options) for each in ("float8", None))
    moved(model)
    plain.network.load_state_dict(dequantized_state(model.network))
    gradients = []
    for each in (model.train(), plain.train()):
        t = torch.tensor([0.3] if fixture == "sana" else [300])
        each(noise(model, 1, side_of(fixture)), t, model.encode_prompts(["a cat"])).square().sum().backward()
        gradients.append([parameter.grad for parameter in each.parameters() if parameter.requires_grad])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_adapters_on_bfloat16_are_float32(quantization: str, flux: Path) -> None:
    weights = Weights(quantization=quantization, dtype="bfloat16")
    model = Flux(str(flux), weights, "lora", gradient_checkpointing=True).train()
    prompts = model.encode_prompts(["a cat"])
    output = model(noise(model, 1), torch.tensor([300.0]), prompts)
    output.sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert output.dtype == torch.float32
    assert {p.dtype for p in trained} == {p.grad.dtype for p in trained if p.grad is not None} == {torch.float32}
    assert all("lora_" in name for name in model.state_dict())
    model.load_state_dict(model.state_dict())
    with torch.autocast("cpu", torch.bfloat16):  # as in mixed precision
        model(noise(model, 1), torch.tensor([300.0]), prompts).sum().backward()
    assert all(p.grad.isfinite().all() for p in trained if p.grad is not None)


@pytest.mark.parametrize(
    ("fixture", "chosen"),
    nightly_beyond(
        [("text_to_image", "int8"), ("xl", "float8"), ("flux", "float8"), ("hunyuan_dit", "float8")],
        [*((name, "int8") for name in FAMILIES), *((name, "float8") for name in ("xl", *EVERY))],
    ),
)
def test_adapters_of_each_family_load_on_the_unquantised_base(
    fixture: str, chosen: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Dequantised weights with merged adapters also load as a pipeline."""
    if chosen == "int8":
        pytest.importorskip("torchao")
    folder, side = request.getfixturevalue(fixture), side_of(fixture)
    model = adapted_model(folder, chosen)
    moved(model)
    found = sampled(model, model.pipeline, side)
    save_model(model, tmp_path / "saved", writes=True)
    loaded = alone(model, folder, tmp_path / "saved")
    if hasattr(model.pipeline, "load_lora_weights"):
        own = getattr(loaded, model.parts[0])
        assert not is_quantized(own)
        rough = sampled(model, loaded, side)
        assert 0 < (rough - found).abs().max() < 0.5
        state = {name: value for name, value in dequantized_state(model.network).items() if "lora_" not in name}
        assert not own.load_state_dict(state, strict=False).unexpected_keys
    torch.testing.assert_close(sampled(model, loaded, side), found, atol=1e-5, rtol=0)
    save_model(model, tmp_path / "merged", writes=True, merge=True)
    whole: Any = DiffusionPipeline.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(sampled(model, whole, side), found, atol=1e-5, rtol=0)
    config = json.loads((tmp_path / "merged" / model.parts[0] / "config.json").read_text())
    assert "quantization_config" not in config


def test_a_pipeline_that_was_saved_in_8_bits_gets_adapters(flux: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    folder = shutil.copytree(flux, tmp_path / "saved")
    shutil.rmtree(folder / "transformer")
    model = adapted_model(flux, "int8", tuning="frozen")
    model.network.save_pretrained(folder / "transformer")
    again = adapted_model(folder, None)
    assert is_quantized(again.network)
    torch.testing.assert_close(
        sampled(again, again.pipeline, 16), sampled(model, model.pipeline, 16), atol=1e-5, rtol=0
    )
    with pytest.raises(ValueError, match="/transformer are quantised, and quantised weights cannot be trained"):
        Flux(str(folder), tuning="full")


@pytest.mark.parametrize("chosen", ["float8", "int8"])
def test_quantised_weights_are_left_out_of_ddp(chosen: str, flux: Path) -> None:
    if chosen == "int8":
        pytest.importorskip("torchao")
    model = adapted_model(flux, chosen)
    prepare_for_ddp(model)
    group: Any = {"init_method": f"file://{flux.parent / 'rendezvous'}", "rank": 0, "world_size": 1}
    torch.distributed.init_process_group("gloo", **group)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        prompts = model.encode_prompts(["a cat"])
        wrapped(noise(model, 1), torch.tensor([300.0]), prompts).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(p.grad is not None for name, p in model.named_parameters() if "lora_B" in name)


class Codes(nn.Parameter):
    """A stand-in for a torchao weight, without the package: `detach`, which broadcasting calls, raises an error."""

    __module__ = "torchao.codes"

    def detach(self) -> Any:
        raise NotImplementedError("quantised weights cannot be broadcast")


@pytest.mark.parametrize("method", ["golden_noise", "one_more_step"])
def test_a_method_beside_a_quantised_model_is_fitted_under_ddp(method: str, tmp_path: Path) -> None:
    """One rank is sufficient, because DDP collects the weights to broadcast for any number of ranks."""
    module, datamodule = (
        (small.module(), small.data(margin=None)) if method == "golden_noise" else (built(Linear(64)), digits(4))
    )
    module.model.codes = Codes(torch.zeros(3), requires_grad=False)
    assert is_quantized(module)
    quiet(strategy="ddp", devices=1, max_steps=1, default_root_dir=tmp_path).fit(module, datamodule)
    assert any(parameter.grad is not None for parameter in module.network.parameters())


def test_a_quantised_network_is_hashed_by_its_codes(quantization: str, flux: Path) -> None:
    network = adapted_model(flux, quantization, tuning="frozen").network
    first = hash_of_module(network)
    assert first == hash_of_module(adapted_model(flux, quantization, tuning="frozen").network)
    assert first != hash_of_module(adapted_model(flux, None, tuning="frozen").network)


def test_a_quantised_network_is_neither_exported_nor_sharded(flux: Path) -> None:
    module: Any = tuning(adapted_model(flux, "float8"))
    with pytest.raises(ValueError, match="quantised weights cannot be exported; `push RUN --merged --output FOLDER` w"):
        module.export_function()
    module.trainer = type("Trainer", (), {"datamodule": None})()
    with pytest.raises(ValueError, match="quantization: ModelParallelStrategy cannot shard quantised weights"):
        check_sharding(module)


def stored(folder: Path) -> Path:
    """Mark the pipeline in this folder as saved with quantised weights, and return the folder."""
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "torchao"}}))
    return folder


REJECTED: list[tuple[str, Callable[[Path], Any], type[Exception], str]] = [
    ("full", lambda _: Flux("/nowhere", tuning="full", weights=Weights(quantization="int8")), ValueError,
     "tuning: quantization is int8, and quantised weights cannot be trained; set tuning to lora, got full"),
    ("stored", lambda folder: Flux(str(folder), tuning="full"), ValueError,
     "tuning: the weights in .*/transformer are quantised, and quantised weights cannot be trained"),
    ("twice", lambda folder: Flux(str(folder), weights=Weights(quantization="int8")), ValueError,
     "quantization: the weights in .*/transformer are already quantised; leave out int8"),
    ("kind", lambda _: Flux("/nowhere", Weights(quantization="int8"), "lora", Adapters(kind="oft")), ValueError,
     "adapters.kind must be lora with weights quantised by torchao, got oft"),
    ("unknown", lambda _: Flux("/nowhere", weights=Weights(quantization="int3")), ValueError,  # type: ignore[arg-type]
     "quantization must be one of None, float8, int8, nf4, got 'int3'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in REJECTED], ids=[row[0] for row in REJECTED])
def test_what_does_not_fit_is_rejected_before_anything_is_loaded(
    call: Callable[[Path], Any], error: type[Exception], message: str, flux: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("lightning_modules.backbones.quantization.find_spec", lambda name: True)
    monkeypatch.setattr("lightning_modules.backbones.diffusion.text_to_image.diffusers_pipeline", None)
    folder = stored(shutil.copytree(flux, tmp_path / "saved"))
    with pytest.raises(error, match=message):
        call(folder)


@pytest.mark.parametrize(("name", "package"), [("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_without_its_package_the_extra_is_named(
    name: Any, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "lightning_modules.backbones.quantization.find_spec"
    monkeypatch.setattr(place, lambda name: None)
    with pytest.raises(ImportError, match=rf"{name} needs {package}: pip install 'noiseworks\[quantized\]'"):
        Flux("/nowhere", weights=Weights(quantization=name))
    (tmp_path / "transformer").mkdir()
    config = {"quantization_config": {"quant_method": package}}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ImportError, match=rf"the quantised weights in .*/transformer need {package}: pip install"):
        Flux(str(tmp_path), tuning="lora")
    monkeypatch.setattr(place, lambda name: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    if name == "nf4":
        with pytest.raises(ValueError, match="quantization: nf4 needs a GPU; int8 also runs on a CPU"):
            Flux("/nowhere", weights=Weights(quantization=name))


def test_a_single_file_is_not_quantised(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    (tmp_path / "all.safetensors").touch()
    with pytest.raises(ValueError, match=r"all\.safetensors is a single file; give the folder or the name"):
        TextToImage(str(tmp_path / "all.safetensors"), weights=Weights(config="x/y", quantization="int8"))
