"""The client against a real Label Studio: what it returns, and what it survives."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
import requests
from PIL import Image

from backend.errors import ImageRefused, StudioRefused, StudioUnreachable
from backend.insight.findings.studio import signup_findings
from backend.label_studio.bulk import Stamp, Studio
from backend.label_studio.control import control_of
from backend.label_studio.images import ImageFetcher
from tests.backend.host import Host, body, redirect
from tests.live.conftest import BRUSH, MakeProject
from tests.live.harness.rows import import_tasks, webhooks_of
from tests.live.harness.servers import LabelStudio, free_port, log_in

pytestmark = pytest.mark.live


def brush_region(rle: list[int], label: str = "Cell", side: int = 8) -> dict[str, object]:
    return {
        "id": "r1",
        "from_name": "tag",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": side,
        "original_height": side,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": rle, "brushlabels": [label]},
    }


# The SDK's encoding of an 8x8 mask whose upper half is set.
HALF = [0, 0, 1, 0, 57, 7, 127, 248, 63, 192, 0]


def png(side: int = 8, level: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (level, 10, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def test_version_and_user_are_those_of_the_server(studio: Studio, label_studio: LabelStudio):
    assert control_of(studio).versions.get().release == "1.23.2"
    assert studio.whoami()["email"] == label_studio.user


def test_a_project_comes_back_as_it_was_made(project: MakeProject, studio: Studio):
    made = project(tasks=2, title="one", maximum_annotations=2)
    again = studio.project(made.id)
    assert again == made
    assert (again.title, again.maximum_annotations, again.task_number) == ("one", 2, 2)
    assert again.label_config == BRUSH
    assert abs(again.created - time.time()) < 60
    assert again.key == f"{made.id}.{again.created}"
    assert again.settings["show_collab_predictions"] is True


def test_a_changed_project_keeps_what_was_not_named(project: MakeProject, studio: Studio):
    made = project(title="before")
    changed = studio.update_project(made.id, title="after")
    assert changed.title == "after"
    assert changed.label_config == BRUSH


def test_projects_lists_more_than_a_page(
    project: MakeProject, studio: Studio, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("backend.label_studio.control.PROJECTS_PAGE", 2)
    made = [project(title=f"project {i}").id for i in range(5)]
    listed = [p.id for p in control_of(studio).all_projects()]
    assert listed == sorted(listed)
    assert set(made) <= set(listed)


def test_tasks_come_by_rising_id_with_their_data(project: MakeProject, studio: Studio):
    made = project()
    rows = [{"image": f"/data/none/{i}.png", "patient": i} for i in range(1203)]
    ids = import_tasks(studio, made.id, rows)
    tasks = list(studio.tasks(made.id))
    assert [t.id for t in tasks] == ids
    assert [t.data["patient"] for t in tasks] == list(range(1203))
    assert {(t.annotations, t.skipped) for t in tasks} == {(0, 0)}


def test_tasks_of_given_ids_leave_out_what_is_gone(project: MakeProject, studio: Studio):
    made = project(tasks=4)
    ids = [t.id for t in studio.tasks(made.id)]
    control_of(studio).tasks.delete(str(ids[1]))
    assert [t.id for t in studio.tasks(made.id, [ids[3], ids[1], ids[0]])] == [ids[0], ids[3]]
    assert list(studio.tasks(made.id, [])) == []


def test_tasks_of_another_project_are_never_listed(project: MakeProject, studio: Studio):
    mine, theirs = project(tasks=2), project(tasks=2)
    other = [t.id for t in studio.tasks(theirs.id)]
    assert list(studio.tasks(mine.id, other)) == []


def test_a_page_shorter_than_asked_does_not_end_the_list(unusual_label_studio: LabelStudio):
    with Studio(unusual_label_studio.url, unusual_label_studio.api_key) as studio:
        made = control_of(studio).projects.create(title="short pages", label_config=BRUSH)
        ids = import_tasks(studio, made.id, [{"image": f"/{i}.png"} for i in range(23)])
        assert [t.id for t in studio.tasks(made.id)] == ids
        for task_id in ids:
            studio.annotate(task_id, [])
        assert sorted(studio.stamps(made.id)) == ids
        assert [task_id for task_id, _ in studio.annotations_of(made.id, ids)] == ids


def test_only_annotated_tasks_that_changed_since_come(project: MakeProject, studio: Studio):
    made = project(tasks=4)
    ids = [t.id for t in studio.tasks(made.id)]
    assert studio.first_and_last(made.id) == (ids[0], ids[-1])
    assert studio.project(made.id).annotations == 0
    annotations = [studio.annotate(ids[0], []), studio.annotate(ids[1], [], was_cancelled=True)]
    changed = {task_id: datetime.fromisoformat(at) for task_id, at, _ in studio.touched(made.id)}
    assert sorted(changed) == ids[:2]
    assert studio.project(made.id).annotations == 2  # the skip counts
    just_after = max(changed.values()) + timedelta(microseconds=2)
    assert list(studio.touched(made.id, just_after)) == []
    studio.update_annotation(annotations[0]["id"], result=[])
    assert [task_id for task_id, _, _ in studio.touched(made.id, just_after)] == [ids[0]]
    last = max(changed.values())
    assert ids[1] in [task_id for task_id, _, _ in studio.touched(made.id, last)]
    assert studio.import_tasks(made.id, [{"image": "/a.png"}, {"image": "/b.png"}]) == [
        t.id for t in studio.tasks(made.id, after=ids[-1])
    ]


def test_uploaded_files_become_tasks_in_their_order(project: MakeProject, studio: Studio):
    made = project()
    files = [(f"cell-{i}.png", png(level=i)) for i in range(103)]
    ids = studio.upload(made.id, files)
    tasks = {t.id: t for t in studio.tasks(made.id)}
    assert sorted(tasks) == sorted(ids)
    for task_id, (name, content) in zip(ids, files, strict=True):
        path = tasks[task_id].data["image"]
        assert path.endswith(f"-{name}")
        with studio.open_stream(path) as answer:
            assert answer.content == content


def test_images_come_from_uploads_and_local_files(
    project: MakeProject, studio: Studio, label_studio: LabelStudio, access_token: str
):
    made = project()
    studio.upload(made.id, [("a cell ä.png", png(level=1))])
    folder = label_studio.local_files / "plate 1"
    folder.mkdir(exist_ok=True)
    (folder / "well ü.png").write_bytes(png(level=2))
    storage = {"project": made.id, "path": str(folder), "use_blob_urls": True}
    studio.send("POST", "/api/storages/localfiles", storage)
    import_tasks(studio, made.id, [{"image": "/data/local-files/?d=plate%201/well%20ü.png"}])
    uploaded, local = [task.data["image"] for task in studio.tasks(made.id)]
    with Studio(label_studio.url, access_token) as second:
        for client in (studio, second):
            fetcher = ImageFetcher(client)
            assert fetcher.fetch(uploaded) == png(level=1)
            assert fetcher.fetch(local) == png(level=2)
    for gone in ("/data/upload/1/gone.png", "/data/local-files/?d=plate 1/gone.png"):
        with pytest.raises(ImageRefused):
            ImageFetcher(studio).fetch(gone)


def test_uploading_what_is_no_image_is_refused(project: MakeProject, studio: Studio):
    made = project()
    with pytest.raises(StudioRefused, match="tasks of 1 files"):
        studio.upload(made.id, [("rows.csv", b"image\n/a.png\n/b.png\n")])


def test_annotations_come_back_with_their_regions(project: MakeProject, studio: Studio):
    made = project(tasks=2)
    first, second = [t.id for t in studio.tasks(made.id)]
    given = studio.annotate(first, [brush_region(HALF)], lead_time=3.5)
    (got,) = studio.annotations(first)
    assert got["id"] == given["id"]
    assert got["result"][0]["value"]["rle"] == HALF
    assert studio.annotations(second) == []
    by_task = dict(studio.annotations_of(made.id, [first, second]))
    assert by_task[second] == []
    (bulk,) = by_task[first]
    assert bulk == {name: got[name] for name in bulk}
    assert bulk["lead_time"] == 3.5


def test_counts_tell_annotations_from_skips(project: MakeProject, studio: Studio):
    made = project(tasks=2)
    first, second = [t.id for t in studio.tasks(made.id)]
    studio.annotate(first, [brush_region(HALF)])
    studio.annotate(second, [], was_cancelled=True)
    counts = {t.id: (t.annotations, t.skipped) for t in studio.tasks(made.id)}
    assert counts == {first: (1, 0), second: (0, 1)}


def test_stamps_follow_each_annotation_through_its_life(project: MakeProject, studio: Studio):
    made = project(tasks=4)
    labelled, skipped, deleted, untouched = [t.id for t in studio.tasks(made.id)]
    a = studio.annotate(labelled, [brush_region(HALF)])
    b = studio.annotate(labelled, [])
    c = studio.annotate(skipped, [], was_cancelled=True)
    d = studio.annotate(deleted, [brush_region(HALF)])
    before = studio.stamps(made.id)
    assert before == {
        labelled: (
            Stamp(a["id"], a["updated_at"], skipped=False),
            Stamp(b["id"], b["updated_at"], skipped=False),
        ),
        skipped: (Stamp(c["id"], c["updated_at"], skipped=True),),
        deleted: (Stamp(d["id"], d["updated_at"], skipped=False),),
    }
    assert untouched not in before

    control_of(studio).annotations.delete(d["id"])
    control_of(studio).annotations.update(a["id"], result=[brush_region(HALF, "Nucleus")])
    after = studio.stamps(made.id)
    assert deleted not in after
    assert after[skipped] == before[skipped]
    changed, same = after[labelled]
    assert changed.annotation_id == a["id"]
    assert changed.updated_at > before[labelled][0].updated_at
    assert same == before[labelled][1]


def test_stamps_do_not_move_when_predictions_or_drafts_come(project: MakeProject, studio: Studio):
    made = project(tasks=1)
    (task,) = studio.tasks(made.id)
    studio.annotate(task.id, [brush_region(HALF)])
    before = studio.stamps(made.id)
    row = {"task": task.id, "result": [brush_region(HALF)], "score": 0.5, "model_version": "v1"}
    assert studio.import_predictions(made.id, [row]) == 1
    assert studio.stamps(made.id) == before


def test_stamps_of_a_project_without_labels_are_empty(project: MakeProject, studio: Studio):
    assert studio.stamps(project(tasks=1).id) == {}
    assert studio.stamps(project().id) == {}


def test_stamps_of_500_labelled_tasks_are_complete(project: MakeProject, studio: Studio):
    made = project()
    rows = [
        {"data": {"image": f"/{i}.png"}, "annotations": [{"result": [brush_region(HALF)]}] * 2}
        for i in range(520)
    ]
    ids = import_tasks(studio, made.id, rows)
    stamps = studio.stamps(made.id)
    assert sorted(stamps) == ids
    assert {len(s) for s in stamps.values()} == {2}


def test_import_predictions_counts_only_what_was_stored(project: MakeProject, studio: Studio):
    made = project(tasks=2)
    first, second = [t.id for t in studio.tasks(made.id)]
    good = {"task": first, "result": [brush_region(HALF)], "score": 0.25, "model_version": "v1"}
    assert studio.import_predictions(made.id, [good, {**good, "task": second, "score": 7}]) == 1
    (stored,) = studio.predictions(first)
    assert (stored["score"], stored["model_version"]) == (0.25, "v1")
    assert stored["result"][0]["value"]["rle"] == HALF
    assert studio.predictions(second) == []


def test_predictions_sent_in_several_requests_are_one_version(
    project: MakeProject, studio: Studio, monkeypatch: pytest.MonkeyPatch
):
    made = project(tasks=3)
    rows = [
        {"task": task.id, "result": [brush_region(HALF)], "score": 0.5, "model_version": "v1"}
        for task in studio.tasks(made.id)
    ]
    monkeypatch.setattr("backend.label_studio.bulk.BYTES_PER_POST", 1)
    assert studio.import_predictions(made.id, rows) == 3
    assert studio.model_versions(made.id) == {"v1": 3}


def test_model_versions_are_counted_and_deleted_by_name(project: MakeProject, studio: Studio):
    made = project(tasks=2)
    rows = [
        {"task": task.id, "result": [], "score": 0.5, "model_version": version}
        for task in studio.tasks(made.id)
        for version in ("v1", "v2")
    ]
    studio.import_predictions(made.id, rows[:3])
    assert studio.model_versions(made.id) == {"v1": 2, "v2": 1}
    studio.delete_model_version(made.id, "v1")
    assert studio.model_versions(made.id) == {"v2": 1}


def test_next_task_is_none_when_all_is_done(project: MakeProject, studio: Studio):
    made = project(tasks=1)
    row = studio.next_task(made.id)
    assert row is not None
    studio.annotate(row["id"], [])
    assert studio.next_task(made.id) is None


def test_next_task_of_an_unknown_project_is_refused(studio: Studio):
    with pytest.raises(StudioRefused) as refused:
        studio.next_task(999_999)
    assert refused.value.studio_status == 404


def test_webhooks_are_made_changed_and_deleted(project: MakeProject, studio: Studio):
    made = project()
    hook = control_of(studio).webhooks.create(project=made.id, url="http://127.0.0.1:9/webhook")
    changed = control_of(studio).webhooks.update(
        hook.id, url=hook.url, headers={"Authorization": "x"}
    )
    assert changed.headers == {"Authorization": "x"}
    assert [w.id for w in webhooks_of(studio, made.id)] == [hook.id]
    control_of(studio).webhooks.delete(hook.id)
    assert webhooks_of(studio, made.id) == []


def test_views_are_made_changed_and_deleted(project: MakeProject, studio: Studio):
    made = project()
    data = {"title": "mine", "ordering": ["tasks:predictions_score"]}
    view = studio.create_view(made.id, data)
    assert view["data"]["ordering"] == ["tasks:predictions_score"]
    studio.update_view(view["id"], made.id, {**data, "title": "yours"})
    (listed,) = studio.views(made.id)
    assert listed["data"]["title"] == "yours"
    control_of(studio).views.delete(str(view["id"]))
    assert studio.views(made.id) == []


def test_a_personal_access_token_works_and_survives_a_stale_access(
    label_studio: LabelStudio, access_token: str
):
    with Studio(label_studio.url, access_token) as studio:
        assert studio.whoami()["email"] == label_studio.second.email
        # As if the server had thrown it away before its time.
        studio._token._access = studio._token._access[:-3] + "AAA"  # type: ignore[index]
        assert studio.whoami()["email"] == label_studio.second.email
        made = control_of(studio).projects.create(title="by personal token", label_config=BRUSH)
        control_of(studio).projects.delete(made.id)


def test_an_access_is_renewed_before_it_is_stale(label_studio: LabelStudio, access_token: str):
    with Studio(label_studio.url, access_token) as studio:
        studio.whoami()
        first = studio._token._access
        studio.whoami()
        assert studio._token._access == first
        assert 200 < studio._token._stale_at - time.monotonic() <= 240
        studio._token._stale_at = 0
        studio.whoami()
        assert studio._token._stale_at > time.monotonic()


def test_a_revoked_personal_access_token_says_what_to_do(
    label_studio: LabelStudio, access_token: str
):
    damaged = access_token[:-4] + "AAAA"
    with Studio(label_studio.url, damaged) as studio, pytest.raises(StudioRefused) as refused:
        studio.whoami()
    assert "personal access token" in str(refused.value)
    assert "LABEL_STUDIO_API_KEY" in str(refused.value)
    assert damaged not in str(refused.value)
    assert refused.value.studio_status == 401


def test_a_wrong_legacy_token_says_what_to_do(label_studio: LabelStudio):
    with Studio(label_studio.url, "f" * 40) as studio, pytest.raises(StudioRefused) as refused:
        list(control_of(studio).all_projects())
    assert "LABEL_STUDIO_API_KEY" in str(refused.value)
    assert "f" * 40 not in str(refused.value)
    assert refused.value.studio_status == 401


def test_a_legacy_token_that_was_turned_off_says_so(label_studio: LabelStudio, studio: Studio):
    session = log_in(label_studio.url, label_studio.owner)

    def legacy(on: bool) -> None:
        session.post(
            f"{label_studio.url}/api/jwt/settings",
            json={"api_tokens_enabled": True, "legacy_api_tokens_enabled": on},
            timeout=30,
        ).raise_for_status()

    legacy(False)
    try:
        with pytest.raises(StudioRefused, match="no legacy tokens any more"):
            studio.whoami()
    finally:
        legacy(True)
    assert studio.whoami()


def test_a_refusal_names_the_field(studio: Studio):
    with pytest.raises(StudioRefused, match="label_config") as refused:
        control_of(studio).projects.create(title="broken", label_config="<View><Nonsense")
    assert refused.value.studio_status == 400


def test_a_server_that_is_not_there_is_unreachable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backend.label_studio.client.RETRY_AFTER_S", (0.0, 0.0))
    with (
        Studio(f"http://127.0.0.1:{free_port()}", "f" * 40) as studio,
        pytest.raises(StudioUnreachable, match="LABEL_STUDIO_URL"),
    ):
        control_of(studio).versions.get()


def test_a_thread_has_a_session_of_its_own(studio: Studio):
    with ThreadPoolExecutor(4) as pool:
        sessions = set(pool.map(lambda _: id(studio._session()), range(50)))
    assert id(studio._session()) not in sessions


def test_open_stream_refuses_what_is_no_path(studio: Studio):
    for path in ("http://127.0.0.1/x", "//127.0.0.1/x", "data/x"):
        with pytest.raises(ValueError, match="path of Label Studio"):
            studio.open_stream(path)


def test_open_stream_of_nothing_is_refused(studio: Studio):
    with pytest.raises(StudioRefused) as refused:
        studio.open_stream("/data/local-files/?d=none.png")
    assert refused.value.studio_status == 404


def test_the_token_is_never_logged(
    studio: Studio, label_studio: LabelStudio, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.DEBUG):
        studio.whoami()
    assert label_studio.api_key not in caplog.text


def test_the_second_user_is_in_the_same_organisation(
    second_studio: Studio, project: MakeProject, label_studio: LabelStudio
):
    made = project(tasks=1)
    assert second_studio.project(made.id).id == made.id
    page = requests.get(f"{label_studio.url}/health", timeout=10)
    assert page.json() == {"status": "UP"}


# ---- what a Label Studio of ours lets its users do ------------------------------------------

RESERVED = (
    *("http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://172.17.0.1/"),
    *("http://192.168.1.1/", "http://100.64.0.1/", "http://0.0.0.0/", "http://127.0.0.2/"),
    *("http://127.2/", "http://2130706434/", "http://0x7f000002/", "http://0177.0.0.2/"),
    *("http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/", "http://[fd00::1]/"),
    *("http://[fe80::1]/", "http://127.0.0.1@10.0.0.1/", "file:///etc/passwd", "ftp://127.0.0.1/"),
)


def import_by_url(studio: Studio, label_studio: LabelStudio, project_id: int, url: str) -> int:
    """The status that Label Studio answers when it is told to import what is there."""
    return requests.post(
        f"{label_studio.url}/api/projects/{project_id}/import",
        data={"url": url},
        headers={"Authorization": f"Token {label_studio.api_key}"},
        timeout=30,
    ).status_code


@pytest.fixture
def host() -> Iterator[Host]:
    served = Host()
    yield served
    served.close()


def test_of_all_reserved_networks_it_reaches_the_address_of_our_web_alone(
    project: MakeProject, studio: Studio, label_studio: LabelStudio, host: Host
):
    made = project()
    control = control_of(studio)
    for url in RESERVED:
        with pytest.raises(StudioRefused):
            control.webhooks.create(project=made.id, url=url)
        with pytest.raises(StudioRefused):
            control.ml.create(project=made.id, url=url)
        assert import_by_url(studio, label_studio, made.id, url) in (400, 403), url
    assert webhooks_of(studio, made.id) == []
    # A redirect does not lead there either.
    host.pages["/away.json"] = redirect(f"http://127.0.0.2:{host.port}/tasks.json")
    host.pages["/tasks.json"] = body(b'[{"image": "/data/none/1.png"}]')
    assert import_by_url(studio, label_studio, made.id, f"{host.url}/away.json") in (400, 403)
    assert [path for path, _ in host.seen] == ["/away.json"]
    assert import_by_url(studio, label_studio, made.id, f"{host.url}/tasks.json") == 201
    assert studio.project(made.id).task_number == 1


def test_nobody_signs_up_without_an_invitation(label_studio: LabelStudio):
    session = requests.Session()
    page = f"{label_studio.url}/user/signup/"
    session.get(page, timeout=30)
    form = {"email": "eve@example.com", "password": "eve-throwaway-9"}
    for query in ("", "?token=", "?token=guess"):
        answer = session.post(
            page + query,
            data={**form, "csrfmiddlewaretoken": session.cookies["csrftoken"]},
            headers={"Referer": page},
            timeout=30,
            allow_redirects=False,
        )
        assert answer.status_code == 403
    assert list(signup_findings(label_studio.url)) == []
