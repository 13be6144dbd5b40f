import itertools
import math
import threading
from collections.abc import Iterator

import pytest
import torch
from scipy import stats
from torch import Tensor

from lightning_modules.interfaces import SmoothedClassifier
from lightning_modules.robustness.certificates import votes
from lightning_modules.robustness.certificates.adaptive_sampling import Anytime, Curve, InputSpecific, Stages
from lightning_modules.robustness.certificates.modes import Certificate, FixedSampling, MeanProbability, Mode, Predict
from lightning_modules.robustness.certificates.statistics import ABSTAIN
from lightning_modules.robustness.certificates.votes import BlockNoise, GaussianSmoothing, VoteCounter
from lightning_modules.training.tested_images import LabelledImage

SIGMA = 0.25
SHAPE = (2, 3, 3)
NORMAL = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
OFFSET = float(0.5 * NORMAL.sum())
CPU = torch.device("cpu")


def half_space(noisy: Tensor) -> Tensor:
    """Predict class 0 on one side of a plane, in float64 so that batching does not change a vote."""
    height = (noisy.double() * NORMAL).flatten(1).sum(1) - OFFSET
    return torch.stack([height, torch.zeros_like(height), torch.full_like(height, -9.0)], dim=1)


def images(count: int) -> list[LabelledImage]:
    random = torch.Generator().manual_seed(2)
    pictures = [torch.rand(SHAPE, generator=random) for _ in range(count)]
    return [LabelledImage(index, image, int(half_space(image[None]).argmax())) for index, image in enumerate(pictures)]


def exact_radius(image: Tensor) -> float:
    return abs(float((image.double() * NORMAL).sum() - OFFSET)) / float(NORMAL.norm())


def certify(
    mode: Mode,
    batch_size: int,
    pictures: list[LabelledImage],
    smoothed: SmoothedClassifier | None = None,
    seed: int = 0,
) -> dict[int, Certificate]:
    counter = VoteCounter(smoothed or GaussianSmoothing(half_space), mode, SIGMA, batch_size, seed, CPU)
    found = {done.index: done.certificate for done in counter.certify(iter(pictures))}
    assert counter.num_draws == sum(certificate.draws for certificate in found.values())
    return found


def certify_together(mode: Mode, batch_size: int, pictures: list[LabelledImage], world_size: int) -> list[dict]:
    """Imitate each process by a thread, and certify; the processes share the draws of every image."""
    barrier, sent = threading.Barrier(world_size, timeout=600), [torch.empty(0)] * world_size
    results: list[dict] = [{}] * world_size

    def run(rank: int) -> None:
        def add(counts: Tensor) -> None:
            sent[rank] = counts.clone()
            barrier.wait()
            counts.copy_(torch.stack(sent).sum(0))
            barrier.wait()

        counter = VoteCounter(GaussianSmoothing(half_space), mode, SIGMA, batch_size, 0, CPU, rank, world_size, add)
        results[rank] = {done.index: done.certificate for done in counter.certify(iter(pictures))}

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


VOTING: list[Mode] = [
    FixedSampling(n0=100, n=1234, alpha=0.01),
    Stages(radius=0.2, n0=50, n=(100, 500), alpha=0.01),
    InputSpecific(n0=100, n_max=1500),
    Anytime(radius=0.2, n_max=1500),
    Curve(grid=0.1, n_max=600),
    Predict(n=150),
    MeanProbability(n0=100, n=1234),
]


@pytest.mark.parametrize("mode", VOTING, ids=lambda mode: mode.name)
def test_counts_do_not_depend_on_batches_or_processes(mode: Mode) -> None:
    pictures = images(6)
    expected = certify(mode, 1000, pictures)
    assert len(expected) == 6
    assert certify(mode, 7, pictures[:2]) == {index: expected[index] for index in (0, 1)}
    assert certify(mode, 100, pictures[::-1]) == expected
    for world_size in (2, 3):
        parts = [certify(mode, 250, pictures[rank::world_size]) for rank in range(world_size)]
        assert {key: value for part in parts for key, value in part.items()} == expected
        assert certify_together(mode, 130, pictures, world_size) == [expected] * world_size
    other_noise = certify(mode, 1000, pictures, seed=1)
    assert [c.hits for c in other_noise.values()] != [c.hits for c in expected.values()]


