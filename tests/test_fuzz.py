"""Whatever strangers may send: a result or a sentence, never a traceback, nothing without end.

`make test` tries some inputs of each kind, always the same; `make soak` tries new ones for
FUZZ_MINUTES and prints how many. Attacks that no alteration hits upon are tests of their own,
beside what reads them.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st

from backend.errors import BadLabelConfig, BadOptions, BadRegion
from backend.label_studio import bitmask, brush
from backend.label_studio.label_config import parse_label_config, unread_controls
from backend.label_studio.webhook_events import OF_ANNOTATIONS, OF_TASKS, PROJECT_UPDATED
from backend.ledger import Ledger
from backend.options import ProjectOptions, parse_options
from backend.web.app import build_app
from tests.backend.label_studio.test_bad_annotations import VALID, WILD, check_read, mutated
from tests.backend.odd_images import BAD, GOOD, chunk, file_of, png
from tests.backend.workplaces import PASSWORD, USER, brush_config, make_settings
from tests.limits import scaled
from training.decoder import Decoder
from training.pixels import UnreadableImage

FUZZ_S = 60 * float(os.environ.get("FUZZ_MINUTES", "10"))

EXAMPLES = 30
"""Of each kind in `make test`; in `make soak`, of one kind before the next."""

LONGEST_S = 20.0
"""For one input, the decoder's own limit among them."""

MOST_GROWTH_MIB = 1024

DECODER_S = 5
"""A small image that takes longer is refused, and counted."""

pytestmark = pytest.mark.timeout(FUZZ_S + 600)


# ---- what is sent ---------------------------------------------------------------------------


def _noise(kind: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    return file_of(pixels, kind, **options)


IMAGES = [
    *(data for data, *_ in (*GOOD.values(), *BAD.values()) if len(data) < 200_000),
    _noise("JPEG", progressive=True),
    _noise("JPEG", quality=30, subsampling=2),
    _noise("PNG"),
    _noise("WEBP"),
    _noise("WEBP", lossless=True),
    _noise("GIF"),
    _noise("BMP"),
    _noise("JPEG2000"),
    _noise("TIFF", compression="tiff_lzw"),
    _noise("TIFF", compression="tiff_jpeg"),
    _noise("TIFF", compression="tiff_adobe_deflate"),
]


@st.composite
def altered(draw: st.DrawFn, bases: list[bytes], most: int = 6) -> bytes:
    """One of the files, with parts of it overwritten, taken out, repeated or put elsewhere."""
    data = bytearray(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, most))):
        if not data:
            break
        # The beginning holds what the rest is read by.
        at = draw(st.integers(0, len(data) - 1) | st.integers(0, min(len(data) - 1, 200)))
        end = min(len(data), at + draw(st.integers(1, 64)))
        match draw(st.sampled_from(["set", "bits", "cut", "repeat", "move", "end"])):
            case "set":
                data[at:end] = draw(st.binary(max_size=8))
            case "bits":
                data[at] ^= draw(st.integers(1, 255))
            case "cut":
                del data[at:end]
            case "repeat":
                data[at:at] = data[at:end] * draw(st.integers(1, 200))
            case "move":
                part = data[at:end]
                del data[at:end]
                to = draw(st.integers(0, len(data)))
                data[to:to] = part
            case _:
                del data[end:]
    return bytes(data)


STROKES = [
    brush.encode(np.random.default_rng(seed).random((24, 32)) < share)
    for seed, share in enumerate((0.0, 0.01, 0.5, 1.0))
]


@st.composite
def strokes(draw: st.DrawFn) -> tuple[list[int], int, int]:
    rle = list(draw(altered([bytes(each) for each in STROKES]) | st.binary(max_size=99)))
    height = draw(st.just(24) | st.integers(-1, 2**16))
    width = draw(st.just(32) | st.integers(-1, 2**16))
    if draw(st.booleans()) and 0 < height * width < 2**28:
        rle[:4] = list((height * width * 4).to_bytes(4, "big"))
    return rle, height, width


BITMASKS = [
    base64.b64decode(bitmask.encode(np.eye(24, 32, dtype=bool)).removeprefix(bitmask.PREFIX)),
    file_of(np.zeros((24, 32, 4), np.uint8), "PNG"),
    png(32, 24, chunk(b"tRNS", b"\0\0"), chunk(b"IDAT", b"")),
]

