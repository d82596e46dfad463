"""Whatever lies under an image's address gives an image or a sentence, by every door."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backend.errors import ImageRefused
from backend.label_studio.bulk import Studio
from backend.label_studio.images import ImageFetcher
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.regions import read_annotation
from backend.options import ProjectOptions
from backend.predict import pre_annotate, read_image
from backend.rounds.stages import collect
from backend.workplace import Workplace
from tests.backend.host import Host, body
from tests.backend.odd_images import (
    BAD,
    BOMBS,
    GOOD,
    deep_colour_tiff,
    exif,
    file_of,
    frames,
    orientation,
    xmp,
)
from tests.backend.small_studio import CREATED, CREATED_S, SmallStudio
from tests.backend.workplaces import make_settings
from tests.decoding import decode_apart
from tests.training.discs import CLASSES, disc_example
from training.augment import CropSource
from training.committee.committee import Committee
from training.committee.ensemble import Ensemble
from training.config import TrainConfig
from training.examples import make_example
from training.images import decode_image, encode_png
from training.networks.build import build_network
from training.networks.pretrained_features import pretrained_features
from training.pixels import UnreadableImage

TOKEN = "f" * 40
OWN = "tests.training.laboratory:small"

# 6 x 4 pixels, no two corners alike.
CORNERS = np.zeros((4, 6, 3), np.uint8)
CORNERS[0, 0], CORNERS[0, 5], CORNERS[3, 0] = 255, 170, 85
UPRIGHT = {
    1: CORNERS,
    2: CORNERS[:, ::-1],
    3: CORNERS[::-1, ::-1],
    4: CORNERS[::-1],
    5: CORNERS.transpose(1, 0, 2),
    6: np.rot90(CORNERS, -1),
    7: np.rot90(CORNERS, 2).transpose(1, 0, 2),
    8: np.rot90(CORNERS),
}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@pytest.fixture(scope="module")
def images(host: Host) -> Iterator[ImageFetcher]:
    with Studio(host.url, TOKEN, timeout_s=30) as studio:
        yield ImageFetcher(studio)


def served(host: Host, images: ImageFetcher, data: bytes) -> Any:
    """What a task whose image is these bytes is given."""
    host.pages["/data/upload/1/cell.png"] = body(data)
    return read_image(images, "/data/upload/1/cell.png")


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_image_of_ours_is_refused_with_a_sentence_and_silence(
    host: Host, images: ImageFetcher, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    data, says = BAD[kind]
    with pytest.raises(ImageRefused, match=says) as refused:
        served(host, images, data)
    sentence = str(refused.value)
    assert sentence.startswith("/data/upload/1/cell.png: ")
    assert len(sentence) < 300
    assert sentence.isprintable()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", GOOD)
def test_an_odd_image_is_read_as_it_looks(
    host: Host, images: ImageFetcher, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    data, expected, apart = GOOD[kind]
    image = served(host, images, data)
    assert (image.shape, image.dtype) == (expected.shape, np.uint8)
    assert np.abs(image.astype(float) - expected).mean() <= apart
    assert capfd.readouterr() == ("", "")


def decoded(data: bytes) -> Any:
    return decode_image(data)


@pytest.mark.parametrize("turned", UPRIGHT)
def test_each_orientation_turns_once_whoever_decodes(turned: int) -> None:
    data = exif(orientation(turned))
    tag = {"tiffinfo": {274: turned}}
    for file in (
        file_of(CORNERS, "PNG", exif=data),
        file_of(CORNERS, "TIFF", **tag),
        file_of(CORNERS, "TIFF", compression="tiff_lzw", **tag),
        file_of(CORNERS[..., 0].astype(np.uint16) * 257, "PNG", exif=data),
        file_of(CORNERS[..., 0].astype(np.uint16) * 257, "TIFF", **tag),
        deep_colour_tiff(CORNERS, turned),
    ):
        # What is deep is stretched.
        np.testing.assert_allclose(decoded(file).astype(int), UPRIGHT[turned], atol=2)


def test_what_browsers_do_not_heed_turns_nothing() -> None:
    """As Chromium and Firefox show them: the annotator draws on what is shown."""
    unheeded = [
        file_of(CORNERS, "WEBP", lossless=True, exif=exif(orientation(6))),
        file_of(CORNERS, "WEBP", lossless=True, xmp=xmp(6)),
        file_of(CORNERS, "JPEG", xmp=xmp(6)),
        *(
            file_of(CORNERS, "JPEG", exif=exif(entry))
            for entry in (
                orientation(9),
                orientation(0),
                orientation(6, kind=4),
                orientation(6, kind=1),
                orientation(6, count=2),
            )
        ),
    ]
    for file in unheeded:
        assert decoded(file).shape == (4, 6, 3)


def test_exif_data_is_read_in_either_order_of_bytes_and_when_it_is_cut() -> None:
    big = exif(orientation(8, order=">"), order=">")
    cut = exif(orientation(6))[:-4].replace(b"\x08\0\0\0\x01\0", b"\x08\0\0\0\xff\xff")
    np.testing.assert_array_equal(decoded(file_of(CORNERS, "PNG", exif=big)), UPRIGHT[8])
    np.testing.assert_array_equal(decoded(file_of(CORNERS, "PNG", exif=cut)), UPRIGHT[6])


def test_a_bomb_is_refused_before_room_is_made_for_it(tmp_path: Path) -> None:
    told = decode_apart(tmp_path, BOMBS.values())
    assert len(told) == len(BOMBS)
    assert all(found.refused for found in told)
    assert max(found.rise_mib for found in told) < 32, told


# The smallest and the longest, all the way


@pytest.fixture(scope="module")
def committee() -> Committee:
    config = TrainConfig(CLASSES, members=2, network=OWN, crop_px=64)
    weights = []
    for member in range(2):
        torch.manual_seed(member)
        weights.append(build_network(config).state_dict())
    return Committee(Ensemble(weights, config, device=torch.device("cpu")), engine="torch")


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (10, 60_000), (60_000, 10)])
def test_the_smallest_and_the_longest_images_are_learnt_from_and_looked_at(
    committee: Committee, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    example = make_example("7", image, rng.integers(0, 3, size).astype(np.uint8), 1024)
    source = CropSource([example], committee.config)
    for _ in range(3):
        crop, mask = source.draw(rng)
        assert crop.shape == (3, 64, 64)
        assert np.isfinite(crop).all()
        assert set(np.unique(mask)) <= {0, 1, 2, 255}

    (features,) = pretrained_features([image], 512, threads=1)
    prediction = committee.predict(image)
    assert np.isfinite(features).all()
    assert np.isfinite(prediction.features).all()
    assert all(np.isfinite(score) for score in prediction.arms.values())
    assert prediction.mask().shape == prediction.confidence().shape == size
    for kind in ("BrushLabels", "BitmaskLabels", "PolygonLabels"):
        inner = "".join(f'<Label value="{name}"/>' for name in CLASSES[1:])
        config = parse_label_config(
            f'<View><Image name="image" value="$image"/><{kind} name="tag" toName="image">'
            f"{inner}</{kind}></View>"
        )
        drawn = pre_annotate(committee, prediction, config, ProjectOptions(min_particle_px=1))
        assert all(0 <= region["score"] <= 1 for region in drawn)
        back = read_annotation(drawn, config, CLASSES, size, unlabelled=0, unknown_label=None)
        assert back.problems == []
        if kind != "PolygonLabels":
            np.testing.assert_array_equal(back.mask, prediction.mask())


# A round


class OddStudio(SmallStudio):
    """Each task is labelled, and has an image of its own."""

    def __init__(self, files: list[bytes]) -> None:
        super().__init__(len(files), len(files))
        self.files = files

    def answer(self, method: str, path: str, body: bytes) -> bytes:
        if path.startswith("/data/upload/"):
            return self.files[int(path.split("/")[3]) - 1]
        return super().answer(method, path, body)

    def _task(self, task_id: int) -> dict[str, object]:
        box = {"x": 10, "y": 10, "width": 50, "height": 50, "rectanglelabels": ["dark"]}
        region = {"id": "a", "type": "rectanglelabels", "to_name": "image", "value": box}
        annotation = {
            "id": task_id,
            "created_at": CREATED,
            "updated_at": CREATED,
            "was_cancelled": False,
            "result": [region],
        }
        return {**super()._task(task_id), "annotations": [annotation]}


def test_a_round_leaves_out_what_cannot_be_read_says_why_and_learns_from_the_rest(
    tmp_path: Path,
) -> None:
    discs = [encode_png(disc_example(str(seed), seed).image) for seed in range(3)]
    studio = OddStudio([*discs, *(data for data, _ in BAD.values())])
    try:
        given = {"label_studio_url": studio.url, "network": OWN, "members": 1}
        work = Workplace(make_settings(tmp_path / "data", **given))
        parameters = {"audit_fraction": 0, "steps": 1}
        row = work.ledger.projects.ensure(work.server, 1, CREATED_S, extra_params=parameters)
        work.ledger.projects.update(row.id, connected=True, extra_params=parameters)
        round_ = work.ledger.rounds.start(row.id, "train", "a test's", "collect")
        assert round_ is not None
        outcome = collect.collect(work, round_, {}, lambda share: None)
        work.close()
    finally:
        studio.close()
    manifest = outcome.manifest
    assert manifest is not None
    assert [entry["task"] for entry in manifest if entry["digest"]] == [1, 2, 3]
    budget = outcome.result["budget"]
    assert (budget["steps"], budget["chosen"], budget["images"]) == (1, True, 3)
    assert json.loads(outcome.config or "")["steps"] == 1
    assert len(outcome.problems) == len(BAD)
    for number, (problem, kind) in enumerate(zip(outcome.problems, BAD, strict=True), start=4):
        assert problem.startswith(f"Task {number}: /data/upload/{number}/field.png: "), kind
        assert problem.isprintable()


def collected(data_dir: Path, files: list[bytes], **options: Any) -> Any:
    studio = OddStudio(files)
    try:
        given = {"label_studio_url": studio.url, "network": OWN, "members": 1}
        work = Workplace(make_settings(data_dir, **given))
        parameters = {"audit_fraction": 0, "steps": 1, **options}
        row = work.ledger.projects.ensure(work.server, 1, CREATED_S, extra_params=parameters)
        work.ledger.projects.update(row.id, connected=True, extra_params=parameters)
        round_ = work.ledger.rounds.start(row.id, "train", "a test's", "collect")
        assert round_ is not None
        outcome = collect.collect(work, round_, {}, lambda share: None)
        digests = [entry["digest"] for entry in outcome.manifest or ()]
        images = [work.registry.get_example(row.slug, digest).image for digest in digests]
        work.close()
    finally:
        studio.close()
    return outcome, digests, images


def test_a_part_of_a_file_is_said_once_and_the_option_chooses_another(tmp_path: Path) -> None:
    pages = [frames("TIFF") for _ in range(3)]
    outcome, first, images = collected(tmp_path / "default", pages)
    assert outcome.problems == [
        "3 images are a part of their file, that of task 1 is page 1 of 2; the option channels "
        "chooses others (docs/IMAGES.md)."
    ]
    outcome, green, chosen = collected(tmp_path / "green", pages, channels="2")
    assert outcome.problems == []
    assert not set(first) & set(green)  # examples of other channels are other examples
    for channel in range(3):
        np.testing.assert_array_equal(chosen[0][..., channel], images[0][..., 1])


# Where else a file comes from


def test_an_image_that_only_pillow_takes_for_damaged_says_so_in_one_line() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 40), np.uint8)
    data = bytearray(file_of(Image.fromarray(noise), "TIFF", compression="tiff_lzw"))
    data[20:400] = bytes(380)
    with pytest.raises(UnreadableImage, match=r"^the image is damaged: [^\n]+$"):
        decoded(bytes(data))
