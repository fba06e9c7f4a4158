"""A picture of the screen as a file of its own: Textual's SVG without the fonts it would fetch from the web."""

from __future__ import annotations

import re

_FROM_THE_WEB = re.compile(r',\s*url\("[^"]*"\)\s*format\("[^"]*"\)')
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
KEEP_SPACES = '<svg xml:space="preserve" '  # some renderers trim the no-break spaces a piece of text begins with


def clean(svg: str) -> bytes:
    """The bytes of the file. svg: of `App.export_screenshot`, which escapes the text on the screen."""
    head, styles, body = svg.partition("</style>")
    head = _FROM_THE_WEB.sub("", _COMMENT.sub("", head))  # the text of the screen comes after
    return f"{head}{styles}{body}".replace("<svg ", KEEP_SPACES, 1).encode()
