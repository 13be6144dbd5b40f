"""Say a parser's error in one sentence: the key, the reason, and what is allowed.

jsonargparse reports every alternative of a union, one below the other; what a user needs is the innermost reason.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterator

from experiments.run_request import PROJECT

NOT_A_REASON = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|<class 'NoneType'>|Given value|Parser key|Expected a path but|"
    r"Expected a <class 'NoneType'>|Not a valid subclass of|Subclass types expect one of|a class path \(str\)|a dict w"
)
ANOTHER_CLASS = re.compile(r"Import path \S+ does not correspond to a subclass of")
"""Alternatives of a union that were not meant, where another one says what is wrong."""
PACKAGES = ("lightning_modules", "datamodules", "callbacks")


def readable(error: BaseException) -> str:
    """The error as one sentence, `model.strength: Expected a float. Got value: abc` for example."""
    if isinstance(error, UnicodeEncodeError):  # of a surrogate, which stands for a byte that is no UTF-8
        return f"this name is not in UTF-8, rename it: {error.object[:200]!r}"
    text = str(error)
    keys: list[tuple[int, str]] = []  # that lead to the present line, with their indentation
    where = ""
    reasons: list[str] = []
    for line in text.splitlines():
        reason, indentation = re.sub(r"^(- )+", "", line.strip()), len(line) - len(line.lstrip())
        if key := re.match(r'Parser key "([^"]+)"', reason):
            keys = [(depth, name) for depth, name in keys if depth < indentation] + [(indentation, key[1])]
        elif reason and not NOT_A_REASON.match(reason) and reason not in reasons:
            reasons.append(reason)
            where = ".".join(name for _, name in keys) or where
    meant = [reason for reason in reasons if not ANOTHER_CLASS.match(reason)]
    if not all(reason.startswith("Expected a") for reason in meant):
        reasons = meant
    while reasons and reasons[-1].endswith("':"):  # an alternative of which no more is said
        reasons.pop()
    message = "; ".join(reasons).replace(":;", ":") or " ".join(text.split())
    given = re.findall(r"Given value: (?!NestedArg|Namespace)(.+)", text)
    unknown = re.search(r"Expected a dot import path string: (\S+)|class_path '([\w.]+)': .*has no attribute", message)
    if unknown:
        name = unknown[1] or unknown[2]
        message = f"there is no class {name}{_did_you_mean(name)}"
    elif given and "Expected" in message:
        message += f", got {given[-1].strip()}"
    message = re.sub(r"<class '([\w.]+)'>", r"\1", message)
    message = re.sub(r'Parser key "([\w.]+)":\s*', r"\1: ", message)
    message = re.sub(r"Type typing\.\S.*? expects a function or a callable class: ", "", message)
    message = re.sub(
        r"Importing '(\S+)' is not allowed, denied by the '(\S+)' entry .* to allow it\.",
        r"\1 is refused: no configuration names what is in \2",
        message,
    )
    message += _accepted(message) + _option_meant(message)
    return f"{where}: {message}" if where and where not in message else message


def _accepted(message: str) -> str:
    """The arguments of the class whose argument was refused, the likeliest first."""
    found = re.search(r".*class_path '([\w.]+)'.*?Option '(\w+)' is not accepted", message)  # the innermost class
    if not found:
        return ""
    module, _, name = found[1].rpartition(".")
    names = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    close = difflib.get_close_matches(found[2], names, 1)
    return (f"; did you mean {close[0]}?" if close else ".") + f" It accepts {', '.join(names) or 'none'}"


def _option_meant(message: str) -> str:
    """The option of the trainer that is most like an unknown one."""
    found = re.search(r"unrecognized arguments: --trainer\.(\w+)", message)
    if not found:
        return ""
    from lightning.pytorch import Trainer

    close = difflib.get_close_matches(found[1], inspect.signature(Trainer).parameters, 1)
    return f"; did you mean --trainer.{close[0]}?" if close else ""


def lost_process(error: BaseException) -> str | None:
    """Say in one sentence that another process ended, which fails here without a cause of its own; None otherwise."""
    text = " ".join(str(error).split())
    if re.search(r"DataLoader worker .*(killed by signal|exited unexpectedly)", text):
        return f"a process that loads the data ended ({text}), mostly for too little memory; try data.num_workers 0"
    if re.search(r"[Cc]onnection (closed|reset|refused)|[Bb]roken pipe|remote process exited|Socket", text):
        return f"another process of this run ended, and its own message says why ({text[:200]})"
    return None


def _did_you_mean(name: str) -> str:
    """The class of this project whose name is most like the given one."""
    known = dict(_classes())
    close = difflib.get_close_matches(name.rpartition(".")[2], known, 1)
    return f"; did you mean {known[close[0]]}?" if close else "; give its module, too, as callbacks.labels.Memorization"


def _classes() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for file in sorted((PROJECT / package).rglob("*.py")):
            folder = ".".join(file.parent.relative_to(PROJECT).parts)
            exported = (file.parent / "__init__.py").read_text(encoding="utf-8")
            for name in re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
                yield name, f"{folder}.{name}" if f'"{name}"' in exported else f"{folder}.{file.stem}.{name}"
