import numpy as np
import pytest
import torch

from acquisition.masks import UNKNOWN
from tests.training.discs import CLASSES, disc_examples
from training.examples import Example
from training.experiments.probe import (
    STRIDE,
    WIDTH,
    Heads,
    NothingToLearn,
    _coarse,
    _Pixels,
    fit_probe,
    keep_features,
    load_features,
)
from training.fitting.folds import fold
from training.quality.metrics import overlap

EXAMPLES = {each.key: each for each in disc_examples(10)}
DARK = Example("dark", np.zeros((64, 64, 3), np.uint8), np.full((64, 64), UNKNOWN, np.uint8))


def read(key):
    """Of a drawn disc; a function of the module, to survive a pickle."""
    return DARK if key == "dark" else EXAMPLES[key]


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    seen = []
    keep_features(folder, list(EXAMPLES), read, progress=seen.append)
    assert seen == list(range(1, 11))
    return load_features(folder)


def test_features_lie_at_a_quarter_of_the_image(features):
    assert features.places["disc-0"] == (0, 72 // STRIDE, 88 // STRIDE)
    assert features.of("disc-3").shape == (18 * 22, WIDTH)
    assert features.truth["disc-3"].shape == (18, 22)
    assert features.image["disc-3"].shape == (432,)


def test_features_are_whitened(features):
    pixels = torch.cat([features.of(key) for key in EXAMPLES])
    assert pixels.mean(dim=0).abs().max() < 0.4
    assert 0.5 < float(pixels.std(dim=0).median()) < 2


def test_features_that_are_kept_are_not_computed_again(features, tmp_path):
    keep_features(tmp_path, ["disc-1", "disc-2"], read)
    before = (tmp_path / "features.f16").stat().st_mtime_ns
    keep_features(tmp_path, ["disc-1", "disc-2"], read)
    assert (tmp_path / "features.f16").stat().st_mtime_ns == before
    keep_features(tmp_path, ["disc-2"], read)
    assert list(load_features(tmp_path).places) == ["disc-2"]


def test_the_coarse_truth_is_what_lies_in_the_middle_and_padding_is_unknown():
    mask = np.zeros((8, 10), np.uint8)
    mask[2, 6] = 3
    coarse = _coarse(mask, 3, 3)
    assert coarse.tolist() == [[0, 3, UNKNOWN], [0, 0, UNKNOWN], [UNKNOWN] * 3]


def test_heads_say_the_same_of_planes_and_of_rows():
    torch.manual_seed(0)
    heads = Heads(3, 4)
    for parameter in (heads.bias, heads.out_bias):
        torch.nn.init.normal_(parameter)
    pixels = torch.randn(50, WIDTH)
    rows = heads(pixels[None].expand(3, -1, -1))
    torch.testing.assert_close(heads.planes(pixels.T.contiguous()), rows.transpose(1, 2))


def test_a_probe_learns_discs_and_the_same_seed_learns_the_same(features):
    keys = list(EXAMPLES)[:8]
    first, again = (fit_probe(features, keys, len(CLASSES), 3, seed=1) for _ in range(2))
    other = fit_probe(features, keys[::-1], len(CLASSES), 3, seed=1)
    total = None
    for key in list(EXAMPLES)[8:]:
        probs, predicted = first.predict_classes(key)
        assert np.array_equal(probs, again.predict_classes(key)[0])
        assert np.array_equal(
            probs, other.predict_classes(key)[0]
        )  # whatever the order of the keys
        prediction = first.predict(key)
        assert np.array_equal(prediction.predicted, predicted)
        np.testing.assert_allclose(prediction.probs.sum(axis=0), 1, atol=1e-5)
        counts = overlap(features.truth[key], predicted, len(CLASSES))
        total = counts if total is None else total + counts
    assert np.nanmean(total.iou()[1:]) > 0.4


def test_a_member_never_sees_the_images_of_its_fold(features):
    keys = sorted(EXAMPLES)
    members = 3
    truth = torch.cat([torch.from_numpy(features.truth[key]).flatten() for key in keys]).long()
    owner = torch.cat([torch.full((features.truth[key].size,), fold(key, members)) for key in keys])
    for member in range(members):
        source = _Pixels(truth, owner, member, members)
        drawn = torch.cat([source.draw(torch.Generator().manual_seed(s)) for s in range(20)])
        assert not bool((owner[drawn] == member).any())
        assert not bool((truth[drawn] == UNKNOWN).any())


def test_half_of_what_a_member_sees_comes_of_each_class_alike(features):
    keys = sorted(EXAMPLES)
    truth = torch.cat([torch.from_numpy(features.truth[key]).flatten() for key in keys]).long()
    source = _Pixels(truth, torch.full_like(truth, -1), 0, 1)
    drawn = source.draw(torch.Generator().manual_seed(0))
    for c in (1, 2):
        assert (truth[drawn] == c).float().mean() > 1 / 7


def test_images_without_a_known_pixel_teach_nobody(tmp_path):
    keep_features(tmp_path, ["dark"], read)
    with pytest.raises(NothingToLearn, match="member 0 of 2 has no known pixel"):
        fit_probe(load_features(tmp_path), ["dark"], 3, 2, seed=0)


def test_features_are_the_same_whatever_the_processes(tmp_path):
    for workers in (1, 2):
        keep_features(tmp_path / str(workers), ["disc-1", "disc-2"], read, workers)
    one, two = ((tmp_path / str(n) / "features.f16").read_bytes() for n in (1, 2))
    assert one == two
