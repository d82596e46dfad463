"""A committee predicts images of any size, alone and many at a time."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from acquisition.uncertainty import MEASURES, uncertainty_maps
from tests.training.committee.untrained import CPU, SMALL, UNTRAINED, as_batch, random_image
from tests.training.trained import TINY
from training.committee.committee import Committee
from training.committee.ensemble import Ensemble
from training.committee.version import DamagedVersion, write_version
from training.networks.build import ForeignNetwork, build_network


def test_a_prediction_agrees_with_the_members_and_the_measures(untrained):
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


def test_an_image_is_predicted_before_the_last_is_read(untrained):
    read = []

    def images():
        for number, size in enumerate((20, 30, 40)):
            read.append(number)
            yield random_image(size, size)

    predictions = untrained.predict_all(images())
    next(predictions)
    assert read == [0, 1]


def test_a_large_image_is_seen_small_and_answered_at_its_own_size():
    config = replace(UNTRAINED, network=SMALL, members=1, max_side_px=64)
    committee = Committee(Ensemble([build_network(config).state_dict()], config, device=CPU))
    prediction = committee.predict(random_image(150, 100))
    assert prediction.probs.shape == (4, 64, 43)
    assert prediction.size == (150, 100)
    assert prediction.mask().shape == prediction.confidence().shape == (150, 100)


def test_typical_diameters_are_those_of_the_labels_in_the_images_own_pixels():
    config = replace(UNTRAINED, network=SMALL, members=1, max_side_px=64)
    ensemble = Ensemble([build_network(config).state_dict()], config, device=CPU)
    first, second = config.classes[1:3]
    committee = Committee(ensemble, particle_px={first: 10.0})
    prediction = committee.predict(random_image(128, 100))
    assert committee.diameters([], prediction) == {}
    assert committee.diameters([first, "background", "no class"], prediction) == {1: 20.0}
    # Of a class that the labels did not show, as the prediction itself has it.
    shown = np.zeros((4, 64, 50), np.float32)
    shown[0] = 0.5
    shown[2, 10:17, 20:40] = 1
    found = committee.diameters([first, second], replace(prediction, probs=shown))
    assert found == {1: 20.0, 2: pytest.approx(16.0)}


def test_any_number_of_channels_is_seen():
    for channels in (1, 5):
        config = replace(UNTRAINED, network=SMALL, members=1, channels=channels)
        committee = Committee(Ensemble([build_network(config).state_dict()], config, device=CPU))
        assert committee.predict(random_image(40, 50, channels)).probs.shape == (4, 40, 50)
        with pytest.raises(ValueError, match=f"must be .H, W, {channels}."):
            committee.predict(random_image(40, 50, 4))


def test_a_mask_at_the_networks_own_size_is_what_was_predicted(untrained):
    prediction = untrained.predict(random_image(33, 47))
    np.testing.assert_array_equal(prediction.mask(), prediction.predicted)
    np.testing.assert_allclose(prediction.confidence(), prediction.probs.max(axis=0), atol=1 / 255)


def test_what_is_no_image_is_refused(untrained):
    with pytest.raises(ValueError, match="must be"):
        untrained.predict(np.zeros((8, 8), np.uint8))


def test_weights_of_another_network_are_refused():
    weights = build_network(replace(UNTRAINED, network="unet")).state_dict()
    committee = Committee(Ensemble([weights], replace(UNTRAINED, members=1), device=CPU))
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
        Committee(Ensemble([], UNTRAINED, device=CPU))


def test_what_a_committee_never_saw_is_more_uncertain_than_what_it_knows(trained):
    examples = trained.examples
    committee = Committee(Ensemble(trained.weights, TINY, device=CPU), engine="torch")
    strange = np.random.default_rng(0).integers(0, 256, (72, 88, 3), np.uint8)
    arm = "predictive_entropy/image_mean"
    known = max(committee.predict(example.image).arms[arm] for example in examples[:3])
    assert committee.predict(strange).arms[arm] > known
