"""Ten steps of the presets of diffusers' training scripts are those of a loop with the calls of the scripts."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from experiments.calls.build import build
from experiments.calls.execute import execute
from experiments.calls.parse import parse
from tests.command import ROOT
from tests.datamodules.image_folders import photograph, save

ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
CLIP = ["q_proj", "k_proj", "v_proj", "out_proj"]


CONFIG = ROOT / "configs/finetuning/released_lora.yaml"
TEXT_TO_IMAGE, XL, DREAMBOOTH = [
    [],
    *(shlex.split(line.removeprefix("#")) for line in CONFIG.read_text().splitlines() if line.startswith("#   --")),
]
"""Options of the three scripts, as the header of the configuration gives them."""


def run_of(script: list[str], pipeline: Path, folder: Path) -> Any:
    for number, caption in enumerate(("a cat", "dog", "a bird", "a")):
        save(folder / "images" / f"{number}.png", photograph(20, 20, number))
        (folder / "images" / f"{number}.txt").write_text(caption)
    options = {
        "--model.network.pipeline": pipeline,
        "--data.images.data_dir": folder / "images", "--data.images.image_size": 16, "--data.batch_size": 2,
        "--data.loading.num_workers": 0, "--run_directory": folder / "run", "--trainer.max_steps": 10,
        "--trainer.max_epochs": -1, "--trainer.accelerator": "cpu", "--trainer.enable_progress_bar": "false",
        "--trainer.enable_model_summary": "false",
    }  # fmt: skip
    return build(
        parse(["fit", "--config", str(CONFIG), *script, *(str(part) for pair in options.items() for part in pair)])
    )


def embedded(alone: Any, captions: list[str]) -> tuple[Tensor, Any]:
    """Embed captions as the scripts do: for SDXL, with the hidden states before the last layer of both encoders."""

    def ids(tokenizer: Any) -> Tensor:
        length = tokenizer.model_max_length
        return tokenizer(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids

    if not hasattr(alone, "text_encoder_2"):
        return alone.text_encoder(ids(alone.tokenizer), return_dict=False)[0], None
    one = alone.text_encoder(ids(alone.tokenizer), output_hidden_states=True)
    two = alone.text_encoder_2(ids(alone.tokenizer_2), output_hidden_states=True)
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1), two[0]


@pytest.mark.parametrize(
    ("script", "fixture", "rate"),
    [
        (TEXT_TO_IMAGE, "text_to_image", 1e-4),
        (DREAMBOOTH, "text_to_image", 5e-4),
        pytest.param(XL, "xl", 1e-4, marks=pytest.mark.nightly),
    ],
    ids=["text to image", "dreambooth", "xl"],
)
@pytest.mark.usefixtures("no_pictures")
def test_ten_steps_are_those_of_the_script(
    script: list[str], fixture: str, rate: float, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pipeline = request.getfixturevalue(fixture)
    run = run_of(script, pipeline, tmp_path)
    module, recorded = run.model, []
    assert run.trainer.gradient_clip_val == (None if script == TEXT_TO_IMAGE else 1.0)
    step = module.training_step

    def recording(batch: Any, batch_idx: int) -> Any:
        recorded.append((torch.get_rng_state(), dict(batch)))
        return step(batch, batch_idx)

    module.training_step = recording
    named = {name: each for name, each in module.network.named_parameters() if each.requires_grad}
    initial = {name: each.detach().clone() for name, each in named.items()}
    deviation = torch.cat([each.flatten() for name, each in initial.items() if "lora_A" in name]).std()
    assert deviation == pytest.approx(1 / 4, rel=0.05)
    execute(run)

    alone: Any = DiffusionPipeline.from_pretrained(pipeline)
    trained = {"network": (alone.unet, ATTENTION)}
    if script == DREAMBOOTH:
        trained["text_encoders.0"] = alone.text_encoder, CLIP
    for part in (alone.unet, alone.vae, alone.text_encoder, getattr(alone, "text_encoder_2", alone.vae)):
        part.requires_grad_(False)
    theirs: dict[str, Any] = {}
    for prefix, (part, targets) in trained.items():
        # `add_adapter` of transformers 5.24 asks for peft 0.22
        inject_adapter_in_model(
            LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=targets), part
        )
        theirs |= {f"{prefix}.{name}": each for name, each in part.named_parameters() if each.requires_grad}
    assert theirs.keys() == initial.keys()
    for name, each in theirs.items():
        each.data.copy_(initial[name])
    scheduler = DDPMScheduler.from_pretrained(pipeline, subfolder="scheduler")
    optimizer = torch.optim.AdamW(theirs.values(), lr=rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    assert len(recorded) == 10
    for state, batch in recorded:
        torch.set_rng_state(state)
        latents = alone.vae.encode(2 * batch["image"] - 1).latent_dist.sample() * alone.vae.config.scaling_factor
        noise = torch.randn_like(latents.contiguous())  # on a CPU, the order of randn_like is that of the memory
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (2,)).long()
        states, pooled = embedded(alone, batch["caption"])
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": batch["size_conditions"]}
        noisy = scheduler.add_noise(latents, noise, timesteps)
        predicted = alone.unet(noisy, timesteps, states, added_cond_kwargs=added, return_dict=False)[0]
        F.mse_loss(predicted.float(), noise.float(), reduction="mean").backward()
        if script != TEXT_TO_IMAGE:  # this script passes an iterator that the optimizer has consumed
            torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for name, each in named.items():
        torch.testing.assert_close(each, theirs[name], rtol=1e-4, atol=1e-6)
        assert not torch.equal(each, initial[name])
