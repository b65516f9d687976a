"""Several predictors at work on the same rows: molecules are cleaned and features computed once for all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from moltune.calibration import LEVEL
from moltune.config import TableSettings
from moltune.data.cleaning.clean import clean
from moltune.data.load import announce
from moltune.data.molecules import Molecules
from moltune.data.reading.read import read_table
from moltune.data.reading.table import RawTable
from moltune.features.registry import FeatureTable
from moltune.predictors.base import Progress
from moltune.predictors.language import LanguageModel
from moltune.predictors.names import NOTE, Names, Property, column_names, joined
from moltune.predictors.predictor import Predictor
from moltune.predictors.probe import Probe
from moltune.run import joint_folders

if TYPE_CHECKING:
    from moltune.models.joint import JointModel


@dataclass(frozen=True)
class Predictors:
    """Predictors of one or more properties.

    Make one with :meth:`load`.

    Attributes:
        members: one per property.
        tables: of the features that members share; emptied after each piece of work.
    """

    members: list[Predictor]
    tables: list[FeatureTable]

    @classmethod
    def load(
        cls,
        models: Sequence[str | Path],
        base: str | Path | None = None,
        *,
        blend: bool | None = None,
        level: float = LEVEL,
    ) -> Self:
        """Load runs, model folders or ready-made models; see :meth:`moltune.predictors.predictor.Predictor.load`.

        The folder of properties that were tuned together stands for the runs in it.
        """
        places = [place for model in models for place in joint_folders(Path(model)).values() or [model]]
        return cls.of([Predictor.load(place, base, blend=blend, level=level) for place in places])

    @classmethod
    def of(cls, members: list[Predictor]) -> Self:
        """Let probes that embed with the same checkpoint compute each feature once, and run an encoder once for all."""
        shared: dict[str, FeatureTable] = {}
        for probe in _probes(members):
            encoder = "" if probe.encoder is None else json.dumps(probe.encoder.facts, sort_keys=True)
            probe.features = shared.setdefault(encoder, FeatureTable(probe.features.given))
        return cls(_on_one_encoder(members), list(shared.values()))

    @property
    def properties(self) -> list[Property]:
        """Name, unit and error of each."""
        return [Property(one.target_name, one.unit, one.error, one.model.class_names) for one in self.members]

    def predict_rows(
        self,
        raw: RawTable,
        smiles: str,
        batch_size: int = 32,
        progress: Progress | None = None,
        molecules: Molecules | None = None,
    ) -> list[pd.DataFrame]:
        """Predict the rows of a table that was read.

        Args:
            raw: the rows.
            smiles: their column of structures.
            batch_size: of a language model.
            progress: called with how many more molecules are done, by each member.
            molecules: cleaned before, as the first member cleans; unset: they are cleaned here.

        Returns:
            For each member what :meth:`moltune.predictors.predictor.Predictor.predict_rows` says.
        """
        cleaned = {} if molecules is None else {self.members[0].cleaning.model_dump_json(): molecules}
        found = []
        try:
            for one in self.members:
                key = one.cleaning.model_dump_json()
                if key not in cleaned:
                    formulas = self._formulas(key, len(raw.frame))
                    cleaned[key] = clean(raw, one.cleaning, smiles=smiles, need_target=False, formulas=formulas)
                found.append(one.predict_rows(raw, cleaned[key], batch_size, progress))
        finally:
            for table in self.tables:
                table.forget()
            for one in self.members:
                if isinstance(one.model, OneOfSeveral):
                    one.model.known.clear()
        return found

    def predict_source(
        self,
        source: str | Path | pd.DataFrame,
        *,
        smiles: str | None = None,
        sheet: str | None = None,
        header: bool | None = None,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Predict a file, bundled set or data frame; large ones are for :func:`moltune.bulk.predict.predict_file`.

        Args:
            source: anything that :func:`moltune.data.reading.read.read_table` takes.
            smiles: column; unset: found by its name.
            sheet: of a workbook; unset: the only one that is not empty.
            header: whether the first line names the columns; unset: it does unless it holds a molecule.
            batch_size: of a language model.
            progress: called with how many more molecules are done.

        Returns:
            The table that went in, every column and row in order, with columns added: the property (see
            :func:`moltune.predictors.names.property_names`), with a suffix whatever else the model says of it, and a
            note. Where no prediction can be made they are empty and the note says why; a note beside a number is a
            warning.
        """
        raw = read_table(source, TableSettings(sheet=sheet, header=header))
        molecules = clean(raw, self.members[0].cleaning, smiles=smiles, need_target=False)
        announce(molecules)
        column, table = str(molecules.provenance["smiles_column"]), raw.all_rows
        found = self.predict_rows(raw, column, batch_size, progress, molecules)
        names = self.names([one.columns for one in found], table.columns)
        return joined(table, found, self.properties, names).reset_index(drop=True)

    def _formulas(self, cleaning: str, rows: int) -> frozenset[str] | None:
        """Of all molecules that members with this cleaning know; None: it does not pay to look at them."""
        found = [one.formulas(rows) for one in self.members if one.cleaning.model_dump_json() == cleaning]
        known = [one for one in found if one is not None]
        return frozenset().union(*known) if len(known) == len(found) else None

    def names(self, found: Sequence[Iterable[str]], taken: Iterable[str]) -> Names:
        """Names of the columns in a table that has columns already; ``found`` has those of each member's results."""
        suffixes = [[name for name in columns if name != NOTE] for columns in found]
        return column_names(list(zip(self.properties, suffixes, strict=True)), list(taken))


