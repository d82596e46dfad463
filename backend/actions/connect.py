"""Connecting and disconnecting a project: Label Studio's side and the ledger's, together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from backend.actions.purge import purge_project
from backend.actions.start_from import adopt, find_start
from backend.errors import (
    BackendError,
    BadRequest,
    ImageRefused,
    StudioRefused,
    StudioUnreachable,
)
from backend.label_studio.connection import (
    Connection,
    connect,
    disconnect,
    take_controls_back,
)
from backend.label_studio.label_config import (
    LabelConfig,
    add_layer_control,
    add_smart_controls,
    parse_label_config,
    unread_controls,
)
from backend.label_studio.regions import MOST_BRUSHES
from backend.label_studio.reserved_controls import LAYER, SMART
from backend.label_studio.webhook_secret import webhook_key
from backend.ledger import Project
from backend.options import ProjectOptions, check_labels, parse_options
from backend.predict import image_url, read_image
from backend.rounds.schedule import CONNECTED, count_changes, label_states
from backend.settings import Settings
from backend.workplace import Workplace
from training.committee.memory import machine_memory, prediction_bytes

MOST_OF_MEMORY = 0.75
"""Share of the machine's memory that one prediction may take: Label Studio and the processes
themselves need the rest."""

TRIED_IMAGES = 3
"""Enough to see a host that is not allowed or a storage that is not connected."""


@dataclass(frozen=True)
class Connected:
    """What ``connect_project`` did.

    Attributes:
        labelled: tasks that carry a label now.
        round_asked: a round was asked for, because some of them taught nothing yet.
        warnings: a sentence for each control of which nothing, or not all, is learnt, for each of
            the first ``TRIED_IMAGES`` tasks whose image cannot be read, for regions that may become
            too many for Label Studio's editor, and for more labels than this machine's memory
            would bear.
    """

    project: Project
    labelled: int
    round_asked: bool
    warnings: Sequence[str] = ()


def connect_project(
    work: Workplace,
    studio_id: int,
    options: Mapping[str, Any] | None = None,
    start_from: str | None = None,
    click: bool | None = None,
    layer: bool | None = None,
) -> Connected:
    """Connect a project, or mend its connection; safe to repeat.

    Args:
        options: the extra parameters to set; None keeps those there are.
        start_from: the version that a new project starts from, as ``find_start`` takes it.
        click: answer smart clicks, with controls of ours in the label config (docs/CLICK.md), or
            take these back; None leaves it as it is.
        layer: give pre-annotations an uncertainty layer from the next publication on, or no longer
            (docs/UNCERTAINTY_LAYER.md); None leaves it as it is.

    Raises:
        BadLabelConfig, BadOptions: nothing was changed.
        BadRequest, TrainingError: nor was it where ``find_start`` refused ``start_from``.
        CannotConnect, StudioRefused, StudioUnreachable: as ``connect``; what a project that was
            not connected before has got is taken back.
    """
    settings, ledger, studio = work.settings, work.ledger, work.studio
    project = studio.project(studio_id)
    # Nothing is written before Label Studio has agreed: a refusal leaves nothing behind.
    known = ledger.projects.find(work.server, studio_id, project.created)
    wanted = dict((known.extra_params if known else {}) if options is None else options)
    parsed = parse_options(wanted)
    config = parse_label_config(project.label_config, image=parsed.image)
    check_labels(parsed, config.labels)
    start = None if start_from is None else find_start(work, known, start_from, config, parsed)
    previous = (
        None
        if known is None or known.connection is None
        else Connection.from_json(known.connection)
    )
    label_config = project.label_config
    # Where nothing is said, controls that a disconnect could not take out stay as well.
    unwanted = [*([SMART] if click is False else []), *([[LAYER]] if layer is False else [])]
    click = (previous is not None and previous.click) if click is None else click
    layer = (previous is not None and previous.layer) if layer is None else layer
    if click:
        label_config = add_smart_controls(label_config, config)
    if layer:
        label_config = add_layer_control(label_config, config)
    serving = None if known is None else ledger.publications.serving(known.id)
    try:
        connection = connect(
            studio,
            studio_id,
            backend_url=settings.backend_url,
            user=settings.basic_auth_user,
            password=settings.basic_auth_pass.get_secret_value(),
            webhook_key=webhook_key(settings),
            options=wanted,
            model_version=None if serving is None else serving.name,
            previous=previous,
            click=click,
            layer=layer,
            label_config=label_config,
        )
        stays = take_controls_back(studio, studio_id, *unwanted)
        if unwanted:
            label_config = studio.project(studio_id).label_config
        row = ledger.projects.ensure(
            work.server,
            studio_id,
            project.created,
            title=project.title,
            label_config=label_config,
            extra_params=wanted,
        )
        ledger.projects.update(
            row.id, connection=connection.to_json(), connected=True, last_error=None
        )
        # From the webhook's new secret to this row events were refused; the count finds what they
        # told.
        states = label_states(studio.stamps(studio_id))
    except BackendError:
        if previous is None and not (known and known.connected):
            with suppress(BackendError):
                _take_back(work, studio_id, project.created, is_new=known is None)
        raise
    if start is not None:
        adopt(work, row, start)
    changed = count_changes(states, ledger.rounds.last_manifest(row.id))
    if changed and states:
        ledger.events.add(row.id, CONNECTED)
    warnings = (
        *(() if start is None else start.warnings),
        *stays,
        *unread_controls(project.label_config, config),
        *_unread_images(work, studio_id, config, parsed),
        *_many_regions(config, parsed),
        *too_large_for(work.settings, config, parsed, machine_memory()),
    )
    return Connected(ledger.projects.get(row.id), len(states), bool(changed and states), warnings)


def _take_back(work: Workplace, studio_id: int, created: int, *, is_new: bool) -> None:
    """Undo what connecting has done: of a new project the ledger forgets what /setup wrote."""
    if work.ledger.projects.find(work.server, studio_id, created) is not None:
        row = disconnect_project(work, studio_id)
        if is_new:
            work.ledger.projects.forget(row.id)


def _unread_images(
    work: Workplace, studio_id: int, config: LabelConfig, options: ProjectOptions
) -> list[str]:
    """What keeps the first tasks' images from being read: a sentence for each such task."""
    warnings = []
    try:
        tasks = list(islice(work.studio.tasks(studio_id), TRIED_IMAGES))
    except (StudioRefused, StudioUnreachable) as error:
        return [f"No image was tried: {error}"]
    for task in tasks:
        try:
            read_image(work.images, image_url(task.data, config), options.channel_numbers)
        except (BadRequest, ImageRefused, StudioRefused, StudioUnreachable) as error:
            warnings.append(f"The image of task {task.id} cannot be read: {error}")
    return warnings


