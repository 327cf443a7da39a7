"""Frozen pyramids: levels, truncation, packaged weights, and use by other models of anomalib."""

import pickle

import pytest
import timm
import torch
from anomalib.models import Patchcore
from anomalib.models.components import TimmFeatureExtractor
from timm.models import list_pretrained, model_entrypoint

from anomalib_unias.backbones import FORMER_NAMES, BackboneError, FeaturePyramid, backbone_statistics, efficientnet_lite
from anomalib_unias.backbones.efficientnet_keys import timm_efficientnet_keys
from anomalib_unias.backbones.efficientnet_lite import WEIGHT_PACKAGES, _weight_file

IMAGES = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))

for package, _ in WEIGHT_PACKAGES.values():
    pytest.importorskip(package, reason="needs the extra 'lite'")


@pytest.mark.parametrize(
    ("backbone", "levels", "strides"),
    [
        ("tf_efficientnet_b4", None, (2, 4, 8, 16)),
        ("tf_efficientnet_lite0_pypi", (2, 5), (4, 32)),
        ("tf_efficientnet_lite0_pypi", (1, 3), (2, 8, 16)),
        ("resnet18", (3, 4), (8, 16)),
        ("convnext_atto", None, (4, 8, 16)),
    ],
)
def test_levels_are_those_of_the_whole_network(backbone, levels, strides):
    torch.manual_seed(0)
    pyramid = FeaturePyramid(backbone, levels, pre_trained=False)
    assert pyramid.strides == strides
    whole = timm.create_model(backbone, features_only=True).eval()
    whole.load_state_dict(pyramid.network.state_dict(), strict=False)
    if backbone == "tf_efficientnet_b4":
        # Only the padding of one convolution differs, see below.
        whole.blocks[2][0].conv_dw = pyramid.network.blocks[2][0].conv_dw
    reference = whole(IMAGES)
    for feature, level, channels in zip(pyramid(IMAGES), pyramid.levels, pyramid.channels, strict=True):
        torch.testing.assert_close(feature, reference[level - 1])
        assert feature.shape[1] == channels
    has_tail = strides[-1] < 32
    assert has_tail == (sum(p.numel() for p in pyramid.parameters()) < sum(p.numel() for p in whole.parameters()))


def test_b4_is_padded_as_published():
    """The strided 5x5 convolution of the third stage is centred: 2 pixels on every side at any size."""
    layer = FeaturePyramid("tf_efficientnet_b4", pre_trained=False).network.blocks[2][0].conv_dw
    impulse = torch.zeros(1, layer.in_channels, 24, 24)
    impulse[..., 0, 0] = 1
    with torch.no_grad():
        response = layer(impulse)
    torch.testing.assert_close(response[0, :, 0, 0], layer.weight[:, 0, 2, 2])


@pytest.mark.parametrize("name", sorted(WEIGHT_PACKAGES))
def test_packaged_weights_are_loaded_completely(name):
    network = timm.create_model(name, pretrained=True)
    published = torch.load(_weight_file(name), weights_only=True)
    own = network.state_dict()
    renamed = timm_efficientnet_keys(published, [len(stage) for stage in network.blocks])
    assert own.keys() == renamed.keys()
    assert all(torch.equal(own[key], renamed[key]) for key in own)
    assert backbone_statistics(name) == ((0.5,) * 3, (0.5,) * 3)


def test_real_photograph_is_recognised():
    data = pytest.importorskip("skimage.data")
    cat = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None, :, :, 80:380] / 255
    images = torch.nn.functional.interpolate(cat, (224, 224), mode="bilinear", antialias=True)
    network = timm.create_model("tf_efficientnet_lite0_pypi", pretrained=True).eval()
    tabby, tiger, egyptian = 281, 282, 285
    assert network((images - 0.5) / 0.5).argmax().item() in {tabby, tiger, egyptian}


@pytest.mark.parametrize("name", sorted(WEIGHT_PACKAGES))
def test_there_is_no_warning_of_weights_without_a_place(name, caplog):
    FeaturePyramid(name)
    assert not caplog.text


def test_weights_are_not_kept_twice():
    network = timm.create_model("tf_efficientnet_lite0_pypi", pretrained=True, features_only=True)
    size = sum(p.numel() for p in network.parameters()) * 4
    assert len(pickle.dumps(network)) < 1.5 * size


def test_other_models_use_the_same_name():
    """PatchCore reads the features of the very same network."""
    model = Patchcore(backbone="tf_efficientnet_lite0_pypi", layers=["blocks.2", "blocks.4"], pre_trained=True)
    extractor = model.model.feature_extractor
    assert isinstance(extractor, TimmFeatureExtractor)
    images = torch.randn(1, 3, 224, 224)
    features = extractor(images)
    pyramid = FeaturePyramid("tf_efficientnet_lite0_pypi", (3, 4))
    for feature, expected in zip(features.values(), pyramid(images), strict=True):
        torch.testing.assert_close(feature, expected)


def test_names_of_timm_stay_those_of_timm():
    for former in FORMER_NAMES:
        assert model_entrypoint(former).__module__.startswith("timm.")
        assert timm.create_model(former).bn1.eps == pytest.approx(1e-5)
    assert timm.create_model("tf_efficientnet_lite0_pypi").bn1.eps == pytest.approx(1e-3)
    assert list_pretrained("*_pypi*") == [f"{name}.in1k" for name in FORMER_NAMES.values()]


def test_without_the_package_the_message_names_it(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda _: None)
    with pytest.raises(BackboneError, match=r'install "anomalib-unias\[lite\]"'):
        FeaturePyramid("tf_efficientnet_lite0_pypi")
    FeaturePyramid("tf_efficientnet_lite0_pypi", pre_trained=False)


def test_without_a_network_the_packaged_one_is_named(monkeypatch):
    def no_network(*_args, **_kwargs):
        msg = "offline"
        raise OSError(msg)

    monkeypatch.setattr("timm.create_model", no_network)
    names = {"efficientnet_lite1": "tf_efficientnet_lite1_pypi", "resnet18": "tf_efficientnet_lite0_pypi"}
    for name, advice in names.items():
        with pytest.raises(BackboneError, match=f'use backbone="{advice}"'):
            FeaturePyramid(name)
