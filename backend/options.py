"""What a project may choose, in the extra parameters of its connection in Label Studio."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Mapping
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from backend.documented_field import MOST, documented, expected_value, shown_default, whole_number
from backend.errors import BadOptions
from training.channels import parse_channels

# The names of acquisition.uncertainty.MEASURES and acquisition.aggregate.AGGREGATES. Repeated
# here because importing those imports torch, which neither the web's /setup nor the worker's
# parent may wait for; a test holds the two equal.
MEASURES = (
    "predictive_entropy",
    "variation_ratio",
    "mutual_information",
    "standard_deviation",
    "least_confidence",
)
AGGREGATES = (
    "image_mean",
    "foreground_mean",
    "boundary_excluded_mean",
    "top_quantile_mean",
    "max_patch_mean",
    "object_max",
)

MODES = ("hedge", "leader", "random")
FIXED = "fixed:"

# Of a publication only, and no option: chance ranks while the labels asked for do harm.
FALLBACK = "fallback"

# With entropy the one that never hurt in a first measurement on three data sets.
USUAL_AGGREGATE = "top_quantile_mean"

_MODES = (
    '"hedge", "leader", "random", "fixed:MEASURE" or "fixed:MEASURE/AGGREGATE"; '
    f"measures are {', '.join(MEASURES[:-1])} and {MEASURES[-1]}, "
    f"aggregates {', '.join(AGGREGATES[:-1])} and {AGGREGATES[-1]}; without one it is "
    f"{USUAL_AGGREGATE}"
)

KEEP_VERSIONS = 10
"""Newest versions of a project whose files stay, whatever became of them: those of so many rounds,
for a round makes one version, however long it trains, and one that failed has no files."""

MOST_STEPS = 100_000
"""Hours of training; some 2,000 are the most that were ever seen to help."""


class ProjectOptions(BaseModel):
    """The JSON object in "extra parameters"; what is left out has the default given here.

    None means that the environment decides (``RETRAIN_EVERY`` and its like), or, for ``regions``
    and ``steps``, the kind of label tag, and FIT_SECONDS with the labels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    image: str | None = documented(
        None,
        "The name of the Image tag to work on; needed when the label config has several.",
        "the name of an Image tag",
        "the only one",
        min_length=1,
    )
    mode: str = documented(
        "hedge",
        "What ranks the images: all measures, each weighed by how well it predicted what "
        "annotators corrected; the one that predicted it best; chance; or always the same measure.",
        _MODES,
    )
    regions: Literal["class", "particle"] | None = documented(
        None,
        "Pre-annotate with one region per class or one per connected particle; "
        "polygons are always one per particle. Of brush regions more than some 100 in an image "
        "freeze Label Studio's editor.",
        '"class" or "particle"',
        "class; particle for polygons",
    )
    min_particle_px: int = whole_number(
        12, "Smaller particles are left out of pre-annotations.", MOST
    )
    split_touching: list[str] | None = documented(
        None,
        "Labels whose particles are told apart where they touch; the others are one where they are "
        "connected (docs/PARTICLES.md).",
        'a list of labels, as ["red cell"]',
        "none",
    )
    unlabelled: Literal["background", "unknown"] = documented(
        "background",
        "What a pixel without a region is: background, or unknown and not learnt from.",
        '"background" or "unknown"',
    )
    unknown_label: str | None = documented(
        None,
        "The label that annotators paint over what they cannot tell; not learnt from.",
        "the name of a label",
        "none",
        min_length=1,
    )
    aliases: dict[str, str] | None = documented(
        None,
        "Labels that were renamed after people had used them: what carries the old name is "
        "learnt as the new one. A name that is still a label means itself.",
        'an object of names, as {"old": "new"}',
        "none",
    )
    retrain_every: int | None = whole_number(
        None, "Changed annotations between two rounds.", MOST, "RETRAIN_EVERY"
    )
    members: int | None = whole_number(None, "Networks in the committee.", 20, "MEMBERS")
    candidates: int | None = whole_number(
        None, "Images scored in a round, at most.", MOST, "CANDIDATES"
    )
    queue_length: int | None = whole_number(
        None, "Images published in a round, at most.", MOST, "QUEUE_LENGTH"
    )
    keep_versions: int = whole_number(
        KEEP_VERSIONS,
        "Newest versions whose files stay, beside those in use (docs/RELIABILITY.md).",
        MOST,
    )
    steps: int | None = whole_number(
        None,
        "Training steps per member, whatever FIT_SECONDS and the labels are.",
        MOST_STEPS,
        "by FIT_SECONDS and the labels",
    )
    max_side_px: int = documented(
        1024,
        "Images are shrunk, never enlarged, to this long side before the networks see them.",
        "an integer from 256 to 4096",
        ge=256,
        le=4096,
    )
    channels: str | None = documented(
        None,
        'The channels of the images to work on, counted from 1: "2" as grey, "1,3" as red and '
        'green, "1,3,2" as red, green and blue (docs/IMAGES.md).',
        'text with one to three numbers from 1, such as "2" or "1,3,2"',
        "colours as they are; else the first three channels that are not constant",
    )
    group_by: str | None = documented(
        None,
        "The key of the tasks' data whose values are groups, such as the microscope: quality is "
        "told for each, and one that the committee has not learnt from gets places in the queue "
        "(docs/NEXT_MICROSCOPE.md).",
        "a key of the tasks' data",
        "none",
        min_length=1,
    )
    audit_fraction: float = documented(
        0.05,
        "Share of the pool kept for an unbiased estimate of quality, never trained on.",
        "a number from 0 to 0.5",
        ge=0,
        le=0.5,
    )
    # torch takes 64 bits; half of 32 leave room for `seed + member` everywhere.
    seed: int = documented(
        0,
        "What all of the project's randomness is drawn from.",
        f"an integer from 0 to {2**31 - 1}",
        ge=0,
        le=2**31 - 1,
    )
    # Of a laboratory's own only the environment may say: what is named here gets imported.
    network: Literal["shared", "lite0", "unet"] | None = documented(
        None,
        "The members' network: decoders on one pretrained EfficientNet-lite0 encoder; the same "
        "with an encoder for each that learns too; or a small U-Net from scratch.",
        '"shared", "lite0" or "unet"',
        "NETWORK",
    )

    @field_validator("channels")
    @classmethod
    def _check_channels(cls, channels: str | None) -> str | None:
        if channels is not None:
            parse_channels(channels)  # raises ValueError
        return channels

    @property
    def channel_numbers(self) -> tuple[int, ...] | None:
        """``channels`` as numbers."""
        return None if self.channels is None else parse_channels(self.channels)

    @field_validator("aliases", mode="before")
    @classmethod
    def _check_aliases(cls, aliases: object) -> object:
        # Refused here, so that the sentence names the option and not a key within it.
        if aliases is not None and not (
            isinstance(aliases, dict)
            and all(isinstance(n, str) and n for pair in aliases.items() for n in pair)
        ):
            raise ValueError("no names")
        return aliases

    @field_validator("split_touching", mode="before")
    @classmethod
    def _check_split_touching(cls, names: object) -> object:
        # As with aliases, so that the sentence names the option.
        if names is not None and not (
            isinstance(names, list) and all(isinstance(name, str) and name for name in names)
        ):
            raise ValueError("no names")
        return names

    @field_validator("mode")
    @classmethod
    def _check_mode(cls, mode: str) -> str:
        arm = fixed_arm(mode)
        if mode not in MODES and arm is None:
            raise ValueError("no such mode")  # the sentence is made of what is expected
        if arm is not None:
            measure, _, aggregate = arm.partition("/")
            if measure not in MEASURES or aggregate not in AGGREGATES:
                raise ValueError("no such arm")
        return mode


