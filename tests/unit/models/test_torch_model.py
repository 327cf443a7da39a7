"""UniASModel: options, shapes, modes and what it refuses."""

import pytest
import torch

from anomalib_unias.backbones import BackboneError
from anomalib_unias.models.components import neighbor_mask, sine_position_encoding
from anomalib_unias.models.unias import UniASModel
from anomalib_unias.models.unias.components import MultiGranularityBlock
from anomalib_unias.models.unias.loss import UniASLoss

SMALL = {
    "image_size": (64, 96),
    "backbone": "resnet18",
    "pre_trained": False,
    "hidden_dim": 16,
    "num_heads": 2,
    "feedforward_dim": 32,
    "encoder_layers": 1,
    "neighbor_mask_size": 3,
}
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def build(**changes) -> UniASModel:
    torch.manual_seed(0)
    return UniASModel(**{**SMALL, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"levels": (4,)},
        {"levels": (1,)},
        {"levels": (4, 1)},
        {"sample_aware_query": False},
        {"local_block": "none"},
        {"local_block": "conv"},
        {"local_block": "ungated"},
        {"channel_branch": False},
        {"neighbor_mask_size": 0},
        {"jitter_scale": 0.0},
        {"reconstruction_head": "transposed"},
        {"blur_maps": False},
        {"feature_scaling": "none"},
        {"pixel_decoder_fusion": False},
        {"image_score": "std"},
        {"image_score": "top"},
        {"image_size": (128, 64)},
        {"backbone": "convnext_atto"},
        {"backbone": "tf_efficientnet_lite0_pypi"},
        {"hidden_dim": 24, "num_heads": 3},
    ],
    ids=str,
)
def test_every_option_trains_and_predicts(changes):
    model = build(**changes)
    size = model.image_size
    images = torch.randn(2, 3, *size)
    model.train()
    targets, reconstructions = model(images)
    assert [t.shape for t in targets] == [r.shape for r in reconstructions]
    loss = UniASLoss()(targets, reconstructions)
    loss.backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert torch.isfinite(loss)
    assert not unused

    model.eval()
    with torch.no_grad():
        prediction = model(images)
    assert prediction.anomaly_map.shape == (2, 1, *size)
    assert prediction.pred_score.shape == (2,)
    levels = len(model.decoder.reconstructed)
    assert prediction.anomaly_map.min() >= 0
    assert prediction.anomaly_map.max() <= 2**levels


def test_options_change_the_result():
    """An option that is accepted and ignored would go unnoticed above."""
    reference = build().eval()(IMAGES).anomaly_map
    for changes in (
        {"levels": (4,)},
        {"sample_aware_query": False},
        {"local_block": "ungated"},
        {"local_block": "conv"},
        {"channel_branch": False},
        {"neighbor_mask_size": 0},
        {"reconstruction_head": "transposed"},
        {"blur_maps": False},
        {"pixel_decoder_fusion": False},
    ):
        assert not torch.allclose(build(**changes).eval()(IMAGES).anomaly_map, reference, atol=1e-4), changes


def test_image_scores_come_from_the_map():
    for kind, expected in {
        "max": lambda pixels: pixels.amax(1),
        "std": lambda pixels: pixels.std(1),
        "top": lambda pixels: pixels.sort(1, descending=True).values[:, : 64 * 96 // 100].mean(1),
    }.items():
        prediction = build(image_score=kind).eval()(IMAGES)
        torch.testing.assert_close(prediction.pred_score, expected(prediction.anomaly_map.flatten(1)))


def test_eval_is_deterministic_and_training_is_not():
    model = build().eval()
    assert torch.equal(model(IMAGES).anomaly_map, model(IMAGES).anomaly_map)
    model.train()
    first, second = model(IMAGES)[1][0], model(IMAGES)[1][0]
    assert not torch.equal(first, second)


def test_jitter_touches_inputs_but_not_targets():
    model = build(jitter_probability=1.0, dropout=0.0)
    clean = model.eval()
    features = clean.scaler(clean.backbone(IMAGES))
    inputs, targets = clean.filter(features)
    model.train()
    noisy = model.jitter(inputs)
    # Relative norm of the noise is about scale / sqrt(2C).
    for level, clean_level in zip(noisy, inputs, strict=True):
        relative = (level - clean_level).norm(dim=1) / clean_level.norm(dim=1)
        assert relative.mean() == pytest.approx(20 / clean_level.shape[1] ** 0.5, rel=0.1)
    torch.testing.assert_close(model(IMAGES)[0], targets)


def test_backbone_stays_frozen():
    model = build(backbone="tf_efficientnet_lite0_pypi").train()
    before = {key: tensor.clone() for key, tensor in model.backbone.state_dict().items()}
    UniASLoss()(*model(IMAGES)).backward()
    assert not model.backbone.network.training
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.backbone.state_dict().items())


