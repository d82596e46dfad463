"""One pass of a version over a shard of a manifest: scores and features, no masks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from training.batch.folder import OtherImages, bytes_of, version_of
from training.batch.manifest import Manifest, Picture, Shard
from training.batch.results import claimed
from training.batch.scores import PictureScores, halved, pack, refused_line
from training.committee.committee import Committee
from training.committee.version import read_version
from training.decoder import read_apart
from training.files import write_atomically
from training.pixels import Image8, UnreadableImage

BLOCK = 256
"""Pictures of one file, which is there whole or not at all: what an interruption costs at most."""

SHOWN_REFUSALS = 10


@dataclass(frozen=True)
class Inference:
    """What is to be scored, and by what.

    Attributes:
        version: its folder.
        output: of all shards; each has a folder of its own in it.
        mounts: how an address begins, to the folder where that is mounted.
        channels, own_network, threads: as of ``training.batch.folder.Batch``.
    """

    manifest: Path
    version: Path
    output: Path
    shard: Shard
    mounts: Mapping[str, Path] = field(default_factory=dict)
    channels: tuple[int, ...] | None = None
    own_network: str | None = None
    threads: int = 1

    def file_of(self, picture: Picture) -> Path:
        """Where a picture's file lies.

        Raises:
            UnreadableImage: its address is none of a file here.
        """
        if picture.path is not None:
            return self.manifest.parent / picture.path
        for begins, folder in self.mounts.items():
            if picture.image.startswith(begins):
                return folder / picture.image.removeprefix(begins).lstrip("/")
        if "://" in picture.image:
            raise UnreadableImage(
                "its address is no file here: mount what holds it and name that by --mount, or "
                "write the file's path under 'path' into the manifest"
            )
        return self.manifest.parent / picture.image


@dataclass
class Inferred:
    """What a run did.

    Attributes:
        folder: of the shard's scores.
        pictures: of the shard that are done, of earlier runs too; ``predicted`` in this one.
        refused: how many of this run's could not be read; ``refusals`` are the first, each with
            why. All stand in the files.
        seconds: that this run predicted, reading and writing included.
        interrupted: a person stopped it before the end.
    """

    folder: str
    pictures: int = 0
    predicted: int = 0
    refused: int = 0
    refusals: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False


def infer(job: Inference, show: Callable[[int, int], None]) -> Inferred:
    """Score what has no scores yet. Ctrl-C, or a kill, loses the block under way.

    Args:
        show: is told how many bytes of the shard are done, and of how many.

    Raises:
        BadManifest: the manifest cannot be read.
        OtherResults: the folder holds scores of another manifest or version, or is in use.
        OtherImages, OSError, UnknownVersion, DamagedVersion, BadConfig, ForeignNetwork, NoEngine:
            as ``training.batch.folder.predict_folder``.
    """
    manifest = Manifest(job.manifest, job.shard)
    stored = read_version(job.version)
    if stored.config.channels != 3:
        raise OtherImages.of(stored.config)
    folder = job.output / job.shard.name
    done = Inferred(str(folder))
    asked = {
        "manifest": f"SHA-256 {manifest.digest()}",
        "version": version_of(job.version, stored),
        "channels": None if job.channels is None else list(job.channels),
    }
    with claimed(folder, asked):
        committee: Committee | None = None
        started = time.monotonic()
        try:
            for block in _blocks(manifest):
                path = folder / f"block-{block[0].at:015}.jsonl.gz"
                if not path.exists():
                    if committee is None:  # takes seconds, in which it is compiled
                        committee = Committee.load(
                            job.version, threads=job.threads, own_network=job.own_network, seal=None
                        )
                        started = time.monotonic()
                    write_atomically(path, pack(_score(job, committee, block, done)))
                    done.predicted += len(block)
                    done.seconds = time.monotonic() - started
                done.pictures += len(block)
                show(block[-1].end - manifest.start, manifest.stop - manifest.start)
        except KeyboardInterrupt:
            done.interrupted = True
    return done


def _blocks(pictures: Iterable[Picture]) -> Iterator[list[Picture]]:
    left = iter(pictures)
    while block := list(islice(left, BLOCK)):
        yield block


def _score(
    job: Inference, committee: Committee, block: list[Picture], done: Inferred
) -> list[bytes]:
    lines: list[bytes] = [b""] * len(block)
    read: list[int] = []

    def refuse(number: int, why: str) -> None:
        image = block[number].image
        lines[number] = refused_line(image, block[number].data, why)
        done.refused += 1
        if len(done.refusals) < SHOWN_REFUSALS:
            done.refusals[image] = why

    def images() -> Iterator[Image8]:
        """Read one by one as they are predicted; ``read`` tells whose they are."""
        for number, picture in enumerate(block):
            try:
                image = read_apart(bytes_of(job.file_of(picture)), job.channels).image
            except (UnreadableImage, OSError) as error:
                refuse(number, str(error))
            else:
                read.append(number)
                yield image

    for count, prediction in enumerate(committee.predict_all(images())):
        picture = block[read[count]]
        if not all(map(math.isfinite, (*prediction.arms.values(), *prediction.class_scores))):
            refuse(read[count], "its scores are not finite numbers: check the network")
            continue
        lines[read[count]] = PictureScores(
            picture.image,
            picture.data,
            prediction.arms,
            halved(prediction.features.mean(axis=0)),
            prediction.class_scores,
        ).line()
    return lines
