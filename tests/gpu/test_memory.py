"""Peak memory and largest batch: WTA-CRS, ELR's targets, and fine-tuning of a diffusion model."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.backbones import Adapters, with_lora
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from lightning_modules.diffusion.finetuning.module import DiffusionFineTuning
from lightning_modules.diffusion.finetuning.objectives import DiffusionObjective, denoising_errors
from lightning_modules.distributed.per_sample import PerSample
from lightning_modules.efficiency.wta_crs.module import sample_products
from lightning_modules.efficiency.wta_crs.products import Sampler
from tests.gpu.place import GIBIBYTE, LIMIT, Place, largest
from tests.tiny_pipelines import STABLE_DIFFUSION, VOCABULARY, save_text_to_image, save_tokenizer

VARIANTS = {  # low rank, kept share of the tokens, and the paper's memory reduction factors for T5-base
    "full": (False, None, ""),
    "WTA-CRS of 30 %": (False, 0.3, "paper: 2.1"),
    "WTA-CRS of 10 %": (False, 0.1, "paper: 2.4"),
    "LoRA": (True, None, "paper: 1.3"),
    "LoRA with WTA-CRS of 30 %": (True, 0.3, "paper: 2.7"),
    "LoRA with WTA-CRS of 10 %": (True, 0.1, "paper: 3.2"),
}

STORED = {  # how frozen weights are stored, and the tolerance of the loss
    "float32": (Weights(), 0.0),
    "bfloat16": (Weights(dtype="bfloat16"), 0.02),
    "float8": (Weights(quantization="float8"), 0.1),
    "bfloat16, blocks on the CPU": (Weights(dtype="bfloat16", offload_blocks=True), 0.02),
}


@contextmanager
def within_limit(at: Place) -> Iterator[int]:
    """Limit the device's memory to `LIMIT`, if it has more, and yield the limit in bytes."""
    if at.device.type != "cuda":
        yield 4 * 2**20
        return
    total = torch.cuda.get_device_properties(at.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, LIMIT / total))
    try:
        yield min(LIMIT, total)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def fits(step: Callable[[int], object], network: nn.Module, limit: int, at: Place, batch: int) -> bool:
    """Return whether a step on a batch stays within the limit."""
    try:
        return at.peak(partial(step, batch), network) <= limit
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        for parameter in network.parameters():
            parameter.grad = None
        gc.collect()


def text_steps(lora: bool, ratio: float | None, at: Place) -> tuple[nn.Module, Callable[[int], None]]:
    """Build T5-base with random weights, and an AdamW step on a batch of texts with 128 tokens."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    width, layers = at.of((768, 12), (64, 2))
    config = T5Config(
        d_model=width, d_kv=at.of(64, 16), d_ff=4 * width, num_layers=layers, num_heads=at.of(12, 4),
        vocab_size=at.of(32_128, 100), decoder_start_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    network = T5ForConditionalGeneration(config).train()
    sampler = None
    if lora:
        with_lora(network, Adapters(32, ["q", "k", "v"], dropout=0.1))
    if ratio is not None:
        sampler = Sampler(ratio)
        layers_sampled = ["*.lora_A.default"] if lora else ["*.o", "*.wi", "*.wo"]
        sample_products(network, layers_sampled, ["*Attention"], sampler, compact=True)
    network.to(at.device)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=3e-5)
    tokens = at.of(128, 16)

    def step(batch: int) -> None:
        if sampler is not None:
            sampler.begin_step(batch)
        ids = torch.randint(100, (batch, tokens), device=at.device)
        first = torch.zeros(batch, 1, dtype=torch.int64, device=at.device)
        logits = network(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=first, use_cache=False)
        F.cross_entropy(logits.logits[:, 0].float(), ids[:, 0]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return network, step


@pytest.mark.gpu(minutes=5)
def test_wta_crs(at: Place) -> None:
    """Memory of WTA-CRS.

    The peak with the paper's batch of 100 texts of 128 tokens, and the largest batch that fits.
    """
    peaks: dict[str, int] = {}
    batches: dict[str, int] = {}
    batch = at.of(100, 4)
    for name, (lora, ratio, paper) in VARIANTS.items():
        network, step = text_steps(lora, ratio, at)
        step(2)  # AdamW's state exists from now on
        with within_limit(at) as limit:
            batches[name] = largest(partial(fits, step, network, limit, at), at.of(8192, 64))
        label = f"T5-base, {name}: largest batch within {LIMIT // GIBIBYTE} GiB, over full"
        more = "paper: up to 6.4, of its largest models" if ratio else ""
        at.keep(label, f"{batches[name]} ({batches[name] / max(1, batches['full']):.2f})", more)
        peaks[name] = at.peak(partial(step, batch), network)
        label = f"T5-base, {name}: peak memory of batches of {batch}, full over it"
        at.keep(label, f"{peaks[name] / 1e9:.2f} GB ({peaks['full'] / peaks[name]:.2f})", paper)
        del network, step
        gc.collect()


@pytest.mark.gpu(minutes=1)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_targets(dtype: torch.dtype, at: Place) -> None:
    """Memory of ELR's targets for a dataset of ImageNet's size, and the time to update a batch's rows."""
    samples, classes, batch = at.of(1_300_000, 1300), 1000, 256
    label = f"ELR, targets of {samples:,} samples of {classes:,} classes in {str(dtype).removeprefix('torch.')}"
    expected = samples * classes * dtype.itemsize
    before = torch.cuda.memory_allocated() if at.device.type == "cuda" else 0
    memory = PerSample(classes).allocate(samples, at.device, dtype)
    held = torch.cuda.memory_allocated() - before if at.device.type == "cuda" else expected
    index = torch.randperm(samples, device=at.device)[:batch]
    value = torch.rand(batch, classes, device=at.device)

    def update() -> None:
        memory.update(index, value, lambda old, new: 0.7 * old + 0.3 * new)

    seconds = at.seconds(update, at.of(100, 2))
    text = f"{held / 1e9:.2f} GB, {seconds * 1e3:.2f} ms for the rows of a batch of {batch}"
    at.keep(label, text, f"<= {1.01 * expected / 1e9:.2f} GB", held <= 1.01 * expected)


