"""Draw a study: its history or Pareto front, the importance of the keys, and the metric over each key."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.claims.arms import shorten_class
from experiments.figures import colour, legend_above, panels, save_with_note
from experiments.sweeps.variations import to_number
from experiments.tuning.search import Metric, Search
from experiments.tuning.study import Study, Trial

FEW = 5
"""Number of complete trials below which no importance is computed."""


def draw_study(study: Study, path: Path) -> None:
    """Draw the trials of a study that has at least one complete trial.

    Args:
        study: study to draw.
        path: output file.
    """
    metrics, searches = study.metrics, study.searches
    short = study.short_names
    importance = importances(study)
    pairs = range(1, len(metrics))
    count = max(1, len(pairs)) + bool(importance) + len(metrics) * len(searches)
    figure, axes = panels(count, width=3.6, height=2.7)
    following = iter(axes)
    first = next(following)
    if len(metrics) == 1:
        _draw_history(study, first)
    else:
        for other, ax in zip(pairs, (first, *(next(following) for _ in pairs[1:])), strict=True):
            _draw_front(study, other, ax)
    legend_above(figure, first)
    if importance:
        ax = next(following)
        height = 0.8 / len(metrics)
        for place, (metric, own) in enumerate(zip(metrics, importance, strict=True)):
            rows = [row + (place - (len(metrics) - 1) / 2) * height for row in range(len(searches))]
            ax.barh(rows, [own[each.key] for each in searches], height, color=colour(place), label=metric.name)
        ax.set_yticks(range(len(searches)), short, fontsize=8)
        ax.set_ylim(len(searches) - 0.5, -0.5)
        ax.set_title("importance (PED-ANOVA)", fontsize=10, loc="left")
        if len(metrics) > 1:
            ax.legend(fontsize=7, frameon=False)
    for place, metric in enumerate(metrics):
        for number, search in enumerate(searches):
            ax = next(following)
            _draw_slice(study, place, search, [each.settings[number] for each in study.trials], ax)
            ax.set_xlabel(short[number], fontsize=9)
            ax.set_ylabel(metric.label, fontsize=8)
    note = f"{len(study.trials)} trials, {len(study.of_state('failed'))} failed"
    if study.noisy:
        note += "; the validation labels are noisy"
    save_with_note(figure, note, path)


def importances(study: Study) -> list[dict[str, float]]:
    """Estimate, for each metric, how much of the difference between good and other trials each key explains."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    complete = study.of_state("complete")
    if len(complete) < FEW or any(len({t.values[i] for t in complete}) == 1 for i in range(len(study.metrics))):
        return []
    asked, found = study.optuna(), []
    for place, metric in enumerate(study.metrics):

        def low(trial: Any, place: int = place, metric: Metric = metric) -> float:
            """Return a value that is low for good trials, as the evaluator expects and always warns."""
            return -metric.sign * trial.values[place]

        with warnings.catch_warnings(action="ignore", category=UserWarning):
            found.append(get_param_importances(asked, evaluator=PedAnovaImportanceEvaluator(), target=low))
    return found


def _draw_history(study: Study, ax: Any) -> None:
    """Draw the value of each trial, and the best complete value so far. Crosses at the lower edge are failures."""
    complete, [metric] = study.of_state("complete"), study.metrics
    ax.plot([t.number for t in complete], [t.values[0] for t in complete], "o", color=colour(0), markersize=4,
            label="complete")  # fmt: skip
    _draw_pruned(study, 0, [float(each.number) for each in study.trials], ax)
    if failed := study.of_state("failed"):
        ax.plot([t.number for t in failed], [0.02] * len(failed), "x", color="0.35", markersize=5, label="failed",
                transform=ax.get_xaxis_transform())  # fmt: skip
    best, so_far = -math.inf, []
    for each in complete:
        best = max(best, metric.sign * each.values[0])
        so_far.append(metric.sign * best)
    ends = [*(each.number for each in complete), study.trials[-1].number]
    ax.plot(ends, [*so_far, so_far[-1]], color=colour(3), drawstyle="steps-post", linewidth=1.4, label="best so far")
    ax.set_title(metric.label, fontsize=10, loc="left")
    ax.set_xlabel("trial", fontsize=9)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(alpha=0.3)


def _draw_pruned(study: Study, place: int, positions: Sequence[float], ax: Any) -> None:
    if pruned := study.of_state("pruned"):
        x, y = [positions[t.number] for t in pruned], [t.values[place] for t in pruned]
        ax.plot(x, y, "o", color="0.55", markerfacecolor="white", markersize=4, label="pruned (last value)", zorder=1)


def _draw_front(study: Study, other: int, ax: Any) -> None:
    """Draw the complete trials over two metrics, and connect the trials of the Pareto front."""
    complete, front = study.of_state("complete"), study.best()
    ax.plot([t.values[0] for t in complete], [t.values[other] for t in complete], "o", color="0.6", markersize=4,
            label="complete")  # fmt: skip
    style = "o-" if len(study.metrics) == 2 else "o"
    ax.plot([t.values[0] for t in front], [t.values[other] for t in front], style, color=colour(3), markersize=5,
            linewidth=1.2, label="Pareto front")  # fmt: skip
    for each in front[:12]:
        ax.annotate(str(each.number), (each.values[0], each.values[other]), fontsize=7, textcoords="offset points",
                    xytext=(4, 3))  # fmt: skip
    ax.set_xlabel(study.metrics[0].label, fontsize=9)
    ax.set_ylabel(study.metrics[other].label, fontsize=9)
    ax.grid(alpha=0.3)


def _draw_slice(study: Study, place: int, search: Search, texts: Sequence[str], ax: Any) -> None:
    """Draw a metric over the values of one key. The best trials have the colour of the best value in the history."""
    names = list(search.ends) if search.kind == "choice" else []
    positions = [float(names.index(text)) if names else to_number(text) for text in texts]
    best = study.best()[:1] if len(study.metrics) == 1 else study.best()

    def draw(trials: Sequence[Trial], **style: Any) -> None:
        ax.plot([positions[t.number] for t in trials], [t.values[place] for t in trials], "o", markersize=4, **style)

    _draw_pruned(study, place, positions, ax)
    draw(study.of_state("complete"), color=colour(0))
    draw(best, color=colour(3))
    if names:
        ax.set_xticks(range(len(names)), [shorten_class(name) for name in names], fontsize=8)
        ax.set_xlim(-0.5, len(names) - 0.5)
    elif search.kind == "log":
        ax.set_xscale("log")
    ax.grid(alpha=0.3)
