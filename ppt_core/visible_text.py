"""Text of unknown origin on a terminal: shown, never obeyed."""

import re

# C0 but for tab and newline, DEL, C1 (0x9b alone begins a sequence), and what turns the direction of writing.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Write out what a terminal would obey: an escape character is shown as the four characters of its code."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def visible_json(text: str) -> str:
    """The same of a JSON text, in JSON's own words: the value stays as it is."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
