"""What the service is asked, and what it answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


EXAMPLES = ["CC(=O)Oc1ccccc1C(=O)O", "CN1CCC[C@H]1c1cccnc1"]
Flag = Literal["in", "near", "out"]
Classes = tuple[str, str]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PredictRequest(_Body):
    """Molecules to predict."""

    molecules: Annotated[
        list[str],
        BeforeValidator(_listed, json_schema_input_type=str | list[str]),
        Field(min_length=1, max_length=100_000, description="SMILES, InChI or molblocks; one may stand by itself"),
    ] = Field(examples=[EXAMPLES])
    models: list[Name] | None = Field(
        None, max_length=100, description="names as /v1/models lists them; unset: all", examples=[None]
    )


class Prediction(BaseModel):
    """One property of one molecule; numbers are in the property's unit, or where there are two classes, 0 and 1."""

    model: str
    property: str
    unit: str
    value: float | None = Field(description="of two classes the calibrated probability of the positive one")
    classes: Classes | None = Field(None, description="names of the negative and of the positive class")
    predicted_class: str | None = Field(None, description="the more probable one")
    prediction_set: list[str] | None = Field(None, description="the classes that cannot be excluded at the level")
    low: float | None = Field(None, description="lower end of the interval")
    high: float | None = Field(None, description="upper end of the interval")
    level: float = Field(description="share of measurements that intervals and prediction sets hold")
    sd: float | None = None
    domain: Flag | None = Field(None, description="whether the molecule is like those of the training")
    reason: str = Field("", description="why it is not, or not quite")
    nearest: str | None = Field(None, description="SMILES of the nearest training molecule")
    nearest_measured: float | None = None
    similarity: float | None = Field(None, description="Tanimoto similarity to it")
    measured: float | None = Field(None, description="of this molecule, where it is in the model's data")
    acid_pka: float | None = Field(None, description="estimated, of the strongest acid")
    base_pka: float | None = Field(None, description="estimated, of the strongest base")
    charge: float | None = Field(None, description="net, estimated at pH 7.4")
    main_form: str | None = Field(None, description="SMILES of the main form at pH 7.4")
    note: str = Field("", description="a warning, or the reason why there is no value")


class Result(BaseModel):
    """All that is said of one molecule."""

    input: str
    smiles: str | None = Field(None, description="canonical; none where the molecule cannot be read")
    predictions: list[Prediction] = Field(default_factory=list)
    error: str | None = Field(None, description="why there is no prediction")


class PredictResponse(BaseModel):
    """Results in the order of the molecules."""

    results: list[Result]


class ExplainRequest(_Body):
    """One molecule and one model."""

    molecule: str = Field(min_length=1, max_length=1_000_000, examples=EXAMPLES)
    model: Name | None = Field(None, description="unset: the first of /v1/models", examples=[None])


class Atom(BaseModel):
    """What one atom adds to the prediction."""

    atom: int
    element: str
    contribution: float
    standard_error: float | None


class Near(BaseModel):
    """A measured molecule beside the one that is explained."""

    smiles: str
    value: float
    similarity: float
    difference: str = Field(description="what differs, in words that go on from 'this molecule'")
    compared: str = Field(description="what differs, and what it contributes, in sentences")


class IonisableSite(BaseModel):
    """An ionisable atom with its estimated pKa."""

    atom: int
    element: str
    kind: Literal["acid", "base"]
    pka: float


class ExplainResponse(BaseModel):
    """Why a prediction is what it is."""

    model: str
    input: str
    smiles: str
    property: str
    prediction: float
    classes: Classes | None = Field(None, description="as beside a prediction")
    contributions_to: str | None = Field(
        None, description="what the atoms add up to, where it is not the prediction: log-odds of the positive class"
    )
    note: str
    summary: str
    atoms: list[Atom]
    rest: float = Field(description="the prediction, or its log-odds, without the atoms' contributions")
    fidelity: float | None = Field(description="share of the changes under edits that the contributions foretell")
    faithful: bool
    drawing: str = Field(description="SVG with the atoms' contributions and a scale")
    neighbours: list[Near]
    sites: list[IonisableSite] | None
    form: str | None = Field(description="SVG of the main form at pH 7.4, where it matters")


class Histogram(BaseModel):
    """Counts between edges: one edge more than counts."""

    edges: list[float]
    counts: list[int]


class ClassHistogram(BaseModel):
    """Probabilities of molecules that the model was not trained on, by the class that they were measured to be of."""

    edges: list[float]
    negative: list[int]
    positive: list[int]


class Model(BaseModel):
    """A model that predicts."""

    name: str
    property: str
    unit: str
    ready: bool = Field(description="whether moltune brings it")
    predicts: str
    features: list[str]
    molecules: int | None = Field(description="that it was trained on")
    date: str
    classes: Classes | None = Field(description="of a classifier: names of the negative and of the positive class")
    prevalence: float | None = Field(description="share of the positive class in the training")
    held_out: ClassHistogram | None
    rmse: float | None
    scores: dict[str, float] = Field(description="of a classifier, such as roc_auc and calibration_error")
    error_from: str = Field(description="where the error was measured")
    coverage: float | None = Field(description="share of measurements that intervals or prediction sets held")
    level: float
    decimals: int | None = Field(description="digits that the error deserves")
    training: Histogram | None = Field(description="of the training values")
    caveats: list[str]
    data: dict[str, str]
    card: dict[str, Any] = Field(default_factory=dict, description="everything that the card says")


class ModelsResponse(BaseModel):
    """The models, and the limits of the service."""

    models: list[Model]
    limits: dict[str, float]
    version: str


State = Literal["queued", "running", "done", "failed"]


class JobModel(BaseModel):
    """What one model says of all rows of a file."""

    model: str
    columns: dict[str, str] = Field(description="what is said → column of the result")
    domain: dict[str, int]
    classes: dict[str, int] = Field(default_factory=dict, description="of a classifier: molecules by predicted class")
    histogram: Histogram | None


class Job(BaseModel):
    """A file under way."""

    id: str
    name: str
    state: State
    models: list[str]
    format: str
    created: float = Field(description="seconds since 1970")
    finished: float | None = None
    expires: float | None = None
    progress: float = Field(ge=0, le=1)
    rows: int | None = None
    predicted: int | None = None
    structure: str | None = Field(None, description="the column of structures")
    others: list[str] = Field(default_factory=list, description="further columns of the input, the first ones")
    note: str | None = Field(None, description="the column of notes")
    results: list[JobModel] = Field(default_factory=list)
    error: str | None = None


class JobsResponse(BaseModel):
    """The jobs that are kept, the latest first."""

    jobs: list[Job]


class Rows(BaseModel):
    """A part of a result."""

    total: int = Field(description="rows that the filter lets through")
    offset: int
    rows: list[dict[str, Any]]


class Health(BaseModel):
    """Whether the service can predict."""

    status: Literal["ok", "starting"]
