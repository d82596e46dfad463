"""Every kind of region and of image, through a real Label Studio; and the other server of ours."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests
from PIL import Image

from backend.actions.connect import connect_project
from backend.errors import BadLabelConfig
from backend.label_studio.bulk import StoredPrediction, Studio
from backend.label_studio.control import control_of
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.regions import read_annotation, to_regions
from tests.limits import wait_until
from tests.live.conftest import MakeProject
from tests.live.harness.rows import import_tasks
from tests.live.harness.servers import ROOT, Process, free_port
from tests.live.harness.stack import CLASSES, TINY, Stack, TinyProject, draw_field
from training.fitting.folds import fold

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

Pixels = npt.NDArray[Any]
LABELLED = 6


def file_of(pixels: Pixels, form: str, mode: str | None = None) -> bytes:
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(file, form)
    return file.getvalue()


def stretched(pixels: Pixels) -> Pixels:
    """The same picture as a 12-bit camera stores it."""
    return pixels[..., 0].astype(np.uint16) * 16


# name: how a field [H, W, 3] uint8 becomes a file
FORMS: dict[str, Callable[[Pixels], bytes]] = {
    "rgb.png": lambda pixels: file_of(pixels, "PNG"),
    "rgba.png": lambda pixels: file_of(pixels, "PNG", "RGBA"),
    "grey.png": lambda pixels: file_of(pixels[..., 0], "PNG"),
    "deep.png": lambda pixels: file_of(stretched(pixels), "PNG"),
    "deep.tif": lambda pixels: file_of(stretched(pixels), "TIFF"),
    "rgb.tif": lambda pixels: file_of(pixels, "TIFF"),
    "rgb.jpg": lambda pixels: file_of(pixels, "JPEG"),
    "rgb.webp": lambda pixels: file_of(pixels, "WEBP"),
    "small.png": lambda pixels: file_of(pixels[:64, :64], "PNG"),
    "wide.png": lambda pixels: file_of(np.tile(pixels, (1, 43, 1))[:, :4096], "PNG"),
}


def config_of(control: str) -> str:
    labels = "".join(f'<Label value="{name}"/>' for name in CLASSES[1:])
    return (
        '<View><Image name="image" value="$image"/>'
        f'<{control} name="tag" toName="image">{labels}</{control}></View>'
    )


def serve(stack: Stack, project_id: int, files: list[tuple[str, bytes]]) -> list[int]:
    """Tasks on a folder of the server's: as an upload it refuses TIFF."""
    folder = stack.label_studio.local_files / f"kinds-{project_id}"
    folder.mkdir()
    for name, data in files:
        (folder / name).write_bytes(data)
    storage = {"project": project_id, "path": str(folder), "use_blob_urls": True}
    requests.post(
        f"{stack.label_studio.url}/api/storages/localfiles",
        json=storage,
        headers={"Authorization": f"Token {stack.label_studio.api_key}"},
        timeout=30,
    ).raise_for_status()
    urls = [f"/data/local-files/?d={folder.name}/{name}" for name, _ in files]
    return import_tasks(stack.work.studio, project_id, [{"image": url} for url in urls])


