"""Guards: callbacks of every run. `configs/defaults.yaml` sets them by name."""

from dataclasses import dataclass, fields
from typing import Any

from lightning.pytorch import Callback

CLASSES = {
    "callbacks.guards.SeedEveryBatch": "seed_every_batch",
    "callbacks.guards.Contracts": "sanity_checks",
    "callbacks.guards.FiniteLoss": "finite_loss",
    "callbacks.predictions.WritePredictions": "write_predictions",
    "callbacks.figures_to_loggers.FiguresToLoggers": "figures_to_loggers",
}
"""Map from class paths of guards in version 0.1 to names of guards."""
NOW = {"callbacks.guards.Contracts": {"class_path": "callbacks.guards.SanityChecks"}}
"""New class paths of guards whose class was renamed after version 0.1."""


@dataclass
class Guards:
    """Callbacks that every run has. They are called before those in `trainer.callbacks`. null disables a callback.

    Args:
        seed_every_batch: seeds all random number generators before each batch. The seed depends on the run and on the
            batch.
        sanity_checks: checks before training starts that model, data and trainer are compatible.
        finite_loss: stops a run whose training loss is NaN or infinite.
        write_predictions: writes the class probabilities of `predict` to disk.
        figures_to_loggers: logs the run's figures to its loggers.
    """

    seed_every_batch: Callback | None = None
    sanity_checks: Callback | None = None
    finite_loss: Callback | None = None
    write_predictions: Callback | None = None
    figures_to_loggers: Callback | None = None

    @property
    def callbacks(self) -> list[Callback]:
        """The enabled callbacks, in the order in which they are called."""
        given = [getattr(self, field.name) for field in fields(self)]
        return [each for each in given if each is not None]


def check_guards(settings: dict[str, Any], path: object) -> None:
    """Raise an error unless `guards` maps known names to callbacks or null.

    Raises:
        ValueError: if `guards` is invalid. The message names the file, the key, its value and the allowed values.
    """
    guards = settings.get("guards", {})
    names = ", ".join(CLASSES.values())
    if not isinstance(guards, dict):
        raise ValueError(
            f"{path}: guards is {guards!r}, but must be a mapping such as {{finite_loss: null}}, "
            f"where null disables one of {names}; other callbacks belong in trainer.callbacks"
        )
    given = {**guards, **{key.removeprefix("guards."): settings[key] for key in settings if key.startswith("guards.")}}
    for name, value in given.items():
        if name.partition(".")[0] not in CLASSES.values():
            raise ValueError(
                f"{path}: guards.{name} is {value!r}, but there is no such guard: the guards are {names}; "
                f"other callbacks belong in trainer.callbacks"
            )
        if isinstance(value, bool):
            raise ValueError(
                f"{path}: guards.{name} is {value}, but must be null (off) or the class_path of a callback"
            )


def from_list(settings: dict[str, Any], path: object) -> dict[str, Any]:
    """Convert the list of guards in a `config.yaml` of version 0.1, and disable guards that are not in the list.

    Raises:
        ValueError: if a listed callback is not a guard. The message names the callback.
    """
    if not isinstance(settings.get("guards"), list):
        check_guards(settings, path)
        return settings
    named: dict[str, Any] = dict.fromkeys(CLASSES.values())
    for each in settings["guards"]:
        kind = each.get("class_path") if isinstance(each, dict) else each
        if kind not in CLASSES:
            raise ValueError(f"{path}: guards has {kind}, which is none of {', '.join(CLASSES)}; use trainer.callbacks")
        named[CLASSES[kind]] = NOW.get(kind, each)
    return {**settings, "guards": named}
