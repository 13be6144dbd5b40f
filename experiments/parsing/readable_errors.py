"""Rewrite an error of the parser as one sentence with the key, the reason and the allowed values.

jsonargparse reports each alternative of a union on a separate line, but users need only the innermost reason. The error
objects of jsonargparse are not sufficient: the name of the argument is None, and the cause is only the error of the
first alternative. Therefore the text of the error is parsed. If an upgrade of jsonargparse changes such a text,
`test_texts_of_jsonargparse.py` fails and names the text.
"""

import difflib
import inspect
import re
import sys

from jsonargparse import ArgumentParser

from experiments.calls.parse import SECTIONS
from experiments.parsing.class_names import did_you_mean, new_names

KEY = r'Parser key "([^"]+)"'
GIVEN = r"Given value: (?!NestedArg|Namespace)(.+)"
SUBTYPES = r"Subtypes: \[(.*)\]"
TYPE = r"<class '([\w.]+)'>"
NO_REASONS = (
    *("Does not validate against any", "Subtypes:", "Errors:", "Given value", "Parser key", "Expected a path but"),
    *("Expected a <class 'NoneType'>", "Not a valid subclass of", "Subclass types expect one of"),
    *(r"a class path \(str\)", "a dict w"),
)
"""Patterns of lines that contain no reason."""
NO_CLASS = (
    r"Expected a dot import path string: ([\w.]+)",
    r"has no attribute '\w+'\. Got value: ([\w.]+\w)",
    r"class_path '([\w.]+)': (?:(?!class_path|object has no attribute).)*has no attribute",
)
ANOTHER_CLASS = r"Import path (\S+ )?does not correspond to a subclass of"
"""Pattern of errors about one alternative of a union. They are ignored if another alternative gives the reason."""
ANOTHER_TYPE = r"Expected a [\w.]+$"
"""Pattern of errors about alternatives that are no classes. Ignored if the given class reports a missing package."""
CALLABLE = r"Type typing\.\S.*? expects a function or a callable class: "
DENIED = r"Importing '(\S+)' is not allowed, denied by the '(\S+)' entry .* to allow it\."
NOT_ACCEPTED = r"class_path '([\w.]+)'(?:.*?Option '(\w+)' is not accepted|: unrecognized arguments: --(\w+)\.)"
UNKNOWN_OPTION = r"(?:unrecognized arguments: (--)|does not accept option ')(\w+)\.(\w+)"
BARE_FILE = r"unrecognized arguments: (?:.* )?([^- ]\S*\.ya?ml)\b"
REQUIRED = r"^the following arguments are required: \w+\.(data|model)\b"
SYMBOLS = ("alpha", "beta", "gamma", "delta", "epsilon", "eta", "kappa", "lambda", "mu", "rho", "sigma", "tau", "theta")


def readable(error: BaseException) -> str:
    """Return an error as one sentence, for example `model.strength: Expected a float. Got value: abc`."""
    if isinstance(error, UnicodeEncodeError):  # a surrogate represents a byte that is not UTF-8
        return f"this name is not in UTF-8; rename it: {error.object[:200]!r}"
    text = str(error)
    keys: list[tuple[int, str]] = []  # (indentation, key) of the keys that enclose the line
    where = ""
    reasons: list[str] = []
    for line in text.splitlines():
        reason, indentation = re.sub(r"^(- )+", "", line.strip()), len(line) - len(line.lstrip())
        if key := re.match(KEY, reason):
            keys = [(depth, name) for depth, name in keys if depth < indentation] + [(indentation, key[1])]
        elif reason and not re.match("|".join(NO_REASONS), reason) and reason not in reasons:
            reasons.append(reason)
            where = ".".join(name for _, name in keys) or where
    meant = [reason for reason in reasons if not re.match(ANOTHER_CLASS, reason)]
    if any(not reason.startswith("Expected a") and not reason.endswith("':") for reason in meant):
        reasons = meant
    if any(reason.startswith("Requirement ") for reason in reasons):  # a package is not installed
        reasons = [reason for reason in reasons if not re.match(ANOTHER_TYPE, re.sub(TYPE, r"\1", reason))]
    while reasons and reasons[-1].endswith("':"):  # drops alternatives without details
        reasons.pop()
    message = "; ".join(reasons).replace(":;", ":")
    if not message:
        where = ".".join(name for _, name in keys)
        message = f"Expected one of {allowed[1]}" if (allowed := re.search(SUBTYPES, text)) else " ".join(text.split())
    given = re.findall(GIVEN, text)
    unknown = next(filter(None, (re.search(pattern, message) for pattern in NO_CLASS)), None)
    if unknown:
        message = f"there is no class {unknown[1]}{did_you_mean(unknown[1])}"
    elif given and "Expected" in message:
        message += f", got {given[-1].strip()}"
    message = re.sub(TYPE, r"\1", message)
    message = re.sub(rf"{KEY}:\s*", r"\1: ", message)
    message = re.sub(CALLABLE, "", message)
    message = re.sub(DENIED, r"\1 is rejected: configurations may not name what is in \2", message)
    message = message.replace(
        "is rejected: configurations may not name what is in *",
        "is rejected: the config.yaml of a run may not name classes of other packages; "
        "if the run is yours, also give its original configuration by --config FILE",
    )
    message += _accepted_arguments(message) + _option_meant(message) + _needs_config(message)
    return f"{where}: {message}" if where and where not in message else message