@pytest.mark.parametrize(
    ("control", "shape"),
    [("PolygonLabels", "polygonlabels"), ("BitmaskLabels", "bitmasklabels")],
)
def test_images_of_every_form_are_pre_annotated_in_their_own_size(
    stack: Stack, studio: Studio, control: str, shape: str
) -> None:
    text = config_of(control)
    created = control_of(studio).projects.create(title=f"kinds {control}", label_config=text)
    fields = [draw_field(seed) for seed in range(LABELLED + len(FORMS))]
    pictures = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png, _ in fields]
    teaching = [(f"field-{seed}.png", fields[seed][0]) for seed in range(LABELLED)]
    asked = [
        (name, form(picture))
        for (name, form), picture in zip(FORMS.items(), pictures[LABELLED:], strict=True)
    ]
    tasks = studio.upload(created.id, teaching) + serve(stack, created.id, asked)
    connected = connect_project(stack.work, created.id, {**TINY, "unknown_label": None})
    project = TinyProject(stack, created.id, connected.project.id, tuple(tasks), {})
    assert {fold(str(task_id), TINY["members"]) for task_id in tasks[:LABELLED]} == {0, 1}
    config = parse_label_config(text)
    for task_id, (_, mask) in zip(tasks, fields[:LABELLED], strict=False):
        sure = np.ones(mask.shape)
        drawn = to_regions(mask, sure, config, CLASSES, per="particle", min_particle_px=1)
        studio.annotate(task_id, drawn)

    stack.work.ledger.events.add(project.row_id, "RETRAIN")
    row = stack.await_round(project)
    assert (row.state, row.error, row.problems) == ("succeeded", None, [])

    serving = project.serving()
    assert serving is not None
    drawn_on = 0
    for task_id, (name, data) in zip(tasks[LABELLED:], asked, strict=True):
        found = studio.predictions(task_id)  # an empty one among them, if it was ordered before
        [prediction] = [p for p in found if p["model_version"] == serving.name]
        width, height = Image.open(io.BytesIO(data)).size
        for region in prediction["result"]:
            assert region["type"] == shape, name
            assert (region["original_width"], region["original_height"]) == (width, height), name
            assert 0 < region["score"] <= 1
        read = read_annotation(
            prediction["result"], config, CLASSES, (height, width), unlabelled=0, unknown_label=None
        )
        assert read.problems == []
        drawn_on += bool(read.mask.any())
    # A barely trained committee misses some fields, more or fewer by which tasks each member
    # leaves out, and that goes by their numbers.
    assert drawn_on >= 2


@pytest.mark.parametrize("kind", ["Brush", "Bitmask", "Polygon", "MagicWand"])
def test_pre_annotations_of_a_shape_with_labels_are_stored_and_read_back(
    project: MakeProject, studio: Studio, kind: str
) -> None:
    text = config_of("Labels").replace("</View>", f'<{kind} name="shape" toName="image"/></View>')
    written = text.replace("MagicWand", "Brush")
    made = project(tasks=1, label_config=text)
    [task] = studio.tasks(made.id)
    _, mask = draw_field(0)
    config = parse_label_config(written)
    result = to_regions(mask, np.ones(mask.shape), config, CLASSES, per="class", min_particle_px=1)
    if kind == "MagicWand":  # why its projects are refused
        result = [{**one, "type": one["type"].replace("brush", "magicwand")} for one in result]
    row = StoredPrediction(task=task.id, result=result, score=0.5, model_version="committee-v1.1")
    assert studio.import_predictions(made.id, [row]) == (kind != "MagicWand")
    if kind == "MagicWand":
        with pytest.raises(
            BadLabelConfig, match="no other tag can hold one, got Labels, MagicWand"
        ):
            parse_label_config(text)
        return
    [stored] = studio.predictions(task.id)
    # Submitted untouched, as an annotator does.
    studio.annotate(task.id, stored["result"], parent_prediction=stored["id"])
    [annotation] = studio.annotations(task.id)
    found = read_annotation(
        annotation["result"], config, CLASSES, mask.shape, unlabelled=0, unknown_label=None
    )
    assert found.problems == []
    assert np.mean(found.mask != mask) < (0.02 if kind == "Polygon" else 1e-9)


