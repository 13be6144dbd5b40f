import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from callbacks.image_quality import ImageMetricsTable
from datamodules.loading import Loading
from datamodules.restoration.image_pairs import ImagePairs
from datamodules.restoration.images import PatchSampling
from datamodules.restoration.photographs import Photographs
from datamodules.restoration.reduced_images import ReducedImages
from lightning_modules.backbones.resized import times_larger
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.networks.eanet import EANet
from lightning_modules.optim.averages import AveragedWeights
from lightning_modules.restoration.ediffsr import EDiffSR, decay_after
from lightning_modules.sde.mean_reverting import MeanReverting
from tests.trainers import quiet


def module(**arguments: Any) -> EDiffSR:
    torch.manual_seed(0)
    network = EANet(channels=1, width=16, encoder=[1], decoder=[1])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return EDiffSR(network, MeanReverting(8), **{"optimizer": lambda p: torch.optim.SGD(p, lr=0.01), **arguments})


def batch(count: int = 3) -> Any:
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(count, 1, 16, 16, generator=generator, dtype=torch.float64)
    noisy = torch.rand(count, 1, 4, 4, generator=generator, dtype=torch.float64)
    return {"clean": clean, "noisy": noisy, "index": torch.arange(count), "global_batch_size": count}


def test_a_steps_loss_and_gradient_are_those_of_the_equations() -> None:
    trained = module().double()
    trained.log = lambda *args, **options: None  # type: ignore[method-assign]
    given = batch()
    torch.manual_seed(3)
    loss = trained.training_step(given, 0)["loss"]
    torch.manual_seed(3)
    t = torch.randint(1, 9, (3,))
    noise = torch.randn(3, 1, 16, 16, dtype=torch.float64)

    def written_out() -> Tensor:
        large, total, deviation = times_larger(given["noisy"], 4), trained.process.total, 50 / 255
        losses = []
        for row, time in enumerate(t.tolist()):
            mu, clean = large[row : row + 1], given["clean"][row : row + 1]
            b, c, rate = math.exp(-total[time]), math.exp(-total[time - 1]), total[time] - total[time - 1]
            a, std = b / c, deviation * math.sqrt(1 - b * b)
            x = mu + b * (clean - mu) + std * noise[row]
            score = -trained.network(x, mu, time) / std
            made = x - (rate * (mu - x) - 2 * deviation**2 * rate * score)
            best = mu + a * (1 - c * c) / (1 - b * b) * (x - mu) + c * (1 - a * a) / (1 - b * b) * (clean - mu)
            losses.append((made - best).abs().mean())
        return torch.stack(losses).mean()

    expected = written_out()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    parameters = list(trained.network.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)


def test_an_image_is_the_same_in_whatever_batch() -> None:
    trained, given = module().double(), batch()
    whole = trained.estimate(given)
    alone = trained.estimate({key: value[1:2] for key, value in given.items() if key != "global_batch_size"})  # type: ignore[arg-type]
    torch.testing.assert_close(whole[1:2], alone)
    assert not torch.allclose(whole[0], whole[1])
    seeded = [trained.restore(given["noisy"], torch.Generator().manual_seed(5)) for _ in range(2)]
    torch.testing.assert_close(*seeded, rtol=0, atol=0)
    assert seeded[0].shape == (3, 1, 16, 16)


