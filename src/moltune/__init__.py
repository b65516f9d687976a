"""moltune: adapt a chemical language model to one property; learn which data and which method really helped."""

from __future__ import annotations

__version__ = "0.1.0"
