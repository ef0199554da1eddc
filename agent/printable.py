"""Printable text: what others had a hand in, made fit for a line on a terminal."""


def clean(text: str) -> str:
    """The text with everything escaped that is not to be seen: newlines, escapes, directions."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
