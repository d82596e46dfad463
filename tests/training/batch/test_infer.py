"""`python -m training infer`: a manifest in, scores of every picture out, shard by shard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.command_page import json_keys
from tests.training.batch.thresholds import BRIGHT, DARK, GROUND, OWN, write_thresholds
from training.__main__ import cli
from training.batch import infer as infer_module
from training.batch.manifest import BadManifest, Manifest, Shard
from training.batch.scores import NoScores, pack, read_scores, score_files, scored_by
from training.committee.committee import Committee
from training.committee.prediction import Prediction
from training.images import encode_png
from training.pixels import Image8


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_thresholds(tmp_path_factory.mktemp("versions") / "4")


def tile(seed: int) -> Image8:
    grey = np.random.default_rng(seed).choice([GROUND, DARK, BRIGHT], (8, 8))
    return np.kron(grey, np.ones((8, 8))).astype(np.uint8)[..., None].repeat(3, axis=2)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Twenty tiles behind an address, of which the eighth is no image."""
    (tmp_path / "mounted").mkdir()
    lines = []
    for number in range(20):
        data = b"no image" if number == 7 else encode_png(tile(number))
        (tmp_path / f"mounted/{number}.png").write_bytes(data)
        lines.append(json.dumps({"image": f"s3://pool/{number}.png", "slide": f"s{number % 3}"}))
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def infer(manifest: Path, version: Path, output: Path, *more: str) -> tuple[int, str]:
    given = ["infer", "--manifest", manifest, "--version", version, "--output", output]
    given += ["--mount", f"s3://pool/={manifest.parent / 'mounted'}", "--network", OWN]
    ended = CliRunner().invoke(cli, [*map(str, given), "--threads", "1", *more])
    return ended.exit_code, ended.output


def test_shards_hold_every_picture_once_with_what_a_prediction_gives(
    manifest: Path, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer_module, "BLOCK", 4)
    output = tmp_path / "scores"
    for shard in ("0/3", "1/3", "2/3"):
        code, said = infer(manifest, version, output, "--shard", shard, "--json")
        assert code == 0, said
        assert json.loads(said).keys() == json_keys()["training infer"]
    files = score_files(output)
    found = {each.image: each for path in files for each in read_scores(path)}
    assert sorted(found) == sorted(f"s3://pool/{n}.png" for n in range(20) if n != 7)
    assert sum(1 for path in files for _ in read_scores(path)) == 19
    assert len(scored_by(files)) == 1
    one = found["s3://pool/3.png"]
    prediction = Committee.load(version, own_network=OWN).predict(tile(3))
    assert one.data == {"slide": "s0"}
    assert one.arms == pytest.approx(dict(prediction.arms), abs=1e-5)
    assert one.features is not None
    np.testing.assert_allclose(one.features, prediction.features.mean(axis=0), atol=1e-2)
    np.testing.assert_allclose(one.class_scores, prediction.class_scores, atol=1e-5)


def test_a_second_run_does_what_is_missing(
    manifest: Path, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer_module, "BLOCK", 4)
    output = tmp_path / "scores"
    first = json.loads(infer(manifest, version, output, "--json")[1])
    assert (first["pictures"], first["predicted"], first["refused"]) == (20, 20, 1)
    assert list(first["refusals"]) == ["s3://pool/7.png"]
    before = {path: path.read_bytes() for path in score_files(output)}
    assert len(before) == 5
    list(before)[2].unlink()
    again = json.loads(infer(manifest, version, output, "--json")[1])
    assert (again["pictures"], again["predicted"]) == (20, 4)
    assert {path: path.read_bytes() for path in score_files(output)} == before
    damaged = next(iter(before))
    for bad in (b"half", pack([b"{}"])[:-9], pack([b"{}"])[:10] + b"\xff" * 20):
        damaged.write_bytes(bad)
        with pytest.raises(NoScores, match="delete it"):
            list(read_scores(damaged))


def test_scores_of_another_manifest_are_not_mixed_in(
    manifest: Path, version: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores"
    assert infer(manifest, version, output)[0] == 0
    manifest.write_text(manifest.read_text().replace("s2", "s9"))
    code, said = infer(manifest, version, output)
    assert code == 1
    assert "manifest was" in said


def test_an_address_that_is_no_file_here_is_said(version: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"image": "https://pictures.test/1.png"}\n')
    (tmp_path / "mounted").mkdir()
    code, said = infer(manifest, version, tmp_path / "scores", "--json")
    assert code == 0
    assert "--mount" in json.loads(said)["refusals"]["https://pictures.test/1.png"]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_shards_are_whole_lines_and_all_of_them(tmp_path: Path, count: int) -> None:
    path = tmp_path / "pool.csv"
    rows = [f'{number},"a, {number}",{"x" * (number % 5)}' for number in range(31)]
    path.write_text("image,slide,note\r\n" + "\r\n".join(rows))
    found = [picture for index in range(count) for picture in Manifest(path, Shard(index, count))]
    assert [picture.image for picture in found] == [str(number) for number in range(31)]
    assert found[3].data == {"slide": "a, 3", "note": "xxx"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("pool.jsonl", '{"image": "a"}\n{"picture": "b"}\n', "byte 15: it holds no text under"),
        ("pool.jsonl", "image\n", "byte 0"),
        ("pool.jsonl", '{"image": "a", "path": 3}\n', "byte 0: 'image' and 'path' must be text"),
        ("pool.jsonl", '{"image": "a\\u0000"}\n', "byte 0: 'image' and 'path' must be text"),
        ("pool.jsonl", '{"image": "a", "size": NaN}\n', "byte 0: "),
        ("pool.csv", "image,Pr\xe4parat\na,b\n", "its first line"),
        ("pool.csv", "file,slide\na,b\n", "no column 'image'"),
        ("pool.csv", "image,slide\na\n", "byte 12"),
    ],
)
def test_a_line_that_cannot_be_read_stops_the_work(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(BadManifest, match=said):
        list(Manifest(tmp_path / name, Shard(0, 1)))


@pytest.mark.parametrize("text", ["", "1", "1/1", "2/2", "-1/2", "a/b", "0/0"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="i/n"):
        Shard.parse(text)


def test_a_picture_whose_scores_are_no_numbers_is_refused(
    manifest: Path, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_all = Committee.predict_all

    def broken(committee: Committee, images: Iterable[Image8]) -> Iterator[Prediction]:
        first, *others = predict_all(committee, images)
        yield from [replace(first, arms={"a/mean": float("nan")}), *others]

    monkeypatch.setattr(Committee, "predict_all", broken)
    code, said = infer(manifest, version, tmp_path / "scores", "--json")
    assert code == 0, said
    assert "not finite" in json.loads(said)["refusals"]["s3://pool/0.png"]
    found = [each for path in score_files(tmp_path / "scores") for each in read_scores(path)]
    assert len(found) == 18
