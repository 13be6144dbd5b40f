"""Grids for fixed prompts and seeds: their content, times and paths, and that training is unaffected."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.generation.prompt_grid import PromptGrid
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.guidance import Sampling
from lightning_modules.backbones.diffusion.z_image import ZImage
from tests.callbacks.generation.tiny_generator import TinyGenerator
from tests.callbacks.test_figures_to_loggers import PictureLogger
from tests.diffusion.finetuning.models import captioned, digits, pixel_space, trainer, tuning
from tests.diffusion.finetuning.test_textual_inversion import extended, inversion, plain

CELL, LINE = 64, 14  # pixels of an image in the grid, and of the line above a row
PROMPTS, SEEDS = ["a cat", "a dog"], [5, 3, 8]


def grid(**options: Any) -> PromptGrid:
    return PromptGrid(**{"prompts": PROMPTS, "seeds": SEEDS, "every_n_steps": 2, "num_inference_steps": 2, **options})


def fit(pipeline: Path, folder: Path, callbacks: Sequence[Any], ckpt: Path | None = None, **options: Any) -> Any:
    """Train adapters for two epochs of two batches; return the trainer, which holds the module."""
    torch.manual_seed(0)
    model = text_to_image_pipeline(str(pipeline), tuning="lora")
    if hasattr(model.pipeline, "default_sample_size"):
        model.pipeline.default_sample_size = 8
    of_trainer = {
        key: options.pop(key) for key in ("max_epochs", "logger", "accumulate_grad_batches") if key in options
    }
    own = trainer(folder, **{"max_epochs": 2, "callbacks": list(callbacks), **of_trainer})
    torch.manual_seed(1)
    module = tuning(model, **{"prompts": ["of the module"], **options})
    data = captioned(folder.parent / "images", max(16, model.size_multiple), validation_fraction=0)
    own.fit(module, data, ckpt_path=ckpt, weights_only=True)
    return own


def grids(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("run/figures/prompts/*"))}


def images_of(path: Path, rows: int, columns: int, side: int) -> np.ndarray:
    """Cut a grid of enlarged images into `[rows, columns, H, W, 3]`, at the original resolution."""
    with Image.open(path) as picture:
        sheet = np.asarray(picture).reshape(rows, -1, picture.width, 3)
    every = CELL // side
    cells = [
        sheet[:, LINE + 2 : LINE + 2 + CELL, 2 + c * (CELL + 2) :][:, ::every, :CELL:every] for c in range(columns)
    ]
    return np.stack(cells, axis=1)


def test_grids_show_what_diffusers_generates_with_the_averaged_weights(text_to_image: Path, tmp_path: Path) -> None:
    own = fit(text_to_image, tmp_path / "a", [grid(guidance_scale=3.0)], sampling=Sampling(1, 1.0))
    folder = tmp_path / "a" / "run"
    assert list(grids(tmp_path / "a")) == ["step_000000.png", "step_000002.png", "step_000004.png"]
    with Image.open(folder / "figures/prompts/step_000004.png") as picture:
        assert picture.text == {"rows": "a cat\na dog", "columns": "seed 5\nseed 3\nseed 8"}  # type: ignore[attr-defined]
    alone = StableDiffusionPipeline.from_pretrained(text_to_image)
    for step in (0, 4):
        if step == 4:
            alone.load_lora_weights(folder / "pipeline")
        found = images_of(folder / "figures" / "prompts" / f"step_{step:06d}.png", 2, 3, 16)
        for row, prompt in enumerate(PROMPTS):
            for column, seed in enumerate(SEEDS):
                generator = torch.Generator().manual_seed(seed)
                image = alone(prompt, num_inference_steps=2, guidance_scale=3.0, generator=generator, output_type="np")
                expected = np.floor(255 * image.images[0])
                np.testing.assert_allclose(found[row, column], expected, atol=1, err_msg=f"{step} {prompt} {seed}")
    module = own.lightning_module
    assert (module.prompts, module.num_inference_steps, module.guidance_scale) == (["of the module"], 1, 1.0)


def test_grids_follow_a_word_that_is_learned(text_to_image: Path, tmp_path: Path) -> None:
    prompts = ["a <x> dog", "a dog"]
    own = trainer(tmp_path / "a", max_epochs=2, callbacks=[grid(prompts=prompts, guidance_scale=3.0)])
    module = inversion(text_to_image_pipeline(str(text_to_image)))
    module.optimizer = lambda p: torch.optim.Adam(p, lr=1.0)  # a word that changes images by more than rounding errors
    own.fit(module, plain(tmp_path / "images"))
    learned = StableDiffusionPipeline.from_pretrained(text_to_image)
    learned.load_textual_inversion(tmp_path / "a" / "run" / "pipeline")
    shown = []
    for step, alone in ((0, extended(text_to_image)), (2, learned)):
        shown.append(images_of(tmp_path / "a" / "run" / "figures" / "prompts" / f"step_{step:06d}.png", 2, 3, 16))
        for row, prompt in enumerate(prompts):
            for column, seed in enumerate(SEEDS):
                generator = torch.Generator().manual_seed(seed)
                image = alone(prompt, 16, 16, 2, guidance_scale=3.0, generator=generator, output_type="np").images[0]
                np.testing.assert_allclose(shown[-1][row, column], np.floor(255 * image), atol=1, err_msg=f"{step}")
    assert (shown[0][0] != shown[1][0]).any()
    assert np.array_equal(shown[0][1], shown[1][1])


FAMILIES = (
    "text_to_image",
    "flux",
    "sana",
    "xl",
    "stable_diffusion_3",
    "qwen_image",
    "z_image",
    "pixart_sigma",
    "hunyuan_dit",
)


@pytest.mark.parametrize(
    "family", [pytest.param(each, marks=[pytest.mark.nightly] * (at > 1)) for at, each in enumerate(FAMILIES)]
)
def test_training_and_its_random_numbers_are_the_same_to_the_bit(
    family: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ZImage, "image_size", 16)
    pipeline, cached = request.getfixturevalue(family), {"cache_dir": str(tmp_path / "cache"), "caption_dropout": 0.4}
    trained = fit(pipeline, tmp_path / "a", [grid()], **cached), fit(pipeline, tmp_path / "b", [], **cached)
    assert len(grids(tmp_path / "a")) == 3
    assert not grids(tmp_path / "b")
    one, other = (own.lightning_module.state_dict() for own in trained)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
    assert any("lora_B" in name and value.any() for name, value in one.items())
    assert trained[0].lightning_module.training == trained[1].lightning_module.training
    first, *_, last = grids(tmp_path / "a").values()
    assert first != last


def test_a_run_that_goes_on_draws_the_same_grids(text_to_image: Path, tmp_path: Path) -> None:
    """This requires no state: the optimizer has none, and the seed is set again for every batch."""
    from callbacks.guards.seeding import SeedEveryBatch

    fit(text_to_image, tmp_path / "whole", [SeedEveryBatch(), grid(every_n_steps=1)])
    own = fit(text_to_image, tmp_path / "part", [SeedEveryBatch(), grid(every_n_steps=1)], max_epochs=1)
    own.save_checkpoint(tmp_path / "last.ckpt")
    first = grids(tmp_path / "part")
    fit(text_to_image, tmp_path / "rest", [SeedEveryBatch(), grid(every_n_steps=1)], ckpt=tmp_path / "last.ckpt")
    rest = grids(tmp_path / "rest")
    assert list(first) + list(rest) == list(grids(tmp_path / "whole"))
    assert first | rest == grids(tmp_path / "whole")


def test_batches_of_one_step_draw_one_grid_and_blocks_change_nothing(text_to_image: Path, tmp_path: Path) -> None:
    def drawn(name: str, **options: Any) -> dict[str, bytes]:
        fit(text_to_image, tmp_path / name, [grid(every_n_steps=1, **options)], accumulate_grad_batches=2)
        return grids(tmp_path / name)

    whole, single = drawn("a", batch_size=6), drawn("b", batch_size=1)
    assert list(whole) == ["step_000000.png", "step_000001.png", "step_000002.png"]
    for name in whole:
        one, other = (images_of(tmp_path / each / "run/figures/prompts" / name, 2, 3, 16) for each in "ab")
        np.testing.assert_allclose(one.astype(int), other, atol=1)
    assert single.keys() == whole.keys()


class FlowLogger(MLFlowLogger):
    """Imitates the logger of MLflow, which need not be installed."""

    experiment: Any = None
    run_id = "7"

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.experiment = self

    def log_image(self, run_id: str, image: np.ndarray, key: str, step: int) -> None:
        self.kept.append((run_id, image.shape, key, step))

    def __getattribute__(self, name: str) -> Any:
        ignored = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint")
        return (lambda *_, **__: None) if name in ignored else object.__getattribute__(self, name)


def test_each_logger_gets_each_grid_once(text_to_image: Path, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    own = CSVLogger(tmp_path / "a", name="", version="run")
    board, service = TensorBoardLogger(tmp_path, name="", version="board"), PictureLogger(str(tmp_path))
    flow = FlowLogger()
    fit(text_to_image, tmp_path / "a", [grid(prompts=None)], logger=[own, board, service, flow], max_epochs=2)
    folder = tmp_path / "a" / "run" / "figures" / "prompts"
    steps = (0, 2, 4)
    assert PictureLogger.kept["prompts"] == [([str(folder / f"step_{step:06d}.png")], step) for step in steps]
    events = EventAccumulator(str(tmp_path / "board"), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images("prompts")] == list(steps)
    with Image.open(folder / "step_000002.png") as picture:
        assert picture.text["rows"] == "of the module"  # type: ignore[attr-defined]
        assert flow.kept == [("7", (picture.height, picture.width, 3), "prompts", step) for step in steps]


def test_large_images_are_reduced_and_prompts_come_from_a_file(text_to_image: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\na very long text that is wider than one image of a grid\na dog\n")
    given = grid(prompts=str(tmp_path / "prompts.txt"), seeds=None, seed=4, num_seeds=2, image_size=8)
    fit(text_to_image, tmp_path / "a", [given], max_epochs=1)
    with Image.open(tmp_path / "a/run/figures/prompts/step_000000.png") as picture:
        assert picture.size == (2 + 2 * (CELL + 2), 3 * (LINE + CELL + 4))
        assert picture.text["columns"] == "seed 4\nseed 5"  # type: ignore[attr-defined]
    assert images_of(tmp_path / "a/run/figures/prompts/step_000000.png", 3, 2, 8).shape == (3, 2, 8, 8, 3)


def test_what_does_not_fit_is_rejected_before_training(tmp_path: Path) -> None:
    for wrong, message in (
        ({"seeds": []}, "seeds must not be empty"),
        ({"prompts": []}, "prompts must not be empty"),
        ({"seeds": [3, -1]}, r"seeds\[1\] must be in"),
        ({"name": "../out"}, "name must be the name of a folder, got '../out'"),
    ):
        with pytest.raises(ValueError, match=message):
            grid(**wrong)
    for module, data in ((tuning(pixel_space()), digits()), (TinyGenerator(), digits())):
        with pytest.raises(TypeError, match="PromptGrid needs a module that generates each image from a text"):
            trainer(tmp_path, callbacks=[grid()]).fit(module, data)  # type: ignore[arg-type]