TAGS = st.sampled_from(
    [
        *("View", "Image", "image", "BrushLabels", "BitmaskLabels", "PolygonLabels", "Labels"),
        *("RectangleLabels", "Label", "Brush", "Rectangle", "KeyPointLabels", "Choices", "Style"),
    ]
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(
        ["name", "toName", "value", "alias", "smart", "smartOnly", "valueList", "apiUrl"]
    ),
    st.sampled_from(["image", "tag", "$image", "$a[0].b", "Cell", "Background", "true", "", "a,b"])
    | st.text(st.characters(codec="utf-8"), max_size=9),
    max_size=4,
)


@st.composite
def xml(draw: st.DrawFn) -> str:
    """A label config that may be one, or a piece of another."""
    if draw(st.integers(0, 3)) == 0:
        return draw(altered([brush_config("Cell", "Crystal").encode()])).decode(errors="replace")
    node = st.tuples(TAGS, ATTRIBUTES)

    def write(tree: Any) -> str:
        from xml.sax.saxutils import quoteattr

        (tag, attributes), children = tree
        said = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items())
        return f"<{tag}{said}>{''.join(map(write, children))}</{tag}>"

    tree = draw(
        st.recursive(
            st.tuples(node, st.just([])),
            lambda inner: st.tuples(node, st.lists(inner, max_size=4)),
            max_leaves=20,
        )
    )
    text = write(tree)
    image = '<Image name="image" value="$image"/>' if draw(st.booleans()) else ""
    return f"<View>{image}{text}</View>"


NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, 10**19, -1, 0, 1, True])
OPTIONS = st.dictionaries(
    st.sampled_from(sorted(ProjectOptions.model_fields)) | st.text(max_size=5),
    NUMBERS | WILD,
    max_size=5,
)
SENT = {
    "action": "ANNOTATIONS_CREATED",
    "project": {"id": 1, "created_at": "2026-11-24T12:00:45Z"},
    "annotations": [{"id": 1, "task": 2}],
    "tasks": [{"id": 2, "data": {"image": "/data/upload/1/a.png"}}],
    "schema": brush_config("Cell"),
    "extra_params": {"members": 3},
}
ROWS = st.fixed_dictionaries({"id": NUMBERS | WILD}) | WILD
PROJECTS = (
    st.just("1.1795468845")
    | st.just({"id": 1, "created_at": "2026-11-24T12:00:45Z"})
    | st.fixed_dictionaries({"id": NUMBERS, "created_at": st.datetimes().map(str) | st.text()})
    | st.builds("{}.{}".format, NUMBERS, NUMBERS)
    | WILD
)
FIELDS = {
    "project": PROJECTS,
    "schema": xml() | WILD,
    "label_config": xml() | WILD,
    "extra_params": OPTIONS | OPTIONS.map(lambda each: json.dumps(each, default=str)) | WILD,
    "hostname": st.sampled_from(["http://studio.test", "http://[", "ftp://a"]) | WILD,
    "action": st.sampled_from([*OF_ANNOTATIONS, *OF_TASKS, PROJECT_UPDATED, "START_TRAINING"])
    | WILD,
    "annotation": ROWS,
    "annotations": st.lists(ROWS, max_size=3) | WILD,
    "tasks": st.lists(st.fixed_dictionaries({"id": NUMBERS, "data": WILD}), max_size=3) | WILD,
    "params": WILD,
}


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """Where it is sent to, and what."""
    path = draw(st.sampled_from(["/webhook", "/setup", "/predict"]))
    raw = st.binary(max_size=99) | altered([json.dumps(SENT).encode()])
    if draw(st.integers(0, 4)) == 0:
        return path, draw(raw)
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), unique=True, max_size=8))
    body = {name: draw(FIELDS[name]) for name in {"project", *names}}
    return path, json.dumps(body, default=str).encode()


# ---- what becomes of it ---------------------------------------------------------------------


def check_sentence(said: str) -> None:
    assert 0 < len(said) < 2000
    assert said.isprintable()
    assert "Traceback" not in said