def test_shapes_with_labels_teach_a_renamed_label_is_counted_and_smart_tools_are_answered(
    stack: Stack, studio: Studio
) -> None:
    labels = "".join(f'<Label value="{name}"/>' for name in CLASSES[1:])
    text = config_of("BrushLabels").replace(
        "</View>",
        f'<Labels name="label" toName="image">{labels}</Labels>'
        '<Polygon name="shape" toName="image"/></View>',
    )
    created = control_of(studio).projects.create(title="kinds Labels", label_config=text)
    fields = [draw_field(seed) for seed in range(LABELLED)]
    files = [(f"field-{seed}.png", png) for seed, (png, _) in enumerate(fields)]
    tasks = studio.upload(created.id, files)
    connected = connect_project(stack.work, created.id, {**TINY, "unknown_label": None})
    assert connected.warnings == ()
    project = TinyProject(stack, created.id, connected.project.id, tuple(tasks), {})
    outlines = parse_label_config(config_of("PolygonLabels"))
    for task_id, (_, mask) in zip(tasks, fields, strict=True):
        sure = np.ones(mask.shape)
        result = []
        for one in to_regions(mask, sure, outlines, CLASSES, per="particle", min_particle_px=1):
            names = one["value"].pop("polygonlabels")
            result.append({**one, "from_name": "shape", "type": "polygon"})
            value = {**one["value"], "labels": names}
            result.append({**one, "from_name": "label", "type": "labels", "value": value})
        if task_id == tasks[0]:
            result[1]["value"]["labels"] = ["Former"]
        studio.annotate(task_id, result)

    stack.work.ledger.events.add(project.row_id, "RETRAIN")
    row = stack.await_round(project)
    assert (row.state, row.error) == ("succeeded", None)
    [problem] = row.problems
    assert problem.startswith("1 region carries the label 'Former', which the labeling")

    [backend] = control_of(studio).ml.list(project=created.id)
    url = f"{stack.label_studio.url}/api/ml/{backend.id}"
    key = {"Authorization": f"Token {stack.label_studio.api_key}"}
    user, password = stack.auth
    sent = {
        "is_interactive": True,
        "url": backend.url,
        "project": created.id,
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": user,
        "basic_auth_pass": password,
        "extra_params": backend.extra_params,
    }
    requests.patch(url, json=sent, headers=key, timeout=30).raise_for_status()
    click = {"type": "keypointlabels", "value": {"x": 50, "y": 50, "width": 1}}
    answer = requests.post(
        f"{url}/interactive-annotating",
        json={"task": tasks[0], "context": {"result": [click]}},
        headers=key,
        timeout=60,
    )
    assert answer.json() == {"data": {"result": []}}


def test_the_librarys_own_command_serves_the_folder_too(
    stack: Stack, studio: Studio, tmp_path: Path
) -> None:
    """`label-studio-ml start .`, of label-studio-ml 1.0.9."""
    port = free_port()
    settings = stack.settings
    url, api_key = settings.label_studio()
    environment = {
        **os.environ,
        # It runs `python _wsgi.py`: the environment must be activated.
        "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "DATA_DIR": str(settings.data_dir),
        "LABEL_STUDIO_URL": url,
        "LABEL_STUDIO_API_KEY": api_key,
        "REDIS_URL": settings.redis(),
        "LEDGER_URL": settings.ledger_url,
        "REGISTRY_URL": str(settings.registry_path),
        "BASIC_AUTH_USER": stack.auth[0],
        "BASIC_AUTH_PASS": stack.auth[1],
    }
    command = ["/usr/bin/env", "label-studio-ml", "start", str(ROOT), "-p", str(port)]
    server = Process(command, tmp_path / "log", environment, cwd=tmp_path)

    def healthy() -> bool:
        assert server.alive(), server.tail()
        try:
            return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    try:
        wait_until(healthy, 90, "label-studio-ml's server")
        created = control_of(studio).projects.create(
            title="library", label_config=config_of("BrushLabels")
        )
        task = {"id": 1, "data": {"image": "/data/upload/1/none.png"}}
        answer = requests.post(
            f"http://127.0.0.1:{port}/predict",
            json={"tasks": [task], "project": studio.project(created.id).key},
            auth=stack.auth,
            timeout=30,
        )
        assert (answer.status_code, answer.json()) == (200, {"results": [[]]})
    finally:
        # Its command starts the server as a child, which does not die with it.
        os.killpg(server.pid, signal.SIGKILL)
        server.stop()