def _accepted_arguments(message: str) -> str:
    """Return, as one text, the arguments of the class that rejected an argument.

    The argument that was probably meant comes first.
    """
    found = re.search(f".*{NOT_ACCEPTED}", message)  # matches the innermost class
    if not found:
        return ""
    module, _, name = found[1].rpartition(".")
    named, option = getattr(sys.modules.get(module), name, None), found[2] or found[3]
    if not callable(named):  # nothing is imported here, because the value of an argument may look like this text
        return ""
    parser = ArgumentParser()
    add = parser.add_class_arguments if isinstance(named, type) else parser.add_function_arguments
    names = add(named, fail_untyped=False)  # also the arguments behind **kwargs
    for new in new_names(option):
        if new in parser.get_defaults():  # also the arguments of data classes
            return f"; since version 0.2 it is {new}"
    close = difflib.get_close_matches(option, names, 1) or _of_this_symbol(option, named.__doc__ or "", names)
    return (f"; did you mean {close[0]}?" if close else ".") + f" It accepts {', '.join(names) or 'none'}"


def _of_this_symbol(option: str, docstring: str, names: list[str]) -> list[str]:
    """Find the argument whose description contains a symbol of the paper, such as `lambda`, if it is the only one."""
    symbol = difflib.get_close_matches(option, SYMBOLS, 1, 0.8)
    lines = re.findall(r"^ +(\w+): (.*)$", docstring, re.MULTILINE)
    found = [name for name, line in lines if name in names and symbol and re.search(rf"\b{symbol[0]}\b", line)]
    return found if len(found) == 1 else []


def _option_meant(message: str) -> str:
    """Suggest the most similar option of the trainer, the guards or the checkpoints for an unknown option."""
    found = re.search(UNKNOWN_OPTION, message)
    if not found or found[2] not in SECTIONS:
        return ""
    close = difflib.get_close_matches(found[3], inspect.signature(SECTIONS[found[2]]).parameters, 1)
    return f"; did you mean {found[1] or ''}{found[2]}.{close[0]}?" if close else ""


def _needs_config(message: str) -> str:
    """Explain `--config` if there is no configuration, or if its file is given without `--config`."""
    bare = re.search(BARE_FILE, message)
    if bare:
        return f"; put --config before a configuration: --config {bare[1]}"
    missing = re.search(REQUIRED, message)
    return "; give a configuration: --config configs/elr/demo.yaml, or any of train.py methods" if missing else ""


def lost_process(error: BaseException) -> str | None:
    """Describe an error in one sentence if the end of another process caused it. Return None for other errors."""
    text = " ".join(str(error).split())
    if re.search(r"DataLoader worker .*(killed by signal|exited unexpectedly)", text):
        if "Terminated" in text:
            return f"a DataLoader worker was ended from outside ({text}); start the command again"
        return f"a DataLoader worker ended ({text}), most likely for lack of memory; try data.loading.num_workers 0"
    if re.search(r"[Cc]onnection (closed|reset|refused)|[Bb]roken pipe|remote process exited|Socket", text):
        return f"another process of this run ended; see its own error message ({text[:200]})"
    return None
