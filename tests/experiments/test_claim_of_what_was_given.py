from pathlib import Path

from experiments import claim
from experiments.results import Result
from tests.experiments.test_claim import stated


def test_a_config_is_compared_with_what_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text("")
    given = {"baseline": "demo.yaml", "metric": "test/psnr", "baseline_metric": "test/noisy_psnr", "margin": 2}
    [read] = claim.load_claims(stated(tmp_path / "claim.yaml", **given))
    results = [
        Result("Demo", metric, seed, value + seed)
        for metric, value in (("test/psnr", 30.0), ("test/noisy_psnr", 25.0))
        for seed in (0, 1)
    ]
    found = claim.verdict(read, {(tmp_path / "demo.yaml").resolve(): "Demo"}, results, [])
    assert found.verdict == "holds"
    assert found.method is not None
    assert found.baseline is not None
    assert (found.method.mean, found.baseline.mean) == (30.5, 25.5)
    assert found.baseline.config == "Demo: test/noisy_psnr"
