"""Each family of pipelines matches plain diffusers, is trained with its pipeline's inputs and saved in its format."""

import json
import pkgutil
import re
import shutil
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor

from lightning_modules.backbones import diffusion
from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.cached_latents import cache_latents
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.pixart import PixArtSigma
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights, families
from tests.backbones.diffusion.family_checks import CAPTIONS, FAMILIES, SOURCE, Family, exported, noise
from tests.diffusion.finetuning.models import assert_gradients_equal, captioned, conditioned, loss_of_a_step, tuning

ROOT = Path(__file__).parents[3]


def test_each_family_is_listed_by_the_class_of_its_network() -> None:
    """Each family is exported by its package, and has a row in the table of these tests."""
    for module in pkgutil.iter_modules(diffusion.__path__, f"{diffusion.__name__}."):
        import_module(module.name)
    exported = {getattr(diffusion, name) for name in diffusion.__all__ if isinstance(getattr(diffusion, name), type)}
    assert {*families().values()} == {each for each in exported if issubclass(each, TextToImage)}
    of_images = {model for model in families().values() if model.frame_multiple is None}
    assert of_images == {TextToImage, *(each.model for each in FAMILIES.values())}
    assert families()["PixArtTransformer2DModel"] is families()["Transformer2DModel"] is PixArtSigma


def test_each_family_has_a_configuration_and_a_row_of_the_guide() -> None:
    """`CONTRIBUTING.md` says how to add a family."""
    rows = (ROOT / "docs" / "fine_tuning.md").read_text().splitlines()
    for model in {*families().values()}:
        [*_, row] = [row for row in rows if row.startswith("|") and f"| `{model.__name__}` |" in row]
        for name in re.findall(r"\(\.\./(configs/\S+\.yaml)\)", row):
            assert (
                "diffusion.TextToImage" in row
                or model is TextToImage
                or f"diffusion.{model.__name__}" in (ROOT / name).read_text()
            ), name
        assert "configs/" in row, model


