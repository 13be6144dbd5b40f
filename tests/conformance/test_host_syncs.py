"""Training steps do not synchronise with the device, except for reasons in the table of `docs/clusters.md`."""

from collections import defaultdict

from tests.command import ROOT
from tests.conformance.host_syncs import KINDS, found

PAGE = ROOT / "docs" / "clusters.md"
SEARCH = "line search: the host compares losses to decide whether to continue"
SINGULAR = "singular values: the host checks whether the decomposition has converged"
TOKENS = "without a cache, captions are tokenised on the host in each step, as in diffusers' pipelines"
REASONS = {
    "datamodules/rollouts/rollouts.py Rollouts._act": (
        "environments are simulated on the host, which queries the policy for an action in each state"
    ),
    "lightning_modules/optimization/sso/descent.py LineSearchDescent.training_step.<locals>.descend": SEARCH,
    "lightning_modules/diffusion/golden_noise/npnet.py SVDBranch.forward": SINGULAR,
    **{
        f"lightning_modules/backbones/diffusion/{file} {family}.embed": TOKENS
        for file, family in (
            ("flux.py", "Flux"),
            ("flow_transformer.py", "StableDiffusion3"),
            ("text_to_image.py", "TextToImage"),
            ("wan.py", "Wan"),
        )
    },
    "lightning_modules/optim/averages.py AveragedWeights._stage": (
        "with average_on_cpu, weights are copied to the host in each step; only on CUDA, the copy is asynchronous"
    ),
    "lightning_modules/distributed/per_sample.py PerSample.update": (
        "the gradient norms of all samples are in host memory, as in the paper; each batch's rows are copied both ways"
    ),
    "lightning_modules/noisy_labels/nmtune/module.py singular_value_term": SINGULAR,
    "lightning_modules/optimization/mbbo/blocks.py solved": (
        "the Cholesky factorisation is checked: a matrix that is not positive definite raises an error"
    ),
    "lightning_modules/optimization/mbbo/blocks.py with_eigenvalues_above": (
        "eigenvalues are expensive, and are computed only for the matrices that need them"
    ),
    "lightning_modules/optimization/optimistic_omd/optimizers.py OnlineOptimizer.check": (
        "checked once per batch of rounds: a gradient whose norm exceeds G ends the run"
    ),
    "lightning_modules/optimization/sso/target_steps.py LineSearchStep.forward": SEARCH,
    "lightning_modules/optimization/subgm.py SubGM._record": SINGULAR,
    "lightning_modules/optimization/subgm.py signal_and_residual": SINGULAR,
    "lightning_modules/probabilistic/colide/module.py CoLiDE.training_step": (
        "a step runs many iterations in NumPy on the host, in double precision, and copies the result to the device"
    ),
    "lightning_modules/optimization/sso/line_search.py search": SEARCH,
}
"""Reasons for host synchronisations, keyed by `place_of` without the line: a file, or a function in it."""


def reason(place: str) -> str | None:
    """Return the reason, a key of `REASONS`, for synchronisations counted at a location."""
    file, _, function = place.partition(" ")
    file = file.partition(":")[0]
    return next((key for key in (f"{file} {function}", file) if key in REASONS), None)


def unexplained(printed: str) -> dict[tuple[str, str], int]:
    """Return the synchronisations without a documented reason from the printed counts of a run."""
    _, places = found(printed)
    return {(kind, place): count for (kind, place), count in places.items() if reason(place) is None}


def table(counted: dict[str, str]) -> str:
    """Write the table of the runs' counts, by row name."""
    used: list[str] = []
    lines = [f"| method | {' | '.join(KINDS)} | why |", f"|---|{'---|' * (len(KINDS) + 1)}"]
    none = []
    for method, printed in sorted(counted.items()):
        steps, places = found(printed)
        if not places:
            none.append(method)
            continue
        sums: dict[str, int] = defaultdict(int)
        for (kind, _), count in places.items():
            sums[kind] += count
        keys = dict.fromkeys(reason(place) or place for _, place in places)
        used.extend(key for key in keys if key not in used)
        numbers = " | ".join(f"{sums[kind] / steps:.3g}" for kind in KINDS)
        lines.append(f"| {method} | {numbers} | {', '.join(f'[{used.index(key) + 1}]' for key in keys)} |")
    lines += [f"| {len(none)} others |{' 0 |' * len(KINDS)} |", ""]
    lines += [f"{number}. `{key}`: {REASONS.get(key, 'not explained')}" for number, key in enumerate(used, 1)]
    return "\n".join([*lines, "", f"The others: {', '.join(none)}."]) + "\n"


def test_only_what_says_why_may_wait() -> None:
    REASONS["a.py search"] = "a line search"
    try:
        line = '{"steps": 2, "places": [["item", "a.py:7 search", 4], ["item", "a.py:9 training_step", 2]]}'
        assert unexplained(f"host syncs: {line}") == {("item", "a.py:9 training_step"): 2}
        assert "| some | 3 | 0 | 0 | 0 | 0 | [1], [2] |" in table({"some": f"host syncs: {line}"})
    finally:
        del REASONS["a.py search"]


def test_reasons_name_files_and_functions() -> None:
    for key in REASONS:
        file, _, function = key.partition(" ")
        text = (ROOT / file).read_text()
        assert all(f" {part}" in text for part in function.split(".") if part and part != "<locals>"), key
