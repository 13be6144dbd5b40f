import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from transformers import CLIPModel

import train
from lightning_modules.robustness.diffusion_guard.editing import (
    CLIP,
    directional_similarity,
    edit_ssim,
    group_by_prompt,
    psnr_where,
)
from tests.robustness.diffusion_guard.linear_inpainter import LinearInpainter, guarding, images
from tests.robustness.diffusion_guard.test_protected_files import arguments
from tests.robustness.diffusion_guard.tiny_clip import VOCABULARY, save_tiny_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "saved")


def test_the_direction_is_the_cosine_of_differences() -> None:
    embeddings = torch.nn.functional.normalize(torch.randn(4, 5, 7, dtype=torch.float64), dim=2)
    found = directional_similarity(*embeddings)
    edit, source, prompt, text = embeddings.numpy()
    for row in range(5):
        image, words = edit[row] - source[row], prompt[row] - text[row]
        expected = image @ words / np.sqrt((image @ image) * (words @ words))
        assert float(found[row]) == pytest.approx(expected, abs=1e-12)
    same = embeddings[0]
    torch.testing.assert_close(directional_similarity(*embeddings[:2], *embeddings[:2]), torch.ones_like(found))
    torch.testing.assert_close(directional_similarity(same, same, *embeddings[2:]), torch.zeros_like(found))


def test_embeddings_are_the_saved_models(folder: Path) -> None:
    """Preprocessing, tokens, projection and normalisation are reimplemented by hand in float64."""
    clip = CLIP(str(folder))
    image = torch.rand(2, 3, 16, 16)
    texts = ["a cat", "dog"]
    model = CLIPModel.from_pretrained(folder).double().eval()
    mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    pixels = (image.double() - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    tokens = (
        ["<|startoftext|>", "a</w>", "c", "a", "t</w>", "<|endoftext|>"],
        ["<|startoftext|>", "d", "o", "g</w>", "<|endoftext|>"],
    )
    with torch.no_grad():
        seen = model.vision_model(pixel_values=pixels).pooler_output
        texts_read = [torch.tensor([[VOCABULARY.index(token) for token in each]]) for each in tokens]
        read = torch.cat([model.text_model(input_ids=each).pooler_output for each in texts_read])
        expected = seen @ model.visual_projection.weight.T, read @ model.text_projection.weight.T
    for found, by_hand in zip((clip.images(image), clip.texts(texts)), expected, strict=True):
        assert found.shape == (2, 12)
        unit = (by_hand / by_hand.norm(dim=1, keepdim=True)).float()
        rounded = transformers.__version__.startswith("5.0.")  # its image processor rounds to 8 bits
        torch.testing.assert_close(found, unit, rtol=0, atol=1e-3 if rounded else 1e-5)
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())


def test_images_of_any_size_and_long_texts_are_cut_off(folder: Path) -> None:
    clip = CLIP(str(folder))
    assert clip.images(torch.rand(1, 3, 40, 24, dtype=torch.float64)).shape == (1, 12)
    long = clip.texts(["cat cat cat cat cat cat", "cat cat cat"])
    torch.testing.assert_close(long[0], long[1])  # eight tokens, including the start and end tokens


def test_what_is_no_clip_model_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a CLIP model: expected a folder"):
        CLIP(str(tmp_path / "nowhere"))
    shutil.copytree(folder, tmp_path / "clip")
    (tmp_path / "clip" / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"not a CLIP model: expected a folder .* with model, tokenizer and"):
        CLIP(str(tmp_path / "clip"))


def test_prompts_are_edited_by_in_rounds() -> None:
    assert group_by_prompt([["a cat", "a"], ["a dog"]]) == [([0, 1], ["a cat", "a dog"]), ([0], ["a"])]
    assert group_by_prompt([]) == []


