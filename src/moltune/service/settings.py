"""Every setting of the service, with its default."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from moltune.config import Settings

TOKEN_VARIABLE = "MOLTUNE_TOKEN"


class Limits(Settings):
    """What a request may ask for."""

    molecules: PositiveInt = Field(256, description="molecules per call")
    characters: PositiveInt = Field(2_000, description="characters of a SMILES or InChI")
    block: PositiveInt = Field(60_000, description="characters of a molblock")
    atoms: PositiveInt = Field(300, description="heavy atoms of a molecule")
    upload: PositiveInt = Field(100 * 2**20, description="bytes of an uploaded file")
    unpacked: PositiveInt = Field(400 * 2**20, description="bytes of an uploaded file that is compressed, unpacked")
    rows: PositiveInt = Field(500_000, description="rows of an uploaded file")
    jobs: PositiveInt = Field(100, description="jobs kept; the oldest finished one makes room for a new one")
    hours: PositiveFloat = Field(24.0, description="hours that a finished job is kept")
    queue: PositiveInt = Field(2_000, description="molecules that may wait; past it the answer is 503")
    seconds: PositiveFloat = Field(30.0, description="seconds for one batch of predictions or one explanation")
    memory: NonNegativeFloat = Field(6.0, description="GB of address space of each process; 0: no limit")


class ServiceSettings(Settings):
    """How the service runs."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0: a free one")
    token: str = Field("", description="what clients must send as a bearer token; empty: nothing")
    workers: PositiveInt = Field(
        default_factory=lambda: max(1, min(4, os.cpu_count() or 1)), description="processes that predict molecules"
    )
    job_workers: PositiveInt = Field(1, description="processes that predict files, at low priority")
    batch: PositiveInt = Field(32, description="molecules that a process predicts at once, at most")
    turn: PositiveFloat = Field(20.0, description="seconds after which a file makes room for the next one")
    folder: Path = Field(
        default_factory=lambda: Path.home() / ".moltune" / "service", description="folder of uploads and results"
    )
    limits: Limits = Field(default_factory=Limits)

    @model_validator(mode="after")
    def _asks_for_a_token(self) -> Self:
        if not self.is_local and not self.token:
            raise ValueError(
                f"{self.host} can be reached by others: set a token with --token or the variable {TOKEN_VARIABLE}"
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False