def test_half_space_is_certified_up_to_its_exact_radius() -> None:
    """The radius never exceeds the exact one, and is within 5 % of it with 20,000 draws."""
    n = 20_000
    pictures = [p for p in images(90) if 1.2 < exact_radius(p.image) / SIGMA < 2.4][:5]
    assert len(pictures) == 5
    claims = certify(FixedSampling(n=n), 5000, pictures)
    for picture in pictures:
        claim, truth = claims[picture.index], exact_radius(picture.image)
        assert claim.prediction == picture.label
        assert 0.95 <= claim.radius / truth <= 1
        p = stats.norm.cdf(truth / SIGMA)
        assert abs(claim.hits[0] / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_scores_of_a_sure_classifier_are_its_votes() -> None:
    pictures = images(4)
    sure = GaussianSmoothing(lambda noisy: 1e9 * half_space(noisy))
    votes, scores = (
        certify(FixedSampling(n=500), 300, pictures, sure),
        certify(MeanProbability(n=500), 300, pictures, sure),
    )
    assert [(c.selected, c.hits) for c in votes.values()] == [(c.selected, c.hits) for c in scores.values()]
    assert all(scores[index].radius < votes[index].radius for index in votes if votes[index].radius > 0)


def test_mean_probability_is_the_expected_softmax() -> None:
    """For two classes with logits (h, 0) and h ~ N(m, s^2), compare with the integral of the sigmoid."""
    picture = images(1)
    n, deviation = 4000, SIGMA * float(NORMAL.norm())
    claim = certify(MeanProbability(n=n), 700, picture, GaussianSmoothing(lambda noisy: half_space(noisy)[:, :2]))[0]
    mean = float((picture[0].image.double() * NORMAL).sum() - OFFSET)
    grid = stats.norm.ppf((torch.arange(20_000).double() + 0.5) / 20_000)
    probability = 1 / (1 + torch.exp(-(mean + deviation * torch.as_tensor(grid))))
    truth = float(probability.mean()) if claim.selected == 0 else 1 - float(probability.mean())
    assert abs(claim.hits[0] / n - truth) < 4 * float(probability.std()) / math.sqrt(n)
    assert claim.p_lower[0] < truth


def test_a_classifier_that_guesses_is_not_certified() -> None:
    def guess(noisy: Tensor) -> Tensor:
        return torch.nn.functional.one_hot((noisy[:, 0, 0, 0].double() * 1e6).floor().long() % 10, 10).double()

    claims = certify(FixedSampling(n=1000), 500, images(4), GaussianSmoothing(guess))
    assert {claim.prediction for claim in claims.values()} == {ABSTAIN}


def test_ties_go_to_the_lowest_class() -> None:
    claims = certify(FixedSampling(n=200), 64, images(1), GaussianSmoothing(lambda noisy: torch.zeros(len(noisy), 4)))
    assert (claims[0].prediction, claims[0].hits) == (0, (200,))


# noise


def test_noise_is_standard_normal_and_its_blocks_are_independent() -> None:
    noise, shape = BlockNoise(3, CPU), torch.Size((1, 6, 6))
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 2)]
    blocks = torch.stack([noise.block(*key, shape).flatten() for key in keys]).double()
    correlation = torch.corrcoef(blocks) - torch.eye(len(keys))
    assert correlation.abs().max() < 4.5 / math.sqrt(blocks.shape[1])
    assert stats.kstest(blocks.flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.equal(BlockNoise(3, CPU).block(0, 1, 0, shape).flatten().double(), blocks[2])
    assert not torch.equal(BlockNoise(4, CPU).block(0, 0, 0, shape).flatten().double(), blocks[0])


def test_seeds_of_an_images_blocks_differ_where_a_generator_keeps_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    noise, seeds = BlockNoise(0, CPU), []

    class Recorder:
        device = CPU

        def manual_seed(self, seed: int) -> None:
            seeds.append(seed)

    monkeypatch.setattr(noise, "generator", Recorder())
    monkeypatch.setattr(torch, "randn", lambda *shape, generator, device, dtype: torch.empty(0))
    for stage, block in itertools.product((0, 1, 2, 7), (0, 1, 999, 2**20 - 1)):
        noise.block(5, stage, block, torch.Size((1, 1, 1)))
    assert len({seed % 2**32 for seed in seeds}) == len(seeds) == 16


def test_pieces_of_a_stream_are_the_stream() -> None:
    noise, shape = BlockNoise(0, CPU), torch.Size((1, 2, 2))
    whole = torch.cat(noise.draws(4, 1, 0, 350, shape))
    assert whole.shape == (350, 1, 2, 2)
    pieces = [noise.draws(4, 1, start, stop, shape) for start, stop in [(0, 30), (30, 130), (130, 131), (131, 350)]]
    assert torch.equal(torch.cat([part for piece in pieces for part in piece]), whole)


def test_noise_is_added_in_float32_under_mixed_precision() -> None:
    image, noise = torch.rand(5, 1, 4, 4), torch.randn(5, 1, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        [seen] = GaussianSmoothing(lambda noisy: noisy).smoothed_logits(image, noise, 0.25)
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen, image + 0.25 * noise)


# several votes


class TwoHalves:
    """Dual smoothing of two half-spaces, each of which receives one channel of the noisy image."""

    certificate = "two half-spaces"

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        noisy = (image + sigma * noise).double()
        height = [(noisy[:, c] * NORMAL[c]).flatten(1).sum(1) - 0.5 * NORMAL[c].sum() for c in (0, 1)]
        return torch.stack([torch.stack([h, -h], dim=1) for h in height])

    def certified_radius(self, probability, sigma: float) -> float:
        return sigma / math.sqrt(2) * float(sum(stats.norm.ppf(p) for p in probability))


def test_two_votes_share_the_level_and_the_radius_is_the_modules_own() -> None:
    smoothed = TwoHalves()
    assert isinstance(smoothed, SmoothedClassifier)
    pictures = images(6)
    claims = certify(FixedSampling(n=4000, alpha=0.01), 900, pictures, smoothed)
    for picture in pictures:
        margin = (picture.image.double() - 0.5) * NORMAL / SIGMA
        height = [float(margin[c].sum() / NORMAL[c].norm()) for c in (0, 1)]
        claim = claims[picture.index]
        assert claim.selected == (0 if sum(stats.norm.cdf(height)) > 1 else 1)
        bounds = [stats.beta.ppf(0.005, k, 4000 - k + 1) for k in claim.hits]
        assert claim.p_lower == pytest.approx(bounds, rel=1e-10)
        assert len(bounds) == 2
        truth = SIGMA / math.sqrt(2) * abs(sum(height))
        assert claim.radius <= truth
        if truth > 0.05:
            assert claim.radius > 0.8 * truth - 0.02
    labelled = [LabelledImage(p.index, p.image, claims[p.index].selected) for p in pictures]
    faster = (Anytime(n_max=1000), Curve(0.05, n_max=1000), InputSpecific(n_max=3000), Stages(0.1, n=(100, 900)))
    for mode in faster:
        adaptive = certify(mode, 700, labelled, smoothed)
        for index, claim in adaptive.items():
            assert claim.radius <= 1.05 * claims[index].radius + 0.02
        assert max(claim.radius for claim in adaptive.values()) > 0.1
    with pytest.raises(ValueError, match="has 2 votes: use mode fixed"):
        certify(Predict(n=100), 100, pictures, smoothed)


# network outputs


def test_logits_that_are_no_numbers_or_of_another_shape_stop_the_certification() -> None:
    def broken(noisy: Tensor) -> Tensor:
        return torch.where(noisy[:, :1, 0, 0] > 1.2, torch.nan, 1.0).expand(-1, 3)

    for mode in (FixedSampling(n=1000), MeanProbability(n=1000)):
        with pytest.raises(ValueError, match="NaN for"):
            certify(mode, 100, images(2), GaussianSmoothing(broken))
    with pytest.raises(ValueError, match=r"\[S, 1, K\]"):
        certify(FixedSampling(n=1000), 100, images(1), GaussianSmoothing(lambda noisy: noisy))


def test_batches_are_full_until_the_last_images() -> None:
    sizes: list[int] = []
    taken = 0

    def network(noisy: Tensor) -> Tensor:
        sizes.append(len(noisy))
        return half_space(noisy)

    def source() -> Iterator[LabelledImage]:
        nonlocal taken
        for picture in images(40):
            taken += 1
            yield picture

    counter = VoteCounter(GaussianSmoothing(network), FixedSampling(n=1000), SIGMA, 500, 0, CPU)
    for done, _ in enumerate(counter.certify(source()), start=1):
        assert taken <= done + 10  # few requests are pending, so that an interruption loses little
    assert sizes[0] == 1  # the shape of the logits
    assert set(sizes[1:-2]) == {100}  # on a CPU, a network sees one block of samples at a time


def test_tensors_are_certified_without_a_trainer() -> None:
    """The result is in the order of the images, whatever the batch size, and follows from the generator."""
    pictures, mode = images(4), Anytime(radius=0.1, n0=10, n_max=400)
    given = torch.stack([each.image for each in pictures])
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(5)))
    expected = certify(mode, 64, pictures, seed=seed)
    for batch_size in (64, 7):
        found = votes.certify(half_space, given, SIGMA, mode, batch_size, generator=torch.Generator().manual_seed(5))
        assert found == [expected[index] for index in range(4)]
    smoothed = Watched()
    smoothed.train()
    votes.certify(smoothed, given, SIGMA, FixedSampling(n0=10, n=10))
    assert smoothed.modes == {False}
    assert smoothed.training
    with pytest.raises(ValueError, match="mode curve needs labels, got None: pass labels, or use mode FixedSampling"):
        votes.certify(half_space, given, SIGMA, Curve())


class Watched(torch.nn.Module):
    """A half-space that records its modes."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: set[bool] = set()

    def forward(self, noisy: Tensor) -> Tensor:
        self.modes.add(self.training)
        return half_space(noisy)
