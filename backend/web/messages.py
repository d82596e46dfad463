"""The bodies that the routes read and answer: what is checked, and what openapi.py describes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema
from typing_extensions import TypedDict

from backend.documented_field import documented, expected_value
from backend.errors import BadRequest
from backend.options import ProjectOptions, extra_params_object
from backend.predict import TaskPrediction
from backend.shorten import shorten

MAX_ID = 2**63 - 1  # what the ledger's columns hold

MOST_TASKS = 200_000
"""Tasks of one /predict. Label Studio sends all that somebody selected; what is left of them is
written to the ledger."""


class ProjectRef(NamedTuple):
    """A project as Label Studio names it: its number, its creation (unix seconds), its labels."""

    studio_id: int
    created: int
    label_config: str | None = None


def read_project(project: object) -> ProjectRef:
    """A project from any of the forms that Label Studio sends.

    Args:
        project: "<id>.<created>" (setup, predict), or the project's own object (webhooks).

    Raises:
        BadRequest: it is neither.
    """
    try:
        if isinstance(project, str):
            number, created = project.split(".")
            found = ProjectRef(int(number), int(created))
        elif isinstance(project, Mapping):
            label_config = project.get("label_config")
            found = ProjectRef(
                int(project["id"]),
                int(datetime.fromisoformat(project["created_at"]).timestamp()),
                label_config if isinstance(label_config, str) else None,
            )
        else:
            raise TypeError
        if 0 < found.studio_id <= MAX_ID and 0 <= found.created <= MAX_ID:
            return found
    except (ValueError, KeyError, TypeError, OverflowError):
        pass
    raise BadRequest(
        "project must be '<id>.<created>' or an object with id and created_at, "
        f"got {shorten(project, 80)}."
    )


_PROJECT_SCHEMA = {
    "anyOf": [
        {
            "type": "string",
            "pattern": r"^[1-9][0-9]{0,17}\.[0-9]{1,18}$",
            "description": "<id>.<unix seconds of its creation>",
        },
        {
            "type": "object",
            "properties": {
                "id": {"type": "integer", "minimum": 1, "maximum": MAX_ID},
                "created_at": {"type": "string", "format": "date-time"},
                "label_config": {"description": "Only text is read."},
            },
            "required": ["id", "created_at"],
        },
    ]
}
_OPTIONS_SCHEMA = {
    "anyOf": [
        {"$ref": f"#/components/schemas/{ProjectOptions.__name__}"},
        {"type": "string", "description": "The object as JSON text."},
        {"type": "null"},
    ]
}


# ---- what is sent --------------------------------------------------------------------------


class Body(BaseModel):
    """Label Studio sends more than is read here."""

    model_config = ConfigDict(strict=True, frozen=True)

    project: Annotated[
        ProjectRef, BeforeValidator(read_project), WithJsonSchema(_PROJECT_SCHEMA)
    ] = documented(..., "The project.", "'<id>.<created>' or an object with id and created_at")


class Setup(Body):
    label_config: str = documented(
        ..., "The label config.", "the label config as text", alias="schema"
    )
    extra_params: Annotated[
        dict[str, Any], BeforeValidator(extra_params_object), WithJsonSchema(_OPTIONS_SCHEMA)
    ] = documented({}, "The project's options.", "a JSON object")
    hostname: Any = documented(None, "The address that Label Studio says it has.", "anything")


class Task(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    id: int
    data: dict[str, Any]
    annotations: Any = None
    drafts: Any = None
    predictions: Any = None


class Predict(Body):
    tasks: list[Task] = documented(
        ...,
        "The tasks.",
        f"a list of at most {MOST_TASKS:,} tasks, each with an integer as id and an object as data",
        max_length=MOST_TASKS,
    )
    params: Any = documented(
        None, "An object whose context, if any, holds a smart tool's prompts.", "anything"
    )

    @property
    def context(self) -> Any:
        """What a smart tool asks; None for an ordinary prediction."""
        return self.params.get("context") if isinstance(self.params, Mapping) else None


_ROWS = "An object or a list of them, of which the integer ids are read."


class Event(Body):
    action: str = documented(..., "What happened.", "the name of what happened")
    annotation: Any = documented(None, _ROWS, "anything")
    annotations: Any = documented(None, _ROWS, "anything")
    tasks: Any = documented(None, _ROWS, "anything")


Read = TypeVar("Read", bound=Body)


def read_message(kind: type[Read], body: Mapping[str, Any]) -> Read:
    """The body as a message of this kind.

    Raises:
        BadRequest: a sentence about the first field that cannot be used.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name, *within = first["loc"]
        field = next(f for n, f in kind.model_fields.items() if name in (n, f.alias))
        where = "".join(f"[{part!r}]" for part in within)
        found = f" {name}{where}: {first['msg']}." if within else ""
        raise BadRequest(f"{name} must be {expected_value(field)}.{found}") from error


# ---- what is answered ----------------------------------------------------------------------


class Health(TypedDict):
    status: str
    model_class: str


class Ready(TypedDict):
    status: str


class Serving(TypedDict):
    model_version: str


class SmartAnswer(TypedDict):
    """What a smart tool's click is answered: regions, in this form and no other."""

    result: list[dict[str, Any]]


class Predictions(TypedDict):
    results: list[list[TaskPrediction]] | list[SmartAnswer]


class Kept(TypedDict):
    event: int


class Ignored(TypedDict):
    ignored: str


class Versions(TypedDict):
    versions: list[str]


class Refusal(TypedDict):
    error: str
