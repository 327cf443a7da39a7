"""ReContrastModel: its networks, its two pairs, its modes and what it refuses."""

import pytest
import torch

from anomalib_unias.models.recontrast import ReContrastModel
from anomalib_unias.models.recontrast.loss import ReContrastLoss
from anomalib_unias.models.recontrast.network import FusionBottleneck, Heads, MirroredDecoder

SMALL = {
    "image_size": (64, 96),
    "backbone": "resnet18",
    "pre_trained": False,
    "widths": (8, 12, 16, 20),
    "block": "basic",
    "block_width": 64,
    "bottleneck_blocks": 1,
    "decoder_blocks": (1, 1, 1),
}
IMAGES = torch.randn(4, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def build(**changes) -> ReContrastModel:
    torch.manual_seed(0)
    return ReContrastModel(**{**SMALL, **changes})


def test_published_number_of_parameters():
    """Between the encoders of a WideResNet-50-2, without the convolution that the published code never uses."""
    channels, widths = (256, 512, 1024), (256, 512, 1024, 2048)
    with torch.device("meta"):
        parts = [
            FusionBottleneck(channels, widths, "bottleneck", 128, 3),
            MirroredDecoder(widths, "bottleneck", 128, (3, 4, 6), "relu"),
            Heads(widths[:-1], channels),
            Heads(widths[:-1], channels),
        ]
    assert sum(parameter.numel() for part in parts for parameter in part.parameters()) == 86_558_720


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"block": "bottleneck", "block_width": 128, "widths": (8, 8, 16, 16), "decoder_blocks": (1, 2, 1)},
        {"widths": None, "decoder_activation": "gelu"},
        {"encoder_bn_train": True, "image_score": "top"},
        {"backbone": "tf_efficientnet_lite0_pypi", "sigma": 0.0},
    ],
    ids=str,
)
def test_every_option_trains_and_predicts(changes):
    model = build(**changes).train()
    targets, reconstructions = model(IMAGES)
    assert [[t.shape for t in pair] for pair in targets] == [[r.shape for r in pair] for pair in reconstructions]
    loss = ReContrastLoss()(targets, reconstructions, -3.0)
    loss.backward()
    assert 1 < loss < 6
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not [name for name, p in model.frozen_encoder.named_parameters() if p.requires_grad]
    with torch.no_grad():
        prediction = model.eval()(IMAGES)
    assert prediction.anomaly_map.shape == (4, 1, 64, 96)
    assert prediction.pred_score.shape == (4,)
    assert 0 <= prediction.anomaly_map.min() <= prediction.anomaly_map.max() <= 12


def test_the_encoders_begin_alike_and_one_stays():
    model = build().train()
    (frozen, trained), _ = model(IMAGES)
    assert all(torch.equal(*level) for level in zip(frozen, trained, strict=True))
    before = {name: tensor.clone() for name, tensor in model.frozen_encoder.state_dict().items()}
    ReContrastLoss()(*model(IMAGES)).backward()
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3).step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.frozen_encoder.state_dict().items())
    (frozen, trained), _ = model(IMAGES)
    assert not any(torch.equal(*level) for level in zip(frozen, trained, strict=True))


@pytest.mark.parametrize("train", [False, True])
def test_normalisation_of_the_trained_encoder(train):
    model = build(encoder_bn_train=train).train()
    buffers = {name: tensor.clone() for name, tensor in model.trained_encoder.named_buffers()}
    model(IMAGES)
    changed = any(not torch.equal(tensor, buffers[name]) for name, tensor in model.trained_encoder.named_buffers())
    assert changed is train
    assert not model.frozen_encoder.network.training


def encoder_gradient(model: ReContrastModel, pair: int) -> float:
    targets, reconstructions = model.reconstruct(IMAGES)
    loss = ReContrastLoss()([targets[pair]], [reconstructions[pair]])
    parameters = list(model.trained_encoder.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return sum(float(gradient.norm()) for gradient in found if gradient is not None)


def test_statistics_of_the_batch_couple_the_pairs():
    """Two passes, one for each encoder, would not teach the trained one by the pair whose input is frozen."""
    model = build()
    assert encoder_gradient(model.train(), pair=1) > 1e-3
    model.eval()
    assert encoder_gradient(model, pair=0) > 1e-3
    assert encoder_gradient(model, pair=1) == 0


def test_each_pair_has_its_head_and_its_input():
    model = build().eval()
    with torch.no_grad():
        _, reference = model.reconstruct(IMAGES)
        model.frozen_heads.levels[0].weight.mul_(2)
        _, found = model.reconstruct(IMAGES)
    assert not torch.equal(found[0][0], reference[0][0])
    assert torch.equal(found[1][0], reference[1][0])
    with torch.no_grad():
        next(model.trained_encoder.parameters()).mul_(2)
        (frozen, _), changed = model.reconstruct(IMAGES)
    assert torch.equal(changed[1][0], reference[1][0]), (
        "reconstructions of the trained encoder come from the frozen one"
    )
    assert not torch.equal(changed[0][0], found[0][0])
    assert torch.equal(frozen[0], model.frozen_encoder(IMAGES)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (64, 80)}, "divisible by 32"),
        ({"levels": (1, 2, 3)}, "strides \\(4, 8, 16\\)"),
        ({"widths": (8, 8, 8)}, "four multiples"),
        ({"block": "dense"}, "block must be"),
        ({"block_width": 128}, "64 with block='basic'"),
        ({"decoder_activation": "tanh"}, "decoder_activation must be"),
        ({"image_score": "sum"}, "image_score must be"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)