@pytest.mark.parametrize(("options", "calls"), [({}, 8), ({"sampling_steps": 2, "sampler": "posterior"}, 2)])
def test_the_way_back_takes_its_steps_from_the_enlarged_image(options: dict, calls: int) -> None:
    trained, seen = module(**options).double(), []
    trained.network.register_forward_pre_hook(lambda _, given: seen.append((given[1], given[2])))
    given = batch()
    trained.estimate(given)
    assert [time.tolist() for _, time in seen] == [[8 - step * 8 // calls] * 3 for step in range(calls)]
    torch.testing.assert_close(seen[0][0], times_larger(given["noisy"], 4))


class Neighbours(nn.Module):
    """A network without pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.of_both = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor, degraded: Tensor, t: Tensor) -> Tensor:
        return self.of_both(torch.cat([x, degraded], dim=1))


@pytest.mark.parametrize("pools", [True, False])
def test_tiles_change_no_more_than_what_gates_pool(pools: bool) -> None:
    given = {**batch(2), "noisy": torch.rand(2, 1, 8, 8, dtype=torch.float64)}
    trained = module().double()
    trained.network = trained.network if pools else Neighbours().double()
    whole = trained.estimate(given)  # type: ignore[arg-type]
    trained.inference = TiledInference(tile=24, overlap=8)
    difference = float((whole - trained.estimate(given)).detach().abs().max())  # type: ignore[arg-type]
    assert difference > 1e-3 if pools else difference < 1e-12


def test_the_average_copies_then_follows_every_ten_steps() -> None:
    assert [decay_after(step, 0.995) for step in (0, 1, 9, 10, 100)] == [0, 1, 1, 0, 0]
    assert decay_after(110, 0.995) == pytest.approx(1 - 11 ** (-2 / 3))
    assert decay_after(100_000, 0.995) == 0.995


def test_the_weights_that_are_named_are_evaluated() -> None:
    averaged = module(weights="averaged").double()
    before = averaged.estimate(batch())
    with torch.no_grad():
        for parameter in averaged.network.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(averaged.estimate(batch()), before)
    averaged.weights = "trained"
    assert not torch.allclose(averaged.estimate(batch()), before)


def test_both_weights_are_tested_beside_each_other(tmp_path: Path) -> None:
    photographs = ReducedImages(Photographs(16))
    data = ImagePairs(photographs, photographs, batch_size=4, patches=PatchSampling(size=16), loading=Loading(seed=0))
    trained = module(weights="both")
    trained.average = AveragedWeights(trained.network, lambda update: 0.5)
    trainer = quiet(max_epochs=1, default_root_dir=tmp_path, callbacks=[ImageMetricsTable()])
    trainer.fit(trained, data)
    [both] = trainer.test(trained, data, verbose=False)
    row = pd.read_csv(tmp_path / "image_quality.csv").iloc[-1]
    assert row["averaged_psnr"] == pytest.approx(both["test/averaged_psnr"], abs=1e-4)
    for weights, name in (("trained", "psnr"), ("averaged", "averaged_psnr")):
        trained.weights = weights  # type: ignore[assignment]
        [alone] = trainer.test(trained, data, verbose=False)
        assert alone["test/psnr"] == pytest.approx(both[f"test/{name}"], abs=1e-5)
        assert "test/averaged_psnr" not in alone
    assert both["test/averaged_psnr"] != both["test/psnr"]


def test_images_are_trained_on_tested_and_written_large(tmp_path: Path) -> None:
    trained = module()
    photographs = ReducedImages(Photographs(32))
    data = ImagePairs(photographs, photographs, batch_size=4, patches=PatchSampling(size=16), loading=Loading(seed=0))
    trainer = quiet(max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(trained, data)
    [metrics] = trainer.test(trained, data, verbose=False)
    pixels = [torch.from_numpy(each)[None].double() / 255 for each in photographs.images("test").noisy or []]
    clean = [torch.from_numpy(each)[None].double() / 255 for each in photographs.images("test").clean or []]
    errors = [float((times_larger(y, 4) - x).square().mean()) for y, x in zip(pixels, clean, strict=True)]
    assert metrics["test/noisy_psnr"] == pytest.approx(np.mean([-10 * math.log10(each) for each in errors]), abs=1e-4)
    assert metrics["test/psnr"] < metrics["test/noisy_psnr"]
    assert trained.image_columns({**batch(1), "noisy": torch.rand(1, 1, 4, 4)}, None)["bicubic"].shape == (1, 1, 16, 16)  # type: ignore[union-attr]
    folder = tmp_path / "small"
    folder.mkdir()
    Image.fromarray((255 * pixels[0][0, 0].numpy()).round().astype(np.uint8)).save(folder / "mine.png")
    trainer.predict(trained, ImagePairs(predict_dir=str(folder)))
    assert Image.open(tmp_path / "restored" / "mine.png").size == (32, 32)
