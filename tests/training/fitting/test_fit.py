from dataclasses import replace

import numpy as np
import pytest
import torch

from acquisition.masks import UNKNOWN
from tests.training.discs import disc_examples
from tests.training.trained import CPU, TINY
from training.compute import bounded_threads
from training.examples import Example
from training.fitting.fit import NonFiniteLoss, NotEnoughExamples, fit_member
from training.fitting.folds import fold, training_keys
from training.fitting.loss import class_weights, segmentation_loss
from training.fitting.schedule import encoder_to_freeze, freeze, one_cycle, unfreeze
from training.networks.build import build_network, skeleton
from training.networks.forward import logits_and_features
from training.quality.metrics import overlap


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("network", ["lite0", "unet"])
def test_the_same_inputs_give_the_same_weights_bit_by_bit(network):
    config = replace(TINY, network=network, steps=3)
    examples = disc_examples(4)
    first, _ = fit_member(examples, config, 0, CPU)
    torch.rand(3)  # what ran in between does not matter
    with bounded_threads(2):
        second, _ = fit_member(examples[::-1], config, 0, CPU)
    assert same(first, second)


def test_a_pretrained_encoder_is_held_until_it_may_learn():
    config = replace(TINY, network="lite0", steps=4, thaw=0.5)
    before = build_network(config).encoder.state_dict()

    def encoder(**changed):
        weights, _ = fit_member(disc_examples(3), replace(config, **changed), 0, CPU)
        return {k.removeprefix("encoder."): v for k, v in weights.items() if "encoder." in k}

    assert same(encoder(thaw=1.0), before)
    assert same(encoder(network="shared"), before)
    learnt = encoder()
    assert not torch.equal(learnt["_conv_stem.weight"], before["_conv_stem.weight"])
    assert torch.equal(learnt["_bn0.running_mean"], before["_bn0.running_mean"])


def test_what_a_laboratory_froze_stays_frozen():
    network = build_network(replace(TINY, network="lite0"))
    stem = network.encoder._conv_stem.weight.requires_grad_(False)
    held = freeze(network.encoder)
    assert not any(parameter.requires_grad for parameter in network.encoder.parameters())
    unfreeze(held)
    assert not stem.requires_grad
    assert all(p.requires_grad for p in network.encoder.parameters() if p is not stem)


def test_an_encoder_beside_which_nothing_learns_is_not_held():
    network = build_network(replace(TINY, network="lite0"))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("encoder."))
    assert encoder_to_freeze(network, replace(TINY, network="lite0")) is None


def test_an_encoder_that_never_learnt_is_never_held():
    network = build_network(TINY)
    network.encoder = network.down
    assert encoder_to_freeze(network, TINY) is None
    started = replace(TINY, network_weights="x", network_weights_sha256="y")
    assert encoder_to_freeze(network, started) is network.down


def test_members_and_seeds_differ():
    examples, config = disc_examples(4), replace(TINY, steps=2)
    first, _ = fit_member(examples, config, 0, CPU)
    assert not same(first, fit_member(examples, config, 1, CPU)[0])
    assert not same(first, fit_member(examples, replace(config, seed=1), 0, CPU)[0])


def test_a_training_leaves_torch_as_it_was():
    torch.manual_seed(5)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    fit_member(disc_examples(3), replace(TINY, steps=1), 0, CPU)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads


def test_a_member_learns_to_tell_dark_discs_from_bright_ones(trained):
    history = trained.histories[0]
    member = skeleton(TINY)
    member.load_state_dict(trained.weights[0])
    member.eval()
    scores = []
    for unseen in disc_examples(4, first_seed=100):
        image = torch.from_numpy(unseen.image.copy()).permute(2, 0, 1)[None] / 255
        with torch.inference_mode():
            predicted = (
                logits_and_features(member, image)[0][0].argmax(dim=0).numpy().astype(np.uint8)
            )
        scores.append(overlap(unseen.mask, predicted, 3).foreground_dice())
    assert np.mean(scores) > 0.85
    assert history.loss[-1] < history.loss[0] / 2


