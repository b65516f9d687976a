"""Settings of tables, cleaning and splits."""

from __future__ import annotations

import csv
import io
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from moltune.config.base import Settings


def parse_ratios(value: Any) -> Any:
    """Turn ``"70/10/20"`` (or any three non-negative numbers) into fractions that sum to one."""
    if isinstance(value, str):
        value = value.replace(",", "/").split("/")
    try:
        parts = [float(part) for part in value]
    except (TypeError, ValueError):
        raise ValueError("ratios are three numbers, such as 70/10/20") from None
    if len(parts) != 3 or any(not 0 <= part < float("inf") for part in parts) or parts[0] <= 0:
        raise ValueError("ratios are three non-negative numbers, training first and above zero, such as 70/10/20")
    return tuple(round(part / sum(parts), 12) for part in parts)


Ratios = Annotated[tuple[float, float, float], BeforeValidator(parse_ratios)]


def join_names(names: Any) -> Any:
    """Names of columns as one text, such as ``logS,"IC50, human"``; what is no list of texts stays."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return names
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()


class CleanSettings(Settings):
    """What is done to each molecule and measurement before anything else; it stays with a tuned model."""

    later: ClassVar[frozenset[str]] = frozenset({"unit", "transform"})

    largest_fragment: bool = Field(False, description="keep only the largest fragment (strip salts and solvents)")
    neutralize: bool = Field(False, description="neutralise charges where protonation allows it")
    canonical: bool = Field(True, description="rewrite each SMILES as RDKit's canonical isomeric SMILES")
    duplicates: Literal["mean", "median", "first", "drop-conflicting", "error"] = Field(
        "mean",
        description="what becomes of the measurements of one molecule: mean, median, first, drop-conflicting or error",
    )
    conflict_tolerance: NonNegativeFloat | None = Field(
        None,
        description="labels of one molecule further apart than this are a conflict; "
        "unset: half the standard deviation of the target",
    )
    unit: str | None = Field(
        None,
        min_length=1,
        description="unit of the target, such as nM: other units are converted, numbers without one are taken to be "
        "in it; unset: the most frequent one of the table",
    )
    transform: Literal["none", "log10", "neg-log10-molar"] = Field(
        "none",
        description="of the measurements: none, log10, or neg-log10-molar (a concentration c becomes -log10 of c in M)",
    )


class TableSettings(Settings):
    """How a file is to be read where it does not say so itself."""

    later: ClassVar[frozenset[str]] = frozenset({"sheet", "header", "decimal", "type"})

    sheet: str | None = Field(None, description="sheet of a workbook, by name; unset: the only one that is not empty")
    header: bool | None = Field(
        None, description="whether the first line names the columns; unset: it does unless it holds a molecule"
    )
    decimal: Literal["auto", "point", "comma"] = Field(
        "auto", description="decimal mark of the target: point or comma; auto: what all its numbers together say"
    )
    type: str | None = Field(
        None, description="type of measurement to take, such as IC50, where a column beside the target names several"
    )


class DataSettings(TableSettings):
    """Where molecules and measurements come from."""

    later: ClassVar[frozenset[str]] = TableSettings.later | {"bounds", "task"}

    source: str | None = Field(
        None, description="a file, a bundled set (lipophilicity, esol, freesolv, b3db) or a hub id"
    )
    smiles: str | None = Field(None, description="SMILES column; unset: found by its name")
    target: Annotated[str, BeforeValidator(join_names)] | None = Field(
        None,
        description="target column; several for `finetune`, such as logD,logS; unset: found when obvious",
    )
    add: str | None = Field(
        None, description="further labelled molecules for the training part, such as the output of `moltune select`"
    )
    bounds: Literal["reject", "use"] = Field(
        "reject",
        description="measurements such as '> 10': reject them, or use them in fine-tuning as censored measurements",
    )
    task: Literal["auto", "regression", "classification"] = Field(
        "auto",
        description="what the target is: regression (numbers) or classification (two classes); auto: classification "
        "where it holds 0 and 1 alone, or two words",
    )
    clean: CleanSettings = CleanSettings()


class SplitSettings(Settings):
    """How molecules are divided into training, validation and test parts."""

    method: Literal["random", "stratified", "scaffold", "cluster", "column", "index"] = Field(
        "stratified", description="how molecules are divided: random, stratified, scaffold, cluster, column or index"
    )
    ratios: Ratios = Field((0.7, 0.1, 0.2), description="training/validation/test, such as 70/10/20")
    seed: NonNegativeInt | None = Field(None, description="seed of the split; unset: the seed of the run")
    bins: PositiveInt = Field(10, description="target quantiles of a stratified split")
    cutoff: float = Field(0.35, ge=0, le=1, description="Tanimoto distance within a cluster of a cluster split")
    algorithm: Literal["butina", "sphere"] = Field("sphere", description="clustering of a cluster split")
    column: str | None = Field(None, description="column of the file that names the part of each row")
    index_file: str | None = Field(None, description="JSON or CSV file with the rows of each part")

    @model_validator(mode="after")
    def _needs_its_source(self) -> Self:
        if self.method == "column" and not self.column:
            raise ValueError("split method 'column' needs split.column")
        if self.method == "index" and not self.index_file:
            raise ValueError("split method 'index' needs split.index_file")
        return self