def pipeline(at: Place) -> Path:
    """Save a pipeline of Stable Diffusion 1.5's size with random weights, once; in a rehearsal, a tiny one."""
    folder = at.scratch / "pipeline"
    if (folder / "saved" / "model_index.json").is_file():
        return folder / "saved"
    if at.rehearse:
        return save_text_to_image(folder)
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder.mkdir(parents=True, exist_ok=True)
    text = CLIPTextConfig(
        vocab_size=2 + len(VOCABULARY), hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    widths = (128, 256, 512, 512)
    vae = AutoencoderKL(
        block_out_channels=widths, down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, sample_size=512,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=save_tokenizer(folder, VOCABULARY, 77),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        scheduler=DDIMScheduler(**STABLE_DIFFUSION, set_alpha_to_one=False, clip_sample=False), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder / "saved")  # fmt: skip
    return folder / "saved"


def diffusion_steps(
    tuning: Any, cached: bool, at: Place, weights: Weights | None = None, recomputes: bool = False
) -> tuple[nn.Module, Callable[[int], Tensor]]:
    """Build the module and a bf16-mixed step on 512-pixel images or their cached latents, with weight averages."""
    torch.manual_seed(0)
    lora: dict[str, Any] = {"adapters": Adapters(rank=4)} if tuning == "lora" else {}
    network = TextToImage(
        str(pipeline(at)), weights or Weights(), tuning=tuning, gradient_checkpointing=recomputes, **lora
    )
    module = DiffusionFineTuning(network, average_decay=0.999).to(at.device)
    [optimizer], _ = module.configure_optimizers()
    size = at.of(512, 16)
    moments, prompts = None, None
    if cached:
        with torch.no_grad():
            moments = network.moments(torch.rand(1, 3, size, size, device=at.device))
            prompts = network.encode_prompts(["a photo"])

    def step(batch: int) -> Tensor:
        with torch.autocast(at.device.type, torch.bfloat16):
            if moments is not None and prompts is not None:
                given = {"moments": moments.expand(batch, *moments.shape[1:]).contiguous()}
                given["embedding"] = prompts.embedding.expand(batch, *prompts.embedding.shape[1:]).contiguous()
            else:
                given = {"image": torch.rand(batch, 3, size, size, device=at.device)}
                given["caption"] = ["a photo"] * batch  # type: ignore[assignment]
            latent, texts = module.given_values(given, torch.randn_like)  # type: ignore[arg-type]
            objective = module.objective
            assert isinstance(objective, DiffusionObjective)
            t = torch.randint(len(objective.abar), (batch,), device=at.device)
            noise: Tensor = torch.randn_like(latent)
            errors = denoising_errors(network, latent, texts, noise, t, objective.abar, objective.prediction)
        errors.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        return errors.detach().mean()

    return module, step


@pytest.mark.gpu(minutes=2)
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "images"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_finetuning(tuning: str, cached: bool, at: Place) -> None:
    """Memory of LoRA and full fine-tuning, with and without cached latents."""
    batch = at.of(4, 2)
    network, step = diffusion_steps(tuning, cached, at)
    step(1)
    seconds = at.seconds(partial(step, batch), at.of(10, 1), warm=at.of(2, 0))
    peak = at.peak(partial(step, batch), network)
    with within_limit(at) as limit:
        most = largest(partial(fits, step, network, limit, at), at.of(256, 4))
    name = f"{'LoRA' if tuning == 'lora' else 'all weights'}, {'cached latents' if cached else 'images of 512 pixels'}"
    text = f"{peak / 1e9:.2f} GB and {seconds:.2f} s a step of {batch}, at most {most} in {LIMIT // GIBIBYTE} GiB"
    at.keep(f"U-Net of Stable Diffusion 1.5, {name}", text)


@pytest.mark.gpu(minutes=2)
def test_frozen_weights(at: Place) -> None:
    """Memory of LoRA with frozen weights in float32, bfloat16 and float8, and with the blocks' weights on the CPU.

    Activations are recomputed, so most of the memory is that of weights. The losses of the first step are compared.
    """
    batch = at.of(4, 2)
    losses: dict[str, float] = {}
    peaks: dict[str, int] = {}
    for name, (weights, tolerance) in STORED.items():
        module, step = diffusion_steps("lora", True, at, weights, recomputes=True)
        torch.manual_seed(1)
        losses[name] = float(step(batch))
        seconds = at.seconds(partial(step, batch), at.of(10, 1), warm=at.of(2, 0))
        peaks[name] = at.peak(partial(step, batch), module)
        plain = [values["float32"] for values in (peaks, losses)]
        less = f"< {plain[0] / 1e9:.2f} GB" if name != "float32" else ""
        text = f"{peaks[name] / 1e9:.2f} GB and {seconds:.2f} s a step of {batch}"
        at.keep(
            f"U-Net of Stable Diffusion 1.5, {name}",
            text,
            less,
            at.rehearse or peaks[name] < plain[0] if less else None,
        )
        off = abs(losses[name] / plain[1] - 1)
        at.keep(f"{name}: loss, relative to float32", f"{off:.1e}", f"<= {tolerance}", off <= tolerance)
        del module, step
        gc.collect()
