"""Names and texts from outside, made inert: what a terminal, page or runner would obey becomes visible."""

from __future__ import annotations

import re
import unicodedata

#: Names longer than this lose their middle wherever a table or a title shows them.
NAME_LENGTH = 200
_ROOM_FOR_A_COUNT = 20
#: Categories of what is obeyed or cannot be seen: controls, marks of direction, half characters, line ends.
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
#: Joiners, which Persian and emoji are spelled with.
_KEPT = "\u200c\u200d"
#: Where a runner of GitHub Actions looks for commands: at the start of a line, and its old form anywhere.
_COMMAND = re.compile(r"^(\s*):(?=:)|(##)\[")


def visible(text: str) -> str:
    """``text`` as one line: control characters, line ends and marks of direction as Python writes them."""
    if not text.isprintable():  # no hidden character is printable, and most texts are
        text = "".join(_escaped(char) if _is_hidden(char) else char for char in text)
    return _without_commands(text)


def visible_lines(text: str) -> list[str]:
    """The lines of a text that is meant to have several, each of them :func:`visible`."""
    return [visible(line.removesuffix("\r").expandtabs()) for line in text.split("\n")]


def shortened(text: str, limit: int = NAME_LENGTH) -> str:
    """``text``, its middle left out (and how much that was) where it is longer than ``limit``."""
    if len(text) <= limit:
        return text
    half = max((limit - _ROOM_FOR_A_COUNT) // 2, 1)
    return f"{text[:half]}…[{len(text) - 2 * half:,} more]…{text[-half:]}"


def short_name(text: str) -> str:
    """A name as tables and titles show it: visible, and not too long."""
    return shortened(visible(text))


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in _HIDDEN and char not in _KEPT


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _without_commands(line: str) -> str:
    return _COMMAND.sub(lambda found: r"##\x5b" if found[2] else rf"{found[1]}\x3a", line)
