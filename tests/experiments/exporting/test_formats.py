"""An export format is one file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import nn

from experiments import commands
from experiments.exporting import formats
from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from tests.backbones.diffusion.test_export import moved
from tests.diffusion.finetuning.models import pixel_space, tuning

FORMAT = '''"""numbers.txt, one line for each tensor"""
NEEDS = ("a_package_of_nobody",)
def write(folder, export): ...
'''


def test_a_file_is_a_format_with_its_help_and_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert all(callable(formats.load_format(name).write) for name in ("torch", "safetensors"))
    (tmp_path / "numbers.py").write_text(FORMAT)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    assert formats.names() == ["comfyui", "kohya", "onnx", "safetensors", "torch", "numbers"]
    with pytest.raises(SystemExit):
        commands.parse("export", ["--help"])
    assert "    numbers      numbers.txt, one line for each tensor\n" in capsys.readouterr().out
    given = commands.parse("export", ["run", "--format", "numbers"])
    with pytest.raises(ValueError, match=r"--format numbers needs a_package_of_nobody: pip install 'noiseworks\[numb"):
        formats.load_format(given.format)


@pytest.mark.parametrize(("kind", "rslora", "alpha"), [("text_to_image", False, 3.0), ("xl", True, 3 * 2**0.5)])
def test_diffusers_alone_loads_adapters_under_names_of_kohya(
    kind: str, rslora: bool, alpha: float, tmp_path: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("transformers.integrations.peft.check_peft_version", lambda min_version: None)  # wants 0.22
    folder: Path = request.getfixturevalue(kind)
    text = Adapters(rank=2, alpha=5)
    model = TextToImage(
        str(folder), tuning="lora", adapters=Adapters(rank=2, alpha=3, rslora=rslora), text_adapters=text
    )
    moved(model)
    module: Any = tuning(model.eval(), average_decay=0.0)
    code = formats.load_format("kohya").write_adapters(tmp_path, module)
    assert 'load_lora_weights(".", weight_name="kohya.safetensors")' in code
    written = load_file(tmp_path / "kohya.safetensors")
    layer = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    assert {f"{layer}.alpha", f"{layer}.lora_down.weight", f"{layer}.lora_up.weight"} <= written.keys()
    encoders = ["lora_te_"] if kind == "text_to_image" else ["lora_te1_", "lora_te2_"]
    for prefix, wanted in (("lora_unet_", alpha), *((each, 5.0) for each in encoders)):
        alphas = [written.pop(name) for name in list(written) if name.startswith(prefix) and name.endswith(".alpha")]
        assert {round(float(value), 5) for value in alphas} == {round(wanted, 5)}
    assert all(name.startswith(("lora_unet_", *encoders)) and ".lora_" in name for name in written)
    pipeline: Any = StableDiffusionPipeline if kind == "text_to_image" else StableDiffusionXLPipeline
    alone = pipeline.from_pretrained(folder)
    alone.load_lora_weights(tmp_path, weight_name="kohya.safetensors")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}
    expected = alone("a cat", latents=noise, output_type="pt", **options).images
    torch.testing.assert_close(
        model.generate(model.encode_prompts(["a cat"]), noise, **options), expected, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("tool", ["kohya", "comfyui"])
def test_formats_of_adapters_need_adapters(tool: str, tmp_path: Path) -> None:
    write = formats.load_format(tool).write_adapters
    with pytest.raises(
        ValueError, match=f"--format {tool} needs a text-to-image model with tuning: lora; this run has"
    ):
        write(tmp_path, tuning(pixel_space()))
    with pytest.raises(TypeError, match=rf"--format {tool} needs .*SavesAdapters.*save_adapters"):
        write(tmp_path, nn.Linear(2, 2))