LIKE_OTHERS = ("flux2_klein", "chroma", "lumina2")
"""Families whose code is nearly that of another; tested only nightly."""


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.nightly if name in LIKE_OTHERS else ()) for name in FAMILIES]
)
def folder(request: pytest.FixtureRequest) -> Path:
    """Return the folder of a family's tiny pipeline."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def family(request: pytest.FixtureRequest, folder: Path) -> Family:
    return FAMILIES[request.node.callspec.params["folder"]]


def test_it_generates_what_diffusers_alone_generates(family: Family, folder: Path) -> None:
    model = text_to_image_pipeline(str(folder))
    assert type(model) is family.model
    latent, prompts = noise(model, 2, family.side), model.encode_prompts(CAPTIONS[:2])
    found = model.generate(prompts, latent, 2, 2.0, torch.Generator().manual_seed(1), **family.source(model, "image"))
    torch.testing.assert_close(found, family.images(family.loaded(folder), latent), rtol=1e-4, atol=1e-5)
    assert (model.image_size, model.size_multiple) == family.sizes
    assert not torch.equal(*prompts.embedding)
    assert model.state_dict() == {}


@pytest.mark.parametrize("folder", [name for name in FAMILIES if FAMILIES[name].shift], indirect=True)
def test_a_step_of_the_sampler_is_eulers(family: Family, folder: Path) -> None:
    """The first step leads from noise z at t = 1 to z + (t' - t) v, independently of the network's sign and times."""
    model = family.model(str(folder), **({"training_guidance": 2.0} if family.options else {}))
    prompts, latent = model.encode_prompts(CAPTIONS[:2]), noise(model, 2, family.side)
    found: list[Tensor] = []

    def keep(pipe: Any, step: int, time: Any, now: dict[str, Tensor]) -> dict[str, Tensor]:
        found.append(now["latents"])
        return now

    given = {key: value for key, value in family.given.items() if key != "negative_prompt"}
    given |= family.unguided if not family.options else {"guidance_scale": 2.0}
    sizes: Any = {"height": family.side, "width": family.side, "output_type": "latent", "num_inference_steps": 3}
    model.pipeline(
        **{**model.for_pipeline(prompts, prompts), **given, **sizes},
        latents=(family.start or family.pack)(latent),
        callback_on_step_end=keep,
    )
    t, later = model.scheduler.sigmas[:2]
    with torch.no_grad():
        velocity = model(latent, model.scheduler.timesteps[0], prompts, **family.source(model, "source"))
    torch.testing.assert_close(found[0], family.pack(latent + (later - t) * velocity), rtol=1e-4, atol=1e-4)
    assert t > 0.99


def test_a_steps_loss_and_gradient_are_those_of_calls_as_the_pipeline_makes_them(family: Family, folder: Path) -> None:
    network, alone = family.model(str(folder), tuning="full", **family.options), family.loaded(folder)
    image = torch.rand(3, 3, family.side, family.side, generator=torch.Generator().manual_seed(0))
    source: Any = {"condition": SOURCE} if network.takes_source else {}
    loss = loss_of_a_step(tuning(network), {"image": image, "caption": CAPTIONS, **source})
    alone.transformer.train()
    torch.manual_seed(5)
    expected = family.loss(alone, image, CAPTIONS, network.latent_shape(1, family.side, family.side)[1:])
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert_gradients_equal(network.network, alone.transformer)


def test_adapters_lower_the_loss_of_one_image_and_diffusers_alone_loads_them(
    family: Family, folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = text_to_image_pipeline(str(folder), tuning="lora", adapters=Adapters(rank=2))
    latent, prompts = noise(model, 2, family.side), model.encode_prompts(CAPTIONS[:2])
    given: Any = family.source(model, "image")
    before = model.generate(prompts, latent, 2, 2.0, torch.Generator().manual_seed(1), **given)
    train_on_one_image(model, family)
    alone = family.loaded(folder)
    if family.merged:
        alone.transformer = type(alone.transformer).from_pretrained(exported(model, tmp_path) / "transformer")
    else:
        alone.load_lora_weights(exported(model, tmp_path))
    found = model.generate(prompts, latent, 2, 2.0, torch.Generator().manual_seed(1), **given)
    torch.testing.assert_close(found, family.images(alone, latent), atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 1e-3


def train_on_one_image(model: TextToImage, family: Family) -> None:
    """Train adapters on one image with fixed times and noise, and check that the loss falls."""
    module, many = tuning(model), 4
    prompts = model.encode_prompts(["a cat"]).rows([0] * many)
    shade = torch.rand(1, 3, family.side, family.side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        latent = model.encode(shade).expand(many, -1, -1, -1)
    e, network = noise(model, many, family.side, seed=2), partial(model, **family.source(model, "source", 1))
    t = module.objective.held_out_times(torch.arange(many))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses: list[float] = []
    for _ in range(family.steps):
        optimizer.zero_grad()
        loss = module.objective.errors(network, latent, prompts, e, t).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0], losses
    model.eval()


def test_half_precision_is_inside_and_float64_where_it_is_asked_for(family: Family, folder: Path) -> None:
    """Outputs are float32 with half-precision weights or adapters, and float64 for a float64 model."""
    half: dict[str, Any] = {"weights": Weights(dtype="bfloat16")}
    for tuned, options in ((False, half), (True, {**half, "tuning": "lora"}), (False, {})):
        model = family.model(str(folder), **options)  # type: ignore[arg-type]
        wanted = torch.float32 if options else torch.float64
        model = model if options else model.double()
        prompts, given = model.encode_prompts(["a"]), noise(model, 1, family.side).to(wanted)
        output = model(given, torch.tensor([5.0] if model.prediction == "flow" else [5]), prompts)
        assert output.dtype == wanted
        assert output.requires_grad == tuned
        if options:
            assert prompts.embedding.dtype == torch.bfloat16
            assert model.generate(prompts, given, num_inference_steps=1, guidance_scale=2.0).dtype == torch.float32


def test_what_is_cached_equals_what_is_computed(family: Family, folder: Path, tmp_path: Path) -> None:
    """The cached moments and embeddings, and the training loss, equal those computed from the images directly."""
    network = text_to_image_pipeline(str(folder), tuning="lora")
    with_sources = partial(conditioned, first=4) if network.takes_source else captioned
    plain, data = (with_sources(tmp_path / "images", family.side) for _ in range(2))
    for one in (plain, data):
        one.setup("fit")
    cache_latents(network, data, str(tmp_path / "cache"), torch.device("cpu"))
    assert plain.train_set is not None
    assert data.train_set is not None
    request = next(iter(plain.evaluation_loader(plain.train_set).sampler))
    whole, cached = plain.train_set[request], data.train_set[request]
    image = whole["image"].float() / 255
    torch.testing.assert_close(cached["moments"], network.moments(image), atol=1e-5, rtol=1e-4)
    if network.takes_source:
        whole["condition"] = whole["condition"].float() / 255
        torch.testing.assert_close(cached["source_moments"], network.moments(whole["condition"]), atol=1e-5, rtol=1e-4)
    prompts = network.encode_prompts(whole["caption"])
    for name in network.prompt_fields:
        torch.testing.assert_close(cached[name], getattr(prompts, name), atol=1e-5, rtol=1e-4, msg=name)
    module = tuning(network)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    losses = []
    for batch in ({**whole, "image": image}, cached):
        torch.manual_seed(0)
        losses.append(module.training_step({**batch, "global_batch_size": len(image)}, 0)["loss"].detach())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_old_name_of_a_network_is_known(pixart_sigma: Path, tmp_path: Path) -> None:
    """The authors' `model_index.json` of PixArt-Sigma names the class by which diffusers called it then."""
    shutil.copytree(pixart_sigma, tmp_path / "old")
    index = tmp_path / "old" / "model_index.json"
    index.write_text(index.read_text().replace("PixArtTransformer2DModel", "Transformer2DModel"))
    model = text_to_image_pipeline(str(tmp_path / "old"))
    assert isinstance(model, PixArtSigma)
    assert isinstance(model.network, PixArtTransformer2DModel)


def test_an_unknown_pipeline_is_rejected_by_a_sentence_that_names_what_is_missing(sana: Path, tmp_path: Path) -> None:
    """The rejection does not load any parts of the pipeline."""
    index = json.loads((sana / "model_index.json").read_text())
    for name in index:
        (tmp_path / name).mkdir()
    index["transformer"] = ["diffusers", "AuraFlowTransformer2DModel"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    supported = r"supported are TextToImage \(UNet2DConditionModel\), .*PixArtSigma \(PixArtTransf.*, Flux \(FluxTransf"
    with pytest.raises(ValueError, match=f"its transformer is a AuraFlowTransformer2DModel; {supported}"):
        text_to_image_pipeline(str(tmp_path))
    with pytest.raises(ValueError, match=f"lacks unet; its model_index.json has: .*; {supported}"):
        TextToImage(str(tmp_path))
    with pytest.raises(ValueError, match=f"must be of class PixArt.*, got AuraFlowTransformer2DModel; {supported}"):
        PixArtSigma(str(tmp_path))


def test_a_pipeline_of_another_family_names_its_model(sana: Path, pixart_sigma: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got SanaTransformer2DModel; use Sana for this pipeline"):
        PixArtSigma(str(sana))
    index = json.loads((pixart_sigma / "model_index.json").read_text())
    for name in index:
        (tmp_path / name).mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"_class_name": "PixArtAlphaPipeline"}))
    with pytest.raises(ValueError, match=r"_class_name of .* must be of class PixArtSigmaPipeline, got PixArtAlphaPip"):
        PixArtSigma(str(tmp_path))


def test_a_pipeline_without_a_network_is_rejected(sana: Path, tmp_path: Path) -> None:
    index = json.loads((sana / "model_index.json").read_text())
    del index["transformer"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="it has neither unet nor transformer; supported are"):
        text_to_image_pipeline(str(tmp_path))
