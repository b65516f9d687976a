"""Features of parts of a long list on several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def of_parts(function: Callable[..., Result], parts: Sequence[Iterable[object]], jobs: int) -> list[Result]:
    """What a function gives for the arguments in each part, in their order, on so many processes; 1: on this one."""
    if min(jobs, len(parts)) <= 1:
        return [function(*part) for part in parts]
    # It takes a tenth of a second to import. Unlike a pool of our own, it asks no guarded entry of a user's script.
    from joblib import Parallel, delayed

    done: list[Result] = Parallel(n_jobs=min(jobs, len(parts)))(delayed(function)(*part) for part in parts)
    return done