def test_what_is_compared_is_the_mean_over_edits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compare with the definitions in float64, with the embeddings of a tiny CLIP model."""
    image, regions, index = (each[:2] for each in images())
    image = image.expand(-1, 3, -1, -1).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    regions = regions.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    keep = regions.any(dim=1, keepdim=True)
    batch: Any = {"image": image, "regions": regions, "editor_keeps": keep, "index": index, "name": ["", ""]}
    batch |= {"prompt": [["a", "cat"], ["dog"]], "source_prompt": ["dog", "a cat"], "global_batch_size": 2}
    inpainter = LinearInpainter()
    guard = guarding(inpainter, objective="random", epsilon=0.2, clip=str(save_tiny_clip(tmp_path / "clip")))
    guard.setup("test")
    monkeypatch.setattr(inpainter, "noise_given", lambda image, *_: image)
    shown = guard.test_step(batch, 0)
    clip, guarded = CLIP(str(tmp_path / "clip")), guard.protect(image, regions, index)
    torch.testing.assert_close(shown["protected"], guarded)
    psnr, similar, directed = [], [], []
    for row, prompt in ((0, "a"), (1, "dog"), (0, "cat")):
        edit, before = (
            inpainter.edit(each[row : row + 1], keep[row : row + 1].double(), [prompt], each)[0]
            for each in (guarded, image)
        )
        psnr.append(-10 * np.log10((edit - before).square().mean().item()))
        e, x = clip.images(edit[None])[0].double().numpy(), clip.images(image[row : row + 1])[0].double().numpy()
        t, s = clip.texts([prompt, batch["source_prompt"][row]]).double().numpy()
        similar.append(e @ t)
        directed.append((e - x) @ (t - s) / np.linalg.norm(e - x) / np.linalg.norm(t - s))
    for name, expected in (
        ("edit_psnr", psnr), ("clip_similarity", similar), ("clip_directional_similarity", directed)
    ):  # fmt: skip
        assert float(guard.metrics.mean(name).compute()) == pytest.approx(np.mean(expected), abs=1e-4)


def test_ssim_is_that_of_its_definition() -> None:
    """Compute mean, variance and covariance in Gaussian windows by hand."""
    one, two = torch.rand(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axis = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(axis, axis) / axis.sum() ** 2
    x, y = (
        np.lib.stride_tricks.sliding_window_view(np.pad(image[0, 0].numpy(), 5, mode="reflect"), (11, 11))
        for image in (one, two)
    )

    def mean(values: np.ndarray) -> np.ndarray:
        return (window * values).sum(axis=(2, 3))

    mx, my = mean(x), mean(y)
    vx, vy, xy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    expected = (2 * mx * my + 1e-4) * (2 * xy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert float(edit_ssim(one, two)) == pytest.approx(expected.mean(), abs=1e-9)


def test_psnr_where_the_editor_repaints_leaves_out_what_it_keeps() -> None:
    one, two = torch.rand(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    where = torch.zeros(3, 1, 8, 8, dtype=torch.float64)
    where[:2, :, 2:5, 3:] = 1
    two[1] = one[1] + 0.01
    kept = torch.where(where.bool(), two, 5.0)  # which has no effect
    found = psnr_where(one, kept, where)
    expected = -10 * np.log10(np.square((one - two)[0, :, 2:5, 3:].numpy()).mean())
    assert float(found[0]) == pytest.approx(expected, abs=1e-9)
    assert float(found[1]) == pytest.approx(40, abs=1e-9)
    assert found[2].isnan()


@pytest.mark.nightly
def test_edits_are_compared_with_their_prompts(folder: Path, pipeline: Path, tmp_path: Path) -> None:
    prompts = {"one": {"source": "a", "edits": ["a cat", "a"]}, "two": {"source": "dog", "edits": ["cat"]}}
    (folder / "prompts.json").write_text(json.dumps(prompts))
    clip = ["--model.clip", str(save_tiny_clip(tmp_path / "clip"))]
    assert train.main(["test", *arguments(folder, pipeline), "--run_directory", str(tmp_path), *clip]) == 0
    metrics = pd.read_csv(tmp_path / "test_metrics.csv").set_index("metric")["value"]
    clip_names = {f"test/clip_{kind}similarity{of}" for kind in ("", "directional_") for of in ("", "_unprotected")}
    edits = {f"test/{name}" for name in ("edit_psnr", "edit_psnr_repainted", "edit_ssim")}
    both = {name + mask for name in clip_names | edits for mask in ("", "_unseen")}
    assert set(metrics.index) == both | {"test/noise_norm", "test/noise_norm_unprotected"}
    assert np.isfinite(metrics).all()
    assert metrics.filter(like="clip").abs().max() <= 1
    assert (tmp_path / "figures" / "protection.png").stat().st_size > 0


@pytest.mark.nightly
def test_comparing_needs_prompts(folder: Path, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "prompts.json").unlink()
    clip = save_tiny_clip(tmp_path / "clip")
    settings = [*arguments(folder, pipeline), "--run_directory", str(tmp_path / "run"), "--model.clip"]
    assert train.main(["test", *settings, str(clip)]) != 0
    assert "clip needs prompts to compare edits with, but the data have none" in capsys.readouterr().err
    assert train.main(["test", *settings, str(tmp_path / "none")]) != 0
    assert "none is not a CLIP model" in capsys.readouterr().err