def _many_regions(config: LabelConfig, options: ProjectOptions) -> list[str]:
    """A sentence where each particle becomes a mask of its own, of the size of the image."""
    if options.regions != "particle" or config.output.shape == "polygon":
        return []
    return [
        f"With regions=particle each particle is a {config.output.shape} region, and Label "
        f"Studio's editor freezes on a task of more than some {MOST_BRUSHES} of them: for crowded "
        'images set the option regions to "class", or min_particle_px higher.'
    ]


def too_large_for(
    settings: Settings, config: LabelConfig, options: ProjectOptions, memory: int
) -> list[str]:
    """Whether so many labels at the project's size would not fit this machine: a sentence then.

    Args:
        memory: the machine's, in bytes.
    """
    members, network = options.members or settings.members, options.network or settings.network
    classes = len(config.labels) + 1
    needed = prediction_bytes(network, members, classes, options.max_side_px)
    if needed <= MOST_OF_MEMORY * memory:
        return []
    return [
        f"{len(config.labels)} labels at max_side_px {options.max_side_px} with {members} members "
        f"take about {needed / 1e9:.1f} GB for each image that is predicted, and this machine has "
        f"{memory / 1e9:.1f} GB: rounds will run out of memory. Give the project fewer labels, "
        "fewer members or a smaller max_side_px."
    ]


def disconnect_project(work: Workplace, studio_id: int, *, purge: bool = False) -> Project:
    """Give a project back as it was; annotations stay, versions too unless purged.

    Raises:
        BadRequest: as ``purge_project``; the project is disconnected.
    """
    row = work.ledger.projects.of_studio(work.server, studio_id)
    if row.connection is not None:
        disconnect(work.studio, Connection.from_json(row.connection))
    active = work.ledger.rounds.active(row.id)
    if active is not None:
        work.ledger.rounds.fail(active.id, "The project was disconnected.")
    work.ledger.projects.update(
        row.id, connected=False, connection=None, last_error=None, failures=0
    )
    if purge:
        purge_project(work, row)
    return row
