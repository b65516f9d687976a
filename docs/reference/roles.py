"""Docstrings name objects as ``:class:`x```; on the pages the name alone is shown."""

from __future__ import annotations

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """Remove the roles in front of code."""
    return re.sub(r":(?:class|func|mod|data|meth|attr):\s*(?=<code)", "", html)
