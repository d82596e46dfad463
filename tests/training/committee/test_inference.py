import sys
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from acquisition.uncertainty import MEASURES, uncertainty_maps
from tests.training.discs import CLASSES, disc_examples
from training.committee import inference, tiles
from training.committee.engine import NoEngine, has_bf16
from training.committee.inference import (
    Committee,
    Prediction,
    check_answers,
    fold_batch_norms,
    winners,
)
from training.committee.version import DamagedVersion, write_version
from training.config import TrainConfig
from training.fitting.fit import fit_member
from training.networks.build import ForeignNetwork, build_network
from training.networks.forward import logits_and_features

CPU = torch.device("cpu")
TINY = TrainConfig(CLASSES, members=2, crop_px=64, batch=4, steps=40, network="unet")
UNTRAINED = TrainConfig(("background", "a", "b", "c"), members=3)
SMALL = TrainConfig(CLASSES, members=1, network="unet")


@pytest.fixture(scope="module")
def trained():
    examples = disc_examples(10)
    weights = [fit_member(examples, TINY, member, CPU)[0] for member in range(TINY.members)]
    return weights, examples


@pytest.fixture(scope="module")
def weights():
    """Of three members whose answers differ; never trained."""
    made = []
    for member in range(UNTRAINED.members):
        torch.manual_seed(member)
        network = build_network(UNTRAINED).train()
        with torch.no_grad():
            network.head.weight.mul_(20)  # answers that are far from even
            network(torch.rand(4, 3, 64, 64))  # moves the running statistics
        made.append(network.state_dict())
    return made


@pytest.fixture(scope="module", params=["openvino", "torch"])
def untrained(weights, request):
    return Committee(weights, UNTRAINED, device=CPU, version=4, engine=request.param)


@pytest.fixture(scope="module")
def small_weights():
    torch.manual_seed(0)
    return [build_network(SMALL).state_dict()]


def test_the_winner_is_the_likeliest_class_and_the_first_of_equals():
    probs = torch.rand(2, 5, 7, 9, generator=torch.Generator().manual_seed(0))
    probs[0, 3, :4], probs[0, 1, :4] = 2.0, 2.0
    assert torch.equal(winners(probs), probs.argmax(dim=1).to(torch.uint8))
    assert (winners(probs)[0, :4] == 1).all()


def random_image(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def as_batch(*images):
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous() / 255


def test_an_engine_answers_as_the_members_do(untrained, weights):
    image = random_image(40, 60)
    probs, features = untrained.engine(as_batch(image))
    assert probs.shape == (3, 1, 4, 40, 60)
    assert features.shape == (3, 1, 432)
    for m, member in enumerate(weights):
        network = build_network(UNTRAINED)
        network.load_state_dict(member)
        with torch.inference_mode():
            logits, own = logits_and_features(network.eval(), as_batch(image))
        np.testing.assert_allclose(probs[m], logits.softmax(dim=1), atol=1e-4)
        np.testing.assert_allclose(features[m], own, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (64, 64), (130, 70)])
def test_an_engine_takes_any_size_and_any_batch(untrained, size):
    images = [np.roll(random_image(*size), shift, axis=0) for shift in range(3)]
    probs, _ = untrained.engine(as_batch(*images))
    assert probs.shape == (3, 3, 4, *size)
    together = probs.clone()
    for b, image in enumerate(images):
        alone, _ = untrained.engine(as_batch(image))
        np.testing.assert_allclose(together[:, b], alone[:, 0], atol=1e-4)
    np.testing.assert_allclose(together.sum(dim=2), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["lite0", "unet"])
def test_folding_the_batch_norms_changes_no_answer(name):
    torch.manual_seed(0)
    network = build_network(replace(UNTRAINED, network=name))
    with torch.no_grad():
        network(torch.rand(4, 3, 64, 64))  # moves the running statistics
        network.eval()
        x = torch.rand(1, 3, 64, 64)
        before = network(x)
        fold_batch_norms(network)
        torch.testing.assert_close(network(x), before, atol=1e-3, rtol=1e-3)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_the_temperature_divides_the_logits(weights, engine):
    x = as_batch(random_image(32, 32))
    cold, _ = Committee(weights, UNTRAINED, device=CPU, engine=engine).engine(x)
    warm, _ = Committee(weights, UNTRAINED, device=CPU, engine=engine, temperature=2.0).engine(x)
    expected = cold.log().div(2).softmax(dim=2)
    np.testing.assert_allclose(warm, expected, atol=1e-4)


