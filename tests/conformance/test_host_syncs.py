"""Training steps do not wait for the device, but for those that say why; `docs/runs.md` has the table."""

from collections import defaultdict

from tests.command import ROOT
from tests.conformance.host_syncs import KINDS, found

PAGE = ROOT / "docs" / "runs.md"
REASONS: dict[str, str] = {}
"""Why the steps of a method wait: by the row's name."""


def unexplained(method: str, printed: str) -> dict[tuple[str, str], int]:
    """Give what a run has counted, where nothing says why."""
    _, places = found(printed)
    return {} if method in REASONS else places


def table(counted: dict[str, str]) -> str:
    """Write the table of what runs have printed, by the row's name."""
    lines = [f"| method | {' | '.join(KINDS)} | where | why |", f"|---|{'---|' * (len(KINDS) + 2)}"]
    none = []
    for method, printed in sorted(counted.items()):
        steps, places = found(printed)
        if not places:
            none.append(method)
            continue
        sums: dict[str, int] = defaultdict(int)
        for (kind, _), count in places.items():
            sums[kind] += count
        where = sorted({place for _, place in places})
        numbers = " | ".join(f"{sums[kind] / steps:g}" for kind in KINDS)
        lines.append(f"| {method} | {numbers} | {', '.join(where)} | {REASONS.get(method, '')} |")
    lines.append(f"| {len(none)} others |{' 0 |' * len(KINDS)} | |")
    return "\n".join(lines) + "\n"
