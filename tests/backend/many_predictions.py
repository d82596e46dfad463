"""``python -m tests.backend.many_predictions FOLDER COUNT``: one process answers /predict for one
large image COUNT times; prints the megabytes held after each fourth, as a line of JSON."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from backend.ledger import upgrade
from backend.settings import load_settings
from backend.web.app import build_app
from backend.workplace import Workplace
from tests.backend.small_studio import CREATED_S, LABEL_CONFIG, small_studio
from tests.training.discs import CLASSES, disc_examples
from training.committee.registry import Registry
from training.config import TrainConfig
from training.fitting.fit import fit_member

SIDE_PX = 2048
MEMBERS = 2
EVERY = 4
CONFIG = TrainConfig(
    CLASSES, members=MEMBERS, network="unet", max_side_px=512, crop_px=64, batch=4, steps=30
)


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    with small_studio(tasks=1, image=large_image()) as studio:
        settings = load_settings(
            _env_file=None,
            data_dir=folder,
            label_studio_url=studio.url,
            label_studio_api_key="a" * 40,
            redis_url="redis://127.0.0.1:1/0",  # nobody asks it
            basic_auth_user="committee",
            basic_auth_pass="throwaway-3",
        )
        upgrade(settings.ledger_url)
        publish_version(settings.registry_path, Workplace(settings))
        client = build_app(settings).test_client()
        password = base64.b64encode(b"committee:throwaway-3").decode()
        body = {
            "tasks": [{"id": 1, "data": {"image": "/data/upload/1/field.png"}}],
            "project": f"1.{CREATED_S}",
            "label_config": LABEL_CONFIG,
        }
        held = []
        for number in range(1, count + 1):
            answer = client.post(
                "/predict", json=body, headers={"Authorization": f"Basic {password}"}
            )
            assert answer.json is not None
            [[prediction]] = answer.json["results"]
            assert prediction["result"], "nothing was seen in the image"
            if number % EVERY == 0:
                held.append(round(psutil.Process().memory_info().rss / 1e6, 1))
        print(json.dumps(held))


def large_image() -> bytes:
    """A PNG of discs, ``SIDE_PX`` on each side."""
    tiles = [example.image for example in disc_examples(4)]
    side = tiles[0].shape[0]
    rows = [np.concatenate(tiles[:2], axis=1), np.concatenate(tiles[2:], axis=1)]
    times = -(-SIDE_PX // (2 * side))
    image = np.tile(np.concatenate(rows), (times, times, 1))[:SIDE_PX, :SIDE_PX]
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def publish_version(registry: Path, work: Workplace) -> None:
    """A version of two trained members that serves project 1."""
    row = work.ledger.projects.ensure(work.server, 1, CREATED_S, label_config=LABEL_CONFIG)
    examples = disc_examples(6)
    weights = [fit_member(examples, CONFIG, member)[0] for member in range(MEMBERS)]
    Registry(registry).save_version(row.slug, 1, weights, CONFIG, {}, {"temperature": 1.0})
    round_ = work.ledger.rounds.start(row.id, "train", "tested", "collect", {})
    assert round_ is not None
    work.ledger.versions.record(
        row.id,
        1,
        round_.id,
        state="promoted",
        reason="tested",
        members=MEMBERS,
        classes=CONFIG.classes,
        metrics={},
    )
    publication = work.ledger.publications.prepare(
        row.id, 1, round_.id, arm="mutual_information/image_mean", quantiles=[0.0], places=[]
    )
    work.ledger.publications.serve(publication.id, 0)
    work.close()


if __name__ == "__main__":
    main()