def test_a_look_agrees_with_the_members_and_the_measures(untrained):
    image = random_image(45, 64)
    prediction = untrained.predict(image)
    probs = untrained.engine(as_batch(image))[0].clone()
    np.testing.assert_allclose(prediction.probs, probs.mean(dim=0)[0], atol=1e-6)
    np.testing.assert_array_equal(prediction.predicted, prediction.probs.argmax(axis=0))
    maps = uncertainty_maps(probs)
    assert tuple(prediction.maps) == MEASURES
    for name in MEASURES:
        np.testing.assert_allclose(prediction.maps[name], maps[name][0], atol=1e-5)
    mean = prediction.maps["mutual_information"].mean()
    assert prediction.arms["mutual_information/image_mean"] == pytest.approx(mean, rel=1e-4)
    assert all(np.isfinite(score) for score in prediction.arms.values())
    assert prediction.features.shape == (3, 432)


def test_many_images_are_seen_as_one_by_one_and_in_order(untrained):
    images = [random_image(40, 40), random_image(40, 40)[::-1].copy(), random_image(33, 70)]
    predictions = list(untrained.predict_all(iter(images)))
    assert [prediction.size for prediction in predictions] == [(40, 40), (40, 40), (33, 70)]
    for image, prediction in zip(images, predictions, strict=True):
        alone = untrained.predict(image)
        np.testing.assert_allclose(prediction.probs, alone.probs, atol=1e-4)
        assert prediction.arms == pytest.approx(alone.arms, rel=1e-2, abs=1e-4)
        np.testing.assert_allclose(prediction.features, alone.features, atol=1e-3)


def test_an_image_is_looked_at_before_the_last_is_read(untrained):
    read = []

    def images():
        for number, size in enumerate((20, 30, 40)):
            read.append(number)
            yield random_image(size, size)

    predictions = untrained.predict_all(images())
    next(predictions)
    assert read == [0, 1]


def test_a_large_image_is_seen_small_and_answered_at_its_own_size():
    config = replace(UNTRAINED, members=1, max_side_px=64)
    committee = Committee([build_network(config).state_dict()], config, device=CPU)
    prediction = committee.predict(random_image(150, 100))
    assert prediction.probs.shape == (4, 64, 43)
    assert prediction.size == (150, 100)
    assert prediction.mask().shape == prediction.confidence().shape == (150, 100)


def test_a_version_is_compiled_once_and_read_after_that(tmp_path, small_weights, monkeypatch):
    folder = tmp_path / "7"
    write_version(folder, 7, small_weights, SMALL, {}, {"temperature": 1.5})
    first = Committee.load(folder, device=CPU)
    assert first.engine.name == "openvino"
    assert [path.suffix for path in folder.glob("compiled-*")] == [".blob"]
    monkeypatch.setattr(inference, "to_openvino", None)  # converts nothing any more
    again = Committee.load(folder, device=CPU)
    image = random_image(40, 50)
    np.testing.assert_array_equal(again.predict(image).probs, first.predict(image).probs)


def test_a_damaged_compiled_version_is_made_anew(tmp_path, small_weights):
    folder = tmp_path / "7"
    write_version(folder, 7, small_weights, SMALL, {}, {"temperature": 1.5})
    first = Committee.load(folder, device=CPU)
    (kept,) = folder.glob("compiled-*")
    whole = kept.read_bytes()
    for damaged in (whole[:-100], b"", whole[:40] + b"x" + whole[41:]):
        kept.write_bytes(damaged)
        image = random_image(40, 50)
        prediction = Committee.load(folder, device=CPU).predict(image)
        np.testing.assert_array_equal(prediction.probs, first.predict(image).probs)
        assert kept.read_bytes() != damaged


