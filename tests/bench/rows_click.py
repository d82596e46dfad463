"""What a person waits for a smart click, by the two processes that serve; Label Studio is away."""

from __future__ import annotations

import base64
import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
import requests
from PIL import Image

from backend.label_studio.reserved_controls import CLICK
from backend.label_studio.uncertainty_layer import layer_region
from backend.workplace import Workplace
from tests.backend.rows import place
from tests.backend.workplaces import PASSWORD, USER, brush_config, make_settings
from tests.bench.harness import Measured, row, spread
from tests.bench.rows_load import p95
from tests.limits import wait_until
from tests.live.harness.servers import ROOT, Process, free_port
from training.config import TrainConfig
from training.datasets.urine_sediment import CLASSES, Field, draw_field
from training.examples import make_example
from training.fitting.fit import fit_member

CLICK_LIMIT_MS = 300.0
CREATED = 1_700_000_000
ARM = "predictive_entropy/image_mean"
LARGEST_LAYER = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)


@dataclass(frozen=True)
class Sizes:
    """A committee, and the images that are clicked on, up to three clicks on each particle."""

    side_px: int = 1024
    members: int = 5
    steps: int = 20
    learnt: int = 8
    images: int = 4
    particles: int = 20


SMALL = Sizes(side_px=64, members=2, steps=1, learnt=6, images=1, particles=1)


@dataclass(frozen=True)
class Served:
    """A web whose version serves, and images of its project's tasks."""

    url: str
    label_config: str
    fields: list[Field]
    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(20))

    def ask(self, number: int, regions: list[Any], context: object = None) -> tuple[Any, float]:
        """The answer, and the seconds that it took, over a connection of its own."""
        file = io.BytesIO()
        Image.fromarray(self.fields[number].image).save(file, "JPEG", quality=90)
        image = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
        predictions = [{"model_version": "committee-v1.1", "result": regions}]
        task = {"id": number, "data": {"image": image}, "predictions": predictions}
        asked = {
            "tasks": [task],
            "project": f"1.{CREATED}",
            "label_config": self.label_config,
            "params": {"login": None, "password": None, "context": context},
        }
        body, headers = orjson.dumps(asked), {"Content-Type": "application/json"}
        began = time.perf_counter()
        answer = requests.post(
            f"{self.url}/predict", body, auth=(USER, PASSWORD), headers=headers, timeout=100
        )
        took_s = time.perf_counter() - began
        answer.raise_for_status()
        return answer.json()["results"][0], took_s

    def clicks(self, number: int) -> list[dict[str, Any]]:
        """Three on one place's particle, as the page sends them: the last one takes away."""
        rows, columns = np.nonzero(self.fields[number].mask)
        at = self.chance.integers(len(rows))
        height, width = self.fields[number].mask.shape
        near = self.chance.integers(-12, 13, (3, 2)) * [[0], [1], [1]]
        return [
            {
                "id": f"click-{n}",
                "type": "keypointlabels",
                "from_name": CLICK,
                "to_name": "image",
                "is_positive": n < 2,
                "value": {
                    "x": 100 * int(np.clip(columns[at] + right, 0, width - 1)) / width,
                    "y": 100 * int(np.clip(rows[at] + down, 0, height - 1)) / height,
                    "width": 0.5,
                    "keypointlabels": [CLASSES[1]],
                },
            }
            for n, (down, right) in enumerate(near)
        ]


@contextmanager
def served(sizes: Sizes) -> Iterator[Served]:
    size = (sizes.side_px, sizes.side_px)
    drawn = [draw_field(seed, size=size) for seed in range(sizes.learnt + sizes.images)]
    examples = [
        make_example(f"field-{n}", one.image, one.mask, sizes.side_px)
        for n, one in enumerate(drawn[: sizes.learnt])
    ]
    config = TrainConfig(CLASSES, members=sizes.members, steps=sizes.steps, threads=2)
    weights = [fit_member(examples, config, member)[0] for member in range(sizes.members)]
    xml = brush_config(*CLASSES[1:])
    with TemporaryDirectory(prefix="bench-") as folder:
        url = f"http://127.0.0.1:{free_port()}"
        settings = make_settings(Path(folder) / "data", backend_url=url)
        work = Workplace(settings)
        project = work.ledger.projects.ensure(work.server, 1, CREATED, label_config=xml)
        round_ = work.ledger.rounds.start(project.id, "train", "", "collect", {})
        assert round_ is not None
        work.registry.save_version(project.slug, 1, weights, config, {}, {"temperature": 1.0})
        publication = work.ledger.publications.prepare(
            project.id, 1, round_.id, arm=ARM, quantiles=[0.5], places=[place(0)]
        )
        work.ledger.publications.serve(publication.id, 1)
        work.close()
        environment = {
            "DATA_DIR": str(settings.data_dir),
            "PORT": url.rpartition(":")[2],
            "BACKEND_URL": url,
            "LABEL_STUDIO_URL": str(settings.label_studio_url),
            "LABEL_STUDIO_API_KEY": settings.label_studio()[1],
            "REDIS_URL": settings.redis_url,
            "BASIC_AUTH_USER": USER,
            "BASIC_AUTH_PASS": PASSWORD,
        }
        command = [sys.executable, "-m", "backend", "serve"]
        web = Process(command, Path(folder) / "web.log", environment, cwd=ROOT)
        try:
            wait_until(lambda: _healthy(url), 180, "the web to be healthy")
            yield Served(url, xml, drawn[sizes.learnt :])
        finally:
            web.stop()


def _healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=10).ok
    except (requests.ConnectionError, requests.Timeout):
        return False


@row(
    "dashboard",
    "click_1024",
    against=f"limit; p95 of the clicks after the first on an image, {Sizes.side_px} px, with a "
    "layer; Label Studio's own time not counted",
    unit="ms",
    goal=1.0,
    sizes=Sizes(),
    small=SMALL,
    setting=served,
)
def click_1024(sizes: Sizes, given: Served) -> Measured:
    first_s: list[float] = []
    waits_ms: list[float] = []
    for _ in range(8):  # both processes load the version
        given.ask(0, [])
    for number in range(sizes.images):
        regions = given.ask(number, [])[0][0]["result"]
        regions.append(layer_region(LARGEST_LAYER, given.fields[number].mask.shape, "image", ""))
        _, took_s = given.ask(number, regions, {"result": given.clicks(number)[:1]})
        first_s.append(took_s)
        for _ in range(sizes.particles):
            clicks = given.clicks(number)
            for count in (1, 2, 3):
                _, took_s = given.ask(number, regions, {"result": clicks[:count]})
                waits_ms.append(1e3 * took_s)
    note = f"the first click on an image took up to {max(first_s):.1f} s (limit 2)"
    return Measured(p95(waits_ms), CLICK_LIMIT_MS, spread(waits_ms), note)
