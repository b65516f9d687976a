"""Choose the arithmetic that is fastest without harming the result."""

from __future__ import annotations

from typing import Literal

import torch

from moltune.errors import ConfigError


def wants_bf16(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> bool:
    """Whether to train under bf16 autocast; ``auto`` says yes only where the hardware multiplies bf16 natively.

    Raises:
        ConfigError: bf16 is asked for, and this GPU cannot do it.
    """
    if precision == "fp32":
        return False
    if precision == "bf16":
        if device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ConfigError("this GPU cannot multiply bf16 numbers; leave training.precision at auto, or take fp32")
        return True
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))
    return False
