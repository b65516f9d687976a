"""The style sheet as text, for pages that are not templates yet."""

from pathlib import Path

STYLE = Path(__file__).with_name("templates").joinpath("style.css").read_text(encoding="utf-8")
