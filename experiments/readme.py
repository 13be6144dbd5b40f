"""Parts of a Markdown file that are generated: the text between two markers, which name the part."""

from pathlib import Path

from datamodules.files.whole_files import write_text

BEGIN, END = "<!-- %s:begin -->", "<!-- %s:end -->"


def split_readme(path: Path, section: str) -> tuple[str, str]:
    """Split a file into the text up to and with the first marker of a section, and from its second marker on.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the markers are not there once each and in order.
    """
    begin, end = BEGIN % section, END % section
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{path} must hold the lines {begin} and {end} once each, in this order")
    return text[: text.index(begin) + len(begin)], text[text.index(end) :]


def with_section(path: Path, section: str, text: str) -> str:
    """Give the file's text, with a text that ends with a line break between the markers of a section.

    Raises:
        FileNotFoundError, ValueError: from `split_readme`.
    """
    before, after = split_readme(path, section)
    return f"{before}\n{text}{after}"


def replace_section(path: Path, section: str, text: str) -> None:
    """Write a file with another text between the markers of a section."""
    write_text(path, with_section(path, section, text))