def fixed_arm(mode: str) -> str | None:
    """The arm "measure/aggregate" that a mode of one measure names; None for another mode."""
    if not mode.startswith(FIXED):
        return None
    named = mode.removeprefix(FIXED)
    return named if "/" in named else f"{named}/{USUAL_AGGREGATE}"


def parse_options(extra_params: Any) -> ProjectOptions:
    """The options in a connection's extra parameters, as Label Studio hands them on.

    Args:
        extra_params: An object, the same as JSON text (once or twice quoted, as the form, the SDK
            and the server's own storage make it), or None or "" for all defaults.

    Raises:
        BadOptions: a sentence for each option that is unknown or out of range.
    """
    given = extra_params_object(extra_params)
    try:
        return ProjectOptions.model_validate(given)
    except ValidationError as error:
        raise BadOptions(" ".join(_describe_refusal(dict(e)) for e in error.errors())) from error


def options_table() -> list[tuple[str, str, str, str]]:
    """Name, what it may be, default and meaning of every option, for the documentation."""
    return [
        (name, expected_value(field), shown_default(field), str(field.description))
        for name, field in ProjectOptions.model_fields.items()
    ]


def extra_params_object(extra_params: Any) -> dict[str, Any]:
    """A connection's extra parameters as an object, however Label Studio has quoted them.

    Raises:
        BadOptions: they are no JSON object.
    """
    value = extra_params
    for _ in range(2):
        if not isinstance(value, str):
            break
        if not value.strip():
            value = None
            break
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise BadOptions(
                f"The extra parameters must be a JSON object, got text that is no JSON "
                f"({error}): {_shown(value)}."
            ) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadOptions(f"The extra parameters must be a JSON object, got {_shown(value)}.")
    if odd := [key for key in value if not isinstance(key, str)]:
        raise BadOptions(f"The names of options must be text, got {_shown(odd[0])}.")
    return value


def _describe_refusal(error: Mapping[str, Any]) -> str:
    """``The option members must be an integer from 1 to 20, got 0.``"""
    name = str(error["loc"][0])
    if name not in ProjectOptions.model_fields:
        known = ", ".join(ProjectOptions.model_fields)
        return f"The options are {known}; got {_shown(name)}, which is none of them."
    expected = expected_value(ProjectOptions.model_fields[name])
    return f"The option {name} must be {expected}, got {_shown(error['input'])}."


def check_labels(options: ProjectOptions, labels: Collection[str]) -> None:
    """Refuse options that name a label which the label config does not have.

    Raises:
        BadOptions: a sentence for the user.
    """
    if options.unknown_label is not None and options.unknown_label not in labels:
        raise BadOptions(
            f"The option unknown_label names {_shown(options.unknown_label)}, and the labels are "
            f"{', '.join(labels)}."
        )
    for name in options.split_touching or ():
        if name not in labels:
            raise BadOptions(
                f"The option split_touching names {_shown(name)}, and the labels are "
                f"{', '.join(labels)}."
            )
    for old, new in (options.aliases or {}).items():
        if new not in labels and new.casefold() != "background":
            raise BadOptions(
                f"The option aliases maps {_shown(old)} to {_shown(new)}, and the labels are "
                f"{', '.join(labels)}."
            )


def _shown(value: object) -> str:
    """The refused value as JSON would write it, cut where a reader would stop reading."""
    scalar = value is None or isinstance(value, str | bool | int | float)
    # What is no scalar may be nested deeper than json can follow; reprlib stops early.
    text = json.dumps(value) if scalar else reprlib.repr(value)
    return text if len(text) <= 80 else text[:80] + "..."