def test_another_versions_compiled_members_are_not_taken(tmp_path, small_weights):
    torch.manual_seed(9)
    others = [build_network(SMALL).state_dict()]
    for number, weights in ((1, small_weights), (2, others)):
        write_version(tmp_path / str(number), number, weights, SMALL, {}, {"temperature": 1.0})
    image = random_image(40, 50)
    first = Committee.load(tmp_path / "1", device=CPU).predict(image)
    second = Committee.load(tmp_path / "2", device=CPU).predict(image)
    (kept,) = (tmp_path / "1").glob("compiled-*")
    (tmp_path / "2" / kept.name).write_bytes(kept.read_bytes())
    again = Committee.load(tmp_path / "2", device=CPU).predict(image)
    np.testing.assert_array_equal(again.probs, second.probs)
    assert np.abs(again.probs - first.probs).max() > 0.01


def test_a_deleted_version_is_not_brought_back(tmp_path, small_weights):
    folder = tmp_path / "1"
    write_version(folder, 1, small_weights, SMALL, {}, {"temperature": 1.0})
    inference._keep_compiled(tmp_path / "gone" / "compiled.blob", b"data", b"")
    assert not (tmp_path / "gone").exists()


@pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bfloat16")
def test_bfloat16_serves_only_where_it_agreed(tmp_path, small_weights):
    for agreement, precision in ((None, "f32"), (0.9979, "f32"), (0.998, "bf16")):
        folder = tmp_path / str(agreement)
        metrics = {"temperature": 1.0, "bf16_agreement": agreement}
        write_version(folder, 1, small_weights, SMALL, {}, metrics)
        assert Committee.load(folder, device=CPU).engine.precision == precision


def test_an_engine_that_answers_otherwise_is_refused(weights):
    committee = Committee(weights, UNTRAINED, device=CPU)

    def other(images):
        probs, features = committee.engine(images)
        return probs.flip(2), features

    with pytest.raises(NoEngine, match=r"differ from torch's by up to \d"):
        check_answers(committee, other)
    check_answers(committee, committee.engine)


def test_any_number_of_channels_is_seen():
    for channels in (1, 5):
        config = replace(UNTRAINED, members=1, channels=channels)
        committee = Committee([build_network(config).state_dict()], config, device=CPU)
        assert committee.predict(random_image(40, 50, channels)).probs.shape == (4, 40, 50)
        with pytest.raises(ValueError, match=f"must be .H, W, {channels}."):
            committee.predict(random_image(40, 50, 4))


def prediction_of(probs, size):
    predicted = probs.argmax(axis=0).astype(np.uint8)
    no_uncertainty = np.zeros(len(probs), np.float32)
    return Prediction(size, probs, predicted, {}, {}, no_uncertainty, np.zeros((1, 1), np.float32))


@pytest.mark.parametrize("strip_px", [1, 300, 1 << 19])
def test_masks_are_enlarged_in_strips_without_seams(monkeypatch, strip_px):
    monkeypatch.setattr(inference, "STRIP_PX", strip_px)
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(3, 11, 13, generator=generator).mul(2).softmax(dim=0)
    prediction = prediction_of(probs.numpy(), (47, 59))
    whole = F.interpolate(probs[None], (47, 59), mode="bilinear", align_corners=False)[0]
    assert (prediction.mask() == whole.argmax(dim=0).numpy()).mean() > 0.999
    np.testing.assert_allclose(prediction.confidence(), whole.amax(dim=0), atol=1 / 255)


@pytest.mark.parametrize("length", [1, 1024, 1025, 1500, 2048, 4096, 5001])
def test_tiles_cover_an_axis_and_their_weights_sum_to_one(length):
    total = np.zeros(length)
    spans = tiles.spans(length)
    for span in spans:
        assert 0 < span.stop - span.start <= tiles.WHOLE_PX
        assert span.start % tiles.ALIGN_PX == 0
        total[span.start : span.stop] += span.weights.numpy()
    np.testing.assert_allclose(total, 1, atol=1e-6)
    if length > tiles.WHOLE_PX:
        assert all(span.stop - span.start <= tiles.TILE_PX + tiles.ALIGN_PX for span in spans)
    for left, right in pairwise(spans):
        assert left.stop - right.start >= tiles.OVERLAP_PX - tiles.ALIGN_PX


