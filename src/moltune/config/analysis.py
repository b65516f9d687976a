"""Settings of what is done beside a run: search, audit, influence, uncertainty, selection."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from moltune.config.base import Settings

SCOPE_PATTERN = r"^(head|adapter|all|last-[1-9]\d*)$"


class SearchSettings(Settings):
    """How a search goes about it."""

    trials: PositiveInt = Field(30, description="trials in the whole study, of all processes and resumed calls")
    splits: int = Field(2, ge=2, description="validation splits over which the error is averaged")
    prune: bool = Field(True, description="stop a trial that is worse than the median of the others at its point")
    hours: PositiveFloat | None = Field(None, description="begin no trial after this time; unset: no limit")
    space: list[str] = Field(
        default_factory=list,
        description="change the search space: setting=LOW:HIGH, setting=LOW:HIGH:log or setting=a,b,c; repeatable; "
        "unset: the method's own",
    )


class AuditSettings(Settings):
    """How an external file is examined."""

    model: str = Field("moltune/mini", min_length=1, description="encoder whose embeddings are compared")
    permutations: PositiveInt = Field(500, description="of the MMD test")
    folds: int = Field(5, ge=2, description="of the cross-validated model behind the noise estimate")
    reference: PositiveInt = Field(1000, description="training molecules behind embedding and similarity references")
    seed: NonNegativeInt = Field(0, description="seed of permutations, folds and references")


class SolverSettings(Settings):
    """Numbers of the solvers; each uses those that concern it."""

    tolerance: float = Field(1e-2, gt=0, lt=1, description="residual above which a solver has not converged")
    jacobian_mb: PositiveFloat = Field(1024.0, description="keep gradients where they fit into this many MB")
    iterations: PositiveInt = Field(500, description="cg: at most this many")
    precondition: NonNegativeInt = Field(
        400, description="cg: molecules whose curvature shortens the way, as many of them as fit; 0: none"
    )
    depth: PositiveInt = Field(1000, description="lissa: at most this many steps of each repeat")
    batch_size: PositiveInt = Field(64, description="lissa: molecules per step")
    repeats: PositiveInt = Field(3, description="lissa: independent runs, averaged")
    restarts: NonNegativeInt = Field(4, description="lissa: times a repeat starts again from what is left; 0: never")
    deflate: NonNegativeInt = Field(16, description="lissa: leading eigenvectors of the preconditioner; 0: none")
    seed: NonNegativeInt = Field(0, description="seed of everything random")


class InfluenceSettings(SolverSettings):
    """How influence is computed."""

    scope: str = Field(
        "head", pattern=SCOPE_PATTERN, description="parameters that may move: head, last-1, last-2 ..., adapter or all"
    )
    solver: Literal["cg", "exact", "lissa", "identity"] = Field(
        "cg", description="how the curvature is inverted: cg, exact, lissa or identity"
    )
    curvature: Literal["gauss-newton", "hessian"] = Field("gauss-newton", description="matrix: gauss-newton or hessian")
    damping: NonNegativeFloat = Field(0.1, description="added to the curvature, in units of its mean eigenvalue")
    damping_unit: Literal["mean-eigenvalue", "absolute"] = "mean-eigenvalue"
    weight_decay: NonNegativeFloat | None = Field(None, description="of the training loss; unset: the run's")
    step: Literal["derivative", "whole"] = Field(
        "derivative",
        description="derivative: to first order in the molecule's weight; whole: with its own leverage and the square "
        "of the step, which is exact for a linear head (solver exact, few parameters)",
    )
    convention: Literal["negative-helps", "positive-helps"] = Field(
        "negative-helps", description="sign of a score: negative-helps or positive-helps"
    )
    target: Literal["validation", "test"] = Field(
        "validation", description="part whose loss counts: validation or test"
    )
    curvature_molecules: PositiveInt | None = Field(None, description="random training molecules; unset: all")
    tokens: PositiveInt = Field(8192, description="padded tokens per batch; bounds memory")
    halves: bool = Field(
        True, description="solve for half of the target molecules too, and say whether they rank as the other half does"
    )
    allow_unconverged: bool = Field(False, description="write the scores of a solver that did not converge")
    founding_study: bool = Field(
        False, description="as the founding studies: gradients that are not finite become 0, the mean one has length 1"
    )

    @model_validator(mode="after")
    def _whole_steps_are_exact(self) -> Self:
        if self.step == "whole" and (self.solver, self.curvature) != ("exact", "gauss-newton"):
            raise ValueError("step=whole needs the solver exact and the curvature gauss-newton")
        return self


class UncertaintySettings(Settings):
    """How uncertainty is estimated."""

    method: Literal["dropout", "ensemble"] = Field(
        "dropout", description="Monte-Carlo dropout, or ensemble (of this run and its --member runs)"
    )
    passes: int = Field(30, ge=2, description="stochastic passes of Monte-Carlo dropout")
    batch_size: PositiveInt = 32
    seed: NonNegativeInt = Field(0, description="seed of the dropout")


class SelectSettings(Settings):
    """Which strategy, and how much of what it prefers is taken: exactly one of count, percentile and threshold."""

    strategy: Literal[
        "influence",
        "influence-reversed",
        "uncertainty",
        "entropy",
        "bald",
        "random",
        "similarity",
        "diversity",
        "cluster",
        "residual",
        "all",
        "none",
    ] = Field(
        "influence",
        description="what is preferred: influence, influence-reversed, uncertainty, entropy or bald (of classes), "
        "residual, similarity, diversity, cluster, random, all or none",
    )
    count: NonNegativeInt | None = Field(None, description="take this many")
    percentile: float | None = Field(None, ge=0, le=100, description="take this share, in percent")
    threshold: float | None = Field(None, description="take those whose score is at least this good")
    convention: Literal["negative-helps", "positive-helps"] = Field(
        "negative-helps", description="sign of influence scores: negative-helps or positive-helps"
    )
    space: Literal["fingerprint", "embedding"] = Field(
        "fingerprint", description="where similarity and cluster measure: fingerprint or embedding"
    )
    clusters: PositiveInt = Field(10, description="clusters of the strategy cluster")
    seed: NonNegativeInt = Field(0, description="seed of random, diversity and cluster")

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        given = [name for name in ("count", "percentile", "threshold") if getattr(self, name) is not None]
        if self.strategy in ("all", "none"):
            if given:
                raise ValueError(f"the strategy {self.strategy!r} takes no {given[0]}")
        elif len(given) != 1:
            raise ValueError("say how much to take: exactly one of count, percentile and threshold")
        return self
