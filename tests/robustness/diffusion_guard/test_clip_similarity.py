import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from lightning_modules.robustness.diffusion_guard.clip_similarity import CLIP, directional_similarity
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
    """Preprocessing, tokens, projection and length are redone by hand, in float64."""
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
        torch.testing.assert_close(found, unit, rtol=0, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())


def test_images_of_any_size_and_long_texts_are_cut_off(folder: Path) -> None:
    clip = CLIP(str(folder))
    assert clip.images(torch.rand(1, 3, 40, 24, dtype=torch.float64)).shape == (1, 12)
    long = clip.texts(["cat cat cat cat cat cat", "cat cat cat"])
    torch.testing.assert_close(long[0], long[1])  # eight tokens, the first and the last of which are the ends


def test_what_is_no_clip_model_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is no CLIP model: expected a folder"):
        CLIP(str(tmp_path / "nowhere"))
    shutil.copytree(folder, tmp_path / "clip")
    (tmp_path / "clip" / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no CLIP model: expected a folder .* of model, tokenizer and"):
        CLIP(str(tmp_path / "clip"))