@dataclass
class Kinds:
    """What reads each kind of input, and what was seen."""

    folder: Path
    seen: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._decoder = Decoder(cpu_s=DECODER_S)
        settings = make_settings(self.folder)
        ledger = Ledger(settings.ledger_url)
        ledger.projects.ensure("http://studio.test", 1, 1795468845, label_config=brush_config("a"))
        ledger.close()
        self._app = build_app(settings)
        self._app.testing = False  # an error is what a client is told
        self._client = self._app.test_client()
        self.kinds: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
            "images": (altered(IMAGES), self._image),
            "strokes": (strokes(), self._stroke),
            "bitmasks": (altered(BITMASKS), self._bitmask),
            "annotations": (st.lists(mutated() | st.sampled_from(VALID), max_size=6), check_read),
            "label configs": (xml(), self._label_config),
            "web bodies": (bodies(), self._body),
            "options": (OPTIONS | WILD | st.text(max_size=99), self._options),
        }

    def close(self) -> None:
        self._decoder.close()
        self._app.extensions["committee"].close()

    def run(self, kind: str, examples: int, **more: Any) -> None:
        """Try so many inputs of a kind; ``more`` are hypothesis's settings.

        Raises:
            AssertionError, Exception: the smallest input found that something is wrong with.
        """
        strategy, check = self.kinds[kind]

        @hypothesis.settings(
            max_examples=examples,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            **more,
        )
        @hypothesis.given(strategy)
        def each(sent: Any) -> None:
            began = time.monotonic()
            check(sent)
            took = time.monotonic() - began
            self.seen[kind] += 1
            self.slowest[kind] = max(took, self.slowest.get(kind, 0.0))
            assert took < scaled(LONGEST_S)

        each()

    def _image(self, data: bytes) -> None:
        try:
            image = self._decoder.read(data).image
        except UnreadableImage as error:
            check_sentence(str(error))
            for said in ("crashed (SIG", "crashed (status", "processor time", "more memory"):
                self.seen[f"images: {said}"] += said in str(error)
        else:
            assert image.dtype == np.uint8
            assert image.shape[2] == 3

    def _stroke(self, sent: tuple[list[int], int, int]) -> None:
        rle, height, width = sent
        try:
            assert brush.decode(rle, height, width).shape == (height, width)
        except BadRegion as error:
            check_sentence(str(error))

    def _bitmask(self, data: bytes) -> None:
        url = bitmask.PREFIX + base64.b64encode(data).decode()
        try:
            assert bitmask.decode(url, 24, 32).shape == (24, 32)
        except BadRegion as error:
            check_sentence(str(error))

    def _label_config(self, text: str) -> None:
        try:
            config = parse_label_config(text)
        except BadLabelConfig as error:
            check_sentence(str(error))
        else:
            assert config.labels
            for said in unread_controls(text, config):
                check_sentence(said)

    def _options(self, sent: Any) -> None:
        try:
            parse_options(sent)
        except BadOptions as error:
            check_sentence(str(error))

    def _body(self, sent: tuple[str, bytes]) -> None:
        path, body = sent
        answer = self._client.post(
            path, data=body, auth=(USER, PASSWORD), content_type="application/json"
        )
        assert answer.status_code < 500, answer.get_data(as_text=True)
        told = answer.get_json()
        assert isinstance(told, dict)
        if answer.status_code >= 400:
            check_sentence(told["error"])


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kinds]:
    made = Kinds(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.close()


KINDS = (
    *("images", "strokes", "bitmasks", "annotations", "label configs", "web bodies", "options"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_some_inputs_of_each_kind_give_a_result_or_a_sentence(kinds: Kinds, kind: str) -> None:
    kinds.run(kind, EXAMPLES, derandomize=True)


@pytest.mark.soak
def test_inputs_for_minutes_give_results_or_sentences(kinds: Kinds) -> None:
    assert set(kinds.kinds) == set(KINDS)
    ends_at = time.monotonic() + FUZZ_S
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while time.monotonic() < ends_at:
        for kind in KINDS:
            kinds.run(kind, EXAMPLES)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    print(f"\n{sum(kinds.seen[kind] for kind in KINDS)} inputs in {FUZZ_S / 60:g} minutes:")
    for name, count in sorted(kinds.seen.items()):
        slowest = f", slowest {kinds.slowest[name]:.2f} s" if name in kinds.slowest else ""
        print(f"  {name}: {count}{slowest}")
    print(f"  memory: {grown_mib} MiB more")
    assert grown_mib < MOST_GROWTH_MIB
    assert kinds.seen["images: crashed (status"] == 0  # ours, and no library's
