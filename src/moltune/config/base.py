"""The base of every group of settings, and how values become settings."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from moltune.errors import ConfigError

# Why an option that earlier versions had is gone.
NO_RANDOM_SMILES = "random SMILES lowered the error in no measurement (docs/results/spellings); leave it out"


class Settings(BaseModel):
    """A group of settings: unknown names are refused, assignments are checked.

    The description of a field is also its help on the command line; what follows ``unset:`` describes the default.

    Attributes:
        retired: settings of earlier versions by name, with the value that switched each off and why it went. Files
            of earlier versions load where they hold that value.
        later: settings that are left out of a dump at their default, so that what an earlier version stored under the
            checksum of its settings stays the same.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)
    retired: ClassVar[dict[str, tuple[Any, str]]] = {}
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unset = {name for name in self.later if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in dump(self).items() if name not in unset}

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name, (off, why) in cls.retired.items():
            if values.get(name, off) != off:
                raise ValueError(f"{name}={values[name]} is no longer possible: {why}")
        return {name: value for name, value in values.items() if name not in cls.retired}


Group = TypeVar("Group", bound=Settings)


def make_settings(kind: type[Group], values: dict[str, Any]) -> Group:
    """Validate the settings of one group.

    Raises:
        ConfigError: names each wrong setting.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def explain(error: ValidationError) -> str:
    """Name each wrong setting and what is wrong with it, in one line."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "settings"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "there is no such setting"
        elif problem["type"] == "model_type":
            message = f"is a group of settings, not {problem['input']!r}"
        elif problem["type"] == "list_type":
            message = f"takes a list, such as [{problem['input']}]"
        lines.append(f"{where}: {message}")
    return "; ".join(lines)
