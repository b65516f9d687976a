"""The connection to a Ray cluster (``moltune[ray]``)."""

from __future__ import annotations

import socket
from typing import Any

from moltune.errors import ConfigError

_SECONDS_TO_ANSWER = 10.0


def find_ray(address: str) -> Any:
    """The package ``ray``; no connection is made yet.

    Args:
        address: of the cluster ("auto", "ray://host:10001", "host:6379"), or "local" to start one here.

    Raises:
        ConfigError: Ray is not installed, or no machine answers at the address.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("--ray needs Ray; run `pip install moltune[ray]`") from None
    if not ray.is_initialized():
        _knock(address)
    return ray


def connect(address: str) -> tuple[Any, bool]:
    """Connect to a cluster unless this process is connected already.

    Returns:
        The package ``ray``, and whether the connection was made here, so that the caller has to end it.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """
    ray = find_ray(address)
    if ray.is_initialized():
        return ray, False
    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"there is no Ray cluster at {address}: {error}") from None
    return ray, True


def _knock(address: str) -> None:
    """Raise ConfigError where a machine does not answer; Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()
        except OSError as error:
            raise ConfigError(f"there is no Ray cluster at {address}: {error.strerror or error}") from None
