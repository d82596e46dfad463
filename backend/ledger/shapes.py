"""What the JSON columns of the ledger hold, by shape.

A shape that grew from release to release is ``total=False``: an earlier one wrote fewer keys.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

RoundKind = Literal["train", "rank", "start", "adopt"]
RoundState = Literal["active", "succeeded", "failed", "cancelled"]
Stage = Literal["collect", "judge", "fit", "assemble", "choose", "score", "publish"]
PartState = Literal["waiting", "leased", "done", "dropped"]
VersionState = Literal["promoted", "kept", "withdrawn"]
PublicationState = Literal["prepared", "serving", "superseded", "failed", "deleted"]


class ManifestEntry(TypedDict):
    """A labelled task of a training round.

    Attributes:
        task: Label Studio's task id.
        stamp: digest of its annotations' ids and times; None if it has none any more.
        annotations: [id, updated_at] of each that is no skip.
        audit: whether the task belongs to the audit set, which is never trained on.
        url: of its image; None if the task names none.
        digest: name of its example in the registry; None if it could not be made.
        group: what the task's data holds under the option ``group_by``; absent without it.
    """

    task: int
    stamp: str | None
    annotations: list[tuple[int, str]]
    audit: bool
    url: str | None
    digest: str | None
    group: NotRequired[str]


class JudgePayload(TypedDict):
    """``tasks``: task id, digest of its example, and the version that judges, of each."""

    tasks: list[tuple[int, str, int]]


class FitPayload(TypedDict):
    """``plain``: without the version that the round's other members begin with."""

    member: int
    plain: NotRequired[bool]


class ScorePayload(TypedDict):
    """``tasks``: task id and image URL of each candidate; ``version``: what scores them."""

    version: int
    tasks: list[tuple[int, str]]


class NoPayload(TypedDict):
    """A stage of a single part that finds all it needs in the ledger."""


Payload = NoPayload | JudgePayload | FitPayload | ScorePayload


class Budget(TypedDict):
    """How long the members of a round train: ``training.fitting.budget.Budget``.

    In a version's metrics ``step_s`` is what the steps of its own members took.
    """

    steps: int
    knee: int
    images: int
    seconds: float
    step_s: float | None
    chosen: bool
    cost: str


class AnnotatorPair(TypedDict):
    """How alike two annotators label the tasks that both have.

    Attributes:
        one, two: Label Studio's numbers of them.
        tasks: how many there are.
        dice: mean foreground Dice of their masks.
        least: task id and Dice of those that are least alike.
    """

    one: int
    two: int
    tasks: int
    dice: float
    least: list[tuple[int, float]]


LabelTime = tuple[float, float, bool]
"""When a label was made (unix seconds), how long it took (s), and whether it began with a
pre-annotation."""


class Result(TypedDict, total=False):
    """What a finished part keeps of itself; each stage writes its own keys."""

    # collect; ``regions``: [kind, name, how many], see ``backend.label_studio.region_counts``
    labelled: int
    budget: Budget
    regions: list[tuple[str, str, int]]
    both_starts: bool
    pairs: list[AnnotatorPair]
    times: list[LabelTime]
    # collect, judge
    judged: int
    # fit
    member: int
    seconds: float
    # assemble
    version: int
    promoted: bool
    # choose
    pool: int
    unlabelled: int
    drawn: list[int] | None
    unknown_groups: dict[str, list[int]]
    # score
    file: str
    scored: int
    refused: int
    # publish
    published: int
    left_out: int


class Interval(TypedDict):
    """A value and its 95 % interval; both ends None where one image is all there is."""

    value: float
    low: float | None
    high: float | None


class AuditEstimate(TypedDict):
    """A version's quality on the audit images; ``scores`` by task id as text."""

    images: int
    foreground_dice: Interval
    dice: dict[str, Interval | None]
    scores: dict[str, float]


class Gain(TypedDict):
    """What the last labels changed: new minus old foreground Dice of the same images."""

    labels: int
    since: int
    pays: bool
    harms: bool
    mean: float
    low: float
    high: float
    p_worse: float
    pairs: int


class LongerTraining(TypedDict):
    """An earlier version that trained for more steps from no more labels, and was better: by
    ``mean`` foreground Dice, out of fold on the same images."""

    version: int
    steps: int
    mean: float
    standard_error: float
    pairs: int


class StartedFrom(TypedDict):
    """Where a version of another project came from.

    Attributes:
        source: such as ``version 7 of project 3, 'Laboratory A'``.
        digest: names its files.
        images: digests of the images that it and its ancestors learnt from.
    """

    source: str
    digest: str
    images: list[str]


class StartChoice(TypedDict):
    """Which beginning of a round's members was better out of fold.

    Attributes:
        begun: by the members of the version that the project started from.
        images: labelled images that taught both.
        mean: foreground Dice with them, less that without.
    """

    begun: bool
    images: int
    mean: float
    low: float
    high: float
    pairs: int


class GroupQuality(TypedDict):
    """A version's quality on the labelled images of one group, each by who never saw it.

    Attributes:
        labelled: images that taught it; ``measured`` of them were measured.
    """

    labelled: int
    measured: int
    foreground_dice: float | None
    ece: float | None
    reliability: list[tuple[float, float, int]]


class ContradictedLabel(TypedDict):
    """A labelled image whose label a member contradicts that never saw it.

    Attributes:
        key: the task's id.
        share: contradicted pixels over those that label or prediction call foreground.
        pixels: share of the image's known pixels that is contradicted.
        labelled, predicted: the classes that most of them are of.
    """

    key: str
    share: float
    pixels: float
    labelled: str
    predicted: str


class Mistaken(TypedDict):
    """Pixels of a labelled class that were predicted as another; ``share`` of all of that class."""

    labelled: str
    predicted: str
    pixels: int
    share: float


class ClassExamples(TypedDict):
    """A class's labelled images of the least and the greatest Dice: key and Dice of each."""

    worst: list[tuple[str, float]]
    best: list[tuple[str, float]]


class Metrics(TypedDict, total=False):
    """What was measured of a version. An earlier release kept fewer of these."""

    out_of_fold: bool
    examples: int
    dice: dict[str, float | None]
    iou: dict[str, float | None]
    foreground_dice: float
    scores: dict[str, float]
    particle_px: dict[str, float]
    problems: list[str]
    temperature: float
    class_bias: dict[str, float]
    ece: float | None
    ece_uncalibrated: float | None
    reliability: list[tuple[float, float, int]]
    bf16_agreement: float | None
    labelled_images: dict[str, int]
    label_check: list[ContradictedLabel]
    confusion: list[Mistaken]
    class_examples: dict[str, ClassExamples]
    audit: AuditEstimate | None
    chance_scores: dict[str, float]
    recipe: str
    steps: int
    budget: Budget
    truths: dict[str, str]
    audit_gain: Gain | None
    chance_gain: Gain | None
    longer_training: LongerTraining | None
    started_from: StartedFrom
    start_choice: StartChoice
    learnt_elsewhere: list[str]
    groups: dict[str, GroupQuality]


class ProjectFields(TypedDict, total=False):
    """The columns of a project that may change."""

    title: str
    label_config: str
    extra_params: dict[str, object]
    connection: str | None
    connected: bool
    paused: bool
    last_error: str | None
    failures: int
    not_before: float
    check_asked_at: float | None
    checked_at: float | None
    labelled: int
    ranked_left: int
    changed: int
    pool: int
    left_out: int