@pytest.mark.parametrize(("scaling", "equality"), [("level", 0), ("balanced", 0.5), ("channel", 1)])
def test_scaler_brings_levels_to_unit_mean_square(scaling, equality):
    model = build(feature_scaling=scaling)
    features = model.backbone(IMAGES)
    before = [feature.square().mean(dim=(0, 2, 3)) for feature in features]
    model.scaler.fit(before)
    for feature, was in zip(model.scaler(features), before, strict=True):
        now = feature.square().mean(dim=(0, 2, 3))
        # Channels that hardly ever fire are not blown up.
        used = was > 1e-3 * was.mean()
        torch.testing.assert_close(
            (now / now.max())[used], ((was / was.max()) ** (1 - equality))[used], rtol=0.01, atol=0
        )
        assert 0.3 < now.mean() <= 1.001


def test_gradients_come_from_every_level_of_the_loss():
    model = build(channel_branch=False)
    targets, reconstructions = model.train()(IMAGES)
    assert UniASLoss()(targets, targets).item() == pytest.approx(0, abs=1e-5)
    flattened = UniASLoss(flatten_cosine=True)(targets, reconstructions)
    assert not torch.isclose(flattened, UniASLoss()(targets, reconstructions))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"backbone": "resnet19"}, BackboneError, "resnet18"),
        ({"levels": (9,)}, BackboneError, r"levels=\[9\]"),
        ({"levels": ()}, BackboneError, "Choose one or more"),
        ({"image_size": (100, 96)}, ValueError, r"divisible by 16.*100x96.*\(96, 96\)"),
        ({"neighbor_mask_size": 7}, ValueError, "leaves nothing to attend to on a grid of 4x6"),
        ({"neighbor_mask_size": 4}, ValueError, "odd"),
        ({"hidden_dim": 30}, ValueError, "divisible by 4"),
        ({"local_block": "cnn"}, ValueError, "'mgg', 'light', 'ungated', 'conv' or 'none'"),
        ({"reconstruction_head": "mlp"}, ValueError, "resize"),
        ({"image_score": "sum"}, ValueError, "image_score must be one of"),
        ({"backbone": "vit_tiny_patch16_224"}, ValueError, "."),
    ],
)
def test_bad_arguments(changes, error, message):
    with pytest.raises(error, match=message):
        build(**changes)


def test_weights_that_cannot_be_downloaded_say_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def no_network(*_args, **_kwargs):
        msg = "no route to host"
        raise OSError(msg)

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", no_network)
    with pytest.raises(BackboneError, match="efficientnet_lite0.*pre_trained=False"):
        build(backbone="tf_efficientnet_b4", pre_trained=True)


def test_neighbor_mask_is_a_window_clipped_at_the_border():
    mask = neighbor_mask(14, 14, 7).view(14, 14, 14, 14)
    assert mask[0, 0].sum() == 16
    assert mask[7, 7].sum() == 49
    assert mask[7, 7, 4:11, 4:11].all()
    assert mask[3, 9, 3, 9]


def test_position_encoding_tells_rows_from_columns():
    encoding = sine_position_encoding(3, 5, 16).view(3, 5, 16)
    assert torch.equal(encoding[1, 0, :8], encoding[1, 4, :8])
    assert torch.equal(encoding[0, 2, 8:], encoding[2, 2, 8:])
    assert encoding.flatten(0, 1).unique(dim=0).shape[0] == 15


def test_gates_do_not_underflow_in_training():
    """Denormal numbers make a training step on a CPU several times slower."""
    gate = MultiGranularityBlock(4, 4).gate
    inputs = torch.linspace(-40, 10, 5001, requires_grad=True)
    output = gate.train()(inputs)
    output.sum().backward()
    smallest = torch.finfo(torch.float32).tiny
    for values in (output.detach(), inputs.grad):
        assert not ((values != 0) & (values.abs() < smallest)).any()
    torch.testing.assert_close(output, torch.nn.functional.gelu(inputs), rtol=0, atol=1e-14)