class OneOfSeveral(LanguageModel):
    """A language model whose encoder others have, too: it runs once for all of them.

    Args:
        own: the model.
        joint: all of them as one.
        at: place of the model among them.
        known: SMILES → predictions of all; they share it, and whoever uses them empties it.
    """

    def __init__(self, own: LanguageModel, joint: JointModel, at: int, known: dict[str, np.ndarray]) -> None:
        super().__init__(own.network, own.tokenizer, own.truncate)
        self.joint, self.at, self.known = joint, at, known

    def _predict(self, smiles: Sequence[str], batch_size: int, progress: Progress | None) -> np.ndarray:
        from moltune.models.inference import check_finite, run_batches

        new = [text for text in smiles if text not in self.known]
        options: dict[str, Any] = {"batch_size": batch_size, "max_length": self._limit if self.truncate else None}
        found = run_batches(self.network, self.tokenizer, new, lambda **batch: self.joint(**batch).logits, **options)
        self.known.update(zip(new, found, strict=True))
        if progress is not None:
            progress(len(smiles))
        values = np.array([self.known[text][self.at] for text in smiles])
        check_finite(smiles, values)
        return values


def _on_one_encoder(members: list[Predictor]) -> list[Predictor]:
    """The predictors, in which equal encoders of language models are one."""
    own = {at: one.model for at, one in enumerate(members) if type(one.model) is LanguageModel}
    if len(own) < 2:
        return members
    from moltune.models.digest import tensor_digest
    from moltune.models.joint import JointModel

    groups: dict[tuple[Any, ...], list[int]] = {}
    for at, model in own.items():
        words = model.tokenizer.backend_tokenizer.to_str()
        groups.setdefault((tensor_digest(model.network.encoder), words, model.truncate), []).append(at)
    found = list(members)
    for places in groups.values():
        networks = [own[at].network for at in places]
        for network in networks[1:]:
            network.encoder = networks[0].encoder
        joint, known = JointModel(networks, [1.0] * len(networks)), dict[str, np.ndarray]()
        for number, at in enumerate(places):
            if len(places) > 1:
                found[at] = replace(members[at], model=OneOfSeveral(own[at], joint, number, known))
    return found


def _probes(members: Sequence[Predictor]) -> Iterator[Probe]:
    for one in members:
        if isinstance(one.model, Probe):
            yield one.model
        if one.blend is not None:
            yield from (member for member in one.blend.baselines.values() if isinstance(member, Probe))