def smooth_image(height, width):
    """Blobs, as an image has them: noise alone would hide a seam."""
    noise = np.random.default_rng(1).normal(0, 1, (height // 8, width // 8, 3)).astype(np.float32)
    large = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 60 * large, 0, 255).astype(np.uint8)


def test_tiles_leave_no_seams(monkeypatch, weights):
    config = replace(UNTRAINED, max_side_px=4096)
    committee = Committee(weights, config, device=CPU)
    image = smooth_image(640, 800)
    whole = committee.predict(image)
    monkeypatch.setattr(tiles, "WHOLE_PX", 384)
    monkeypatch.setattr(tiles, "TILE_PX", 384)
    tiled = committee.predict(image)
    assert len(tiles.spans(640)) > 1
    apart = np.abs(tiled.probs - whole.probs).max(axis=0)
    assert (tiled.predicted == whole.predicted).mean() > 0.99
    assert apart.mean() < 0.01
    # A seam would be a jump between two neighbouring rows or columns that the whole has not.
    for axis in (1, 2):
        jump = np.abs(np.diff(tiled.probs - whole.probs, axis=axis)).mean(axis=(0, 3 - axis))
        assert jump.max() < 5 * np.median(jump) + 1e-3
    for name in MEASURES:
        assert np.abs(tiled.maps[name] - whole.maps[name]).mean() < 0.02
    # Every tile has edges of its own, which its features feel; they stay much the same.
    assert np.corrcoef(tiled.features.ravel(), whole.features.ravel())[0, 1] > 0.95


def test_tiles_of_a_network_that_sees_single_pixels_change_nothing(monkeypatch):
    def predict(images):
        probs = torch.stack([images[:, :1], 1 - images[:, :1]]).repeat_interleave(2, dim=2)
        return probs, images.mean(dim=(2, 3))[None]

    monkeypatch.setattr(tiles, "WHOLE_PX", 384)
    monkeypatch.setattr(tiles, "TILE_PX", 384)
    images = torch.rand(2, 3, 1100, 700, generator=torch.Generator().manual_seed(0))
    seen = [(strip.rows, strip.probs.clone()) for strip, _ in tiles.strips(images, predict)]
    assert [rows.start for rows, _ in seen[1:]] == [rows.stop for rows, _ in seen[:-1]]
    joined = torch.cat([probs for _, probs in seen], dim=3)
    np.testing.assert_allclose(joined, predict(images)[0], atol=1e-6)


def test_a_mask_at_the_networks_own_size_is_what_was_predicted(untrained):
    prediction = untrained.predict(random_image(33, 47))
    np.testing.assert_array_equal(prediction.mask(), prediction.predicted)
    np.testing.assert_allclose(prediction.confidence(), prediction.probs.max(axis=0), atol=1 / 255)


def test_what_is_no_image_is_refused(untrained):
    with pytest.raises(ValueError, match="must be"):
        untrained.predict(np.zeros((8, 8), np.uint8))


def test_weights_of_another_network_are_refused():
    weights = build_network(replace(UNTRAINED, network="unet")).state_dict()
    committee = Committee([weights], replace(UNTRAINED, members=1), device=CPU)
    with pytest.raises(DamagedVersion, match="member 0 does not fit"):
        committee.predict(random_image(8, 8))


def test_a_version_made_with_somebody_elses_network_is_not_imported(tmp_path):
    config = replace(UNTRAINED, members=1, network="this:runs_code")
    weights = [build_network(UNTRAINED).state_dict()]
    write_version(tmp_path / "1", 1, weights, config, {}, {"temperature": 1.0})
    with pytest.raises(ForeignNetwork, match="NETWORK=this:runs_code"):
        Committee.load(tmp_path / "1", device=CPU)
    assert "this" not in sys.modules


def test_too_few_members_are_refused():
    with pytest.raises(DamagedVersion, match="expected 3 members, got 0"):
        Committee([], UNTRAINED, device=CPU)


def test_a_committee_uncertainties_what_it_never_saw_more_than_what_it_knows(trained):
    weights, examples = trained
    committee = Committee(weights, TINY, device=CPU)
    strange = np.random.default_rng(0).integers(0, 256, (72, 88, 3), np.uint8)
    arm = "predictive_entropy/image_mean"
    known = max(committee.predict(example.image).arms[arm] for example in examples[:3])
    assert committee.predict(strange).arms[arm] > known