def test_progress_is_told_after_every_step():
    told = []
    config = replace(TINY, steps=3)
    fit_member(disc_examples(3), config, 0, CPU, lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_member_never_trains_on_its_fold():
    examples = disc_examples(12)
    for member in range(2):
        _, history = fit_member(examples, replace(TINY, steps=1), member, CPU)
        assert history.keys
        assert all(fold(key, 2) != member for key in history.keys)


def test_folds_are_the_same_for_good_and_even():
    assert [fold(str(key), 5) for key in range(8)] == [0, 0, 0, 3, 1, 4, 2, 3]
    counts = np.bincount([fold(str(key), 5) for key in range(5000)])
    assert counts.min() > 900


def test_every_key_is_unseen_by_exactly_one_member():
    keys = [str(i) for i in range(30)]
    seen = [set(training_keys(keys, 4, member)) for member in range(4)]
    assert all(sum(key not in s for s in seen) == 1 for key in keys)
    assert training_keys(keys, 1, 0) == sorted(keys)


def test_nothing_left_to_learn_from_is_said():
    example = disc_examples(1)
    with pytest.raises(NotEnoughExamples, match="Label a few more"):
        fit_member(example, TINY, fold(example[0].key, 2), CPU)


def test_wholly_unknown_masks_teach_nothing():
    unknown = [Example(e.key, e.image, np.full_like(e.mask, UNKNOWN)) for e in disc_examples(6)]
    with pytest.raises(NotEnoughExamples, match="no known pixel"):
        fit_member(unknown, TINY, 0, CPU)


def test_a_diverging_training_is_said():
    config = replace(TINY)
    object.__setattr__(config, "decoder_lr", float("inf"))  # surely diverges; configs refuse it
    with pytest.raises(NonFiniteLoss, match="decoder_lr"):
        fit_member(disc_examples(3), config, 0, CPU)


def test_a_class_beyond_the_config_is_refused():
    with pytest.raises(ValueError, match="holds class 2"):
        fit_member(disc_examples(3), replace(TINY, classes=("background", "dark")), 0, CPU)


def test_a_key_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match="distinct keys"):
        fit_member(disc_examples(2) * 2, TINY, 0, CPU)


def test_the_rate_rises_once_and_falls():
    rates = [one_cycle(step, 100, 0.2) for step in range(100)]
    peak = int(np.argmax(rates))
    assert 17 <= peak <= 22
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.01
    assert max(rates) == pytest.approx(1, abs=0.01)


def mask_of(counts):
    return np.repeat(np.arange(len(counts)), counts).astype(np.uint8)[None]


def example_of(counts):
    mask = mask_of(counts)
    return Example("counts", np.zeros((*mask.shape, 3), np.uint8), mask)


def test_class_weights_are_the_inverse_root_of_the_share():
    weights = class_weights([example_of([900, 81, 9])], TINY)
    assert (weights[1] / weights[0]).item() == pytest.approx((900 / 81) ** 0.5)
    assert (weights[2] / weights[0]).item() == pytest.approx(10)


def test_class_weights_are_bounded_and_a_mean_pixel_weighs_one():
    weights = class_weights([example_of([100_000, 1, 0])], TINY)
    assert (weights[1] / weights[0]).item() == pytest.approx(TINY.class_weight_bound)
    assert weights[2] == weights[1]
    assert weights[0].item() == pytest.approx(1, abs=1e-3)


def test_unknown_pixels_weigh_nothing_in_the_loss():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5)
    masks = torch.randint(0, 3, (2, 4, 5))
    masks[:, 2:] = UNKNOWN
    loss = segmentation_loss(logits, masks, torch.ones(3), 1.0)
    logits[:, :, 2:] = 9
    assert segmentation_loss(logits, masks, torch.ones(3), 1.0) == loss


def test_the_loss_of_a_sure_and_right_prediction_is_almost_zero():
    masks = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.one_hot(masks, 3).permute(0, 3, 1, 2).float() * 40
    assert segmentation_loss(logits, masks, torch.ones(3), 1.0).item() < 1e-4


def test_the_loss_by_hand():
    # Two pixels, each 3:1 for its own class: entropy log(4/3), Dice (2 * .75 + 1) / (2 + 1).
    logits = torch.tensor([[3.0, 1.0], [1.0, 3.0]]).log().T.reshape(1, 2, 1, 2)
    masks = torch.tensor([[[0, 1]]])
    expected = np.log(4 / 3) + (1 - 2.5 / 3)
    assert segmentation_loss(logits, masks, torch.ones(2), 1.0).item() == pytest.approx(expected)


def test_a_batch_without_a_known_pixel_costs_nothing():
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    masks = torch.full((1, 3, 3), UNKNOWN)
    assert segmentation_loss(logits, masks, torch.ones(2), 1.0).item() == 0
