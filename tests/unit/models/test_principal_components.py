"""Start from principal components, and weights of levels."""

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine

from anomalib_unias import UniAD, UniAS
from anomalib_unias.models.unias.anomaly_map import AnomalyMapGenerator
from anomalib_unias.models.unias.components.principal_components import start_from_principal_components


@pytest.fixture
def arguments(tiny_arguments):
    return tiny_arguments | {"pixel_decoder_fusion": False, "reconstruction_head": "transposed"}


def test_embeddings_whiten_and_heads_draw(arguments):
    torch.manual_seed(0)
    model = UniAS(**arguments).model
    features = model.backbone(torch.randn(8, 3, 64, 96))
    model.scaler.fit([feature.square().mean((0, 2, 3)) for feature in features])
    inputs, targets = model.decoder_inputs(features)
    start_from_principal_components(model.decoder, inputs, targets)
    step, head = model.decoder.steps[0], model.decoder.heads[0]
    tokens = step.patch_embedding.embedding(inputs[0]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(tokens.mean(1), torch.zeros(len(tokens)), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cov(tokens), torch.eye(len(tokens)), atol=0.05, rtol=0)

    # The hidden channels of a head are orthogonal directions, sorted by how much of the level they explain.
    directions = head.weight.detach().flatten(1)
    lengths = directions.norm(dim=1)
    torch.testing.assert_close(directions @ directions.mT, torch.diag(lengths**2), atol=1e-3, rtol=1e-3)
    assert (lengths.diff() <= 1e-4).all()
    torch.testing.assert_close(head.bias.detach(), targets[0].mean((0, 2, 3)))


def test_projections_of_uniad_are_the_best_linear_autoencoder(tiny):
    torch.manual_seed(0)
    model = UniAD(**tiny(UniAD)).model
    (features,) = model.extract(torch.randn(16, 3, 64, 96))
    transformer = model.transformer
    transformer.start_from_principal_components(features)
    positions = features.flatten(2).mT.flatten(0, 1)
    tokens = transformer.input_projection(positions).detach()
    torch.testing.assert_close(tokens.mean(0), torch.zeros(tokens.shape[1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cov(tokens.T), torch.eye(tokens.shape[1]), atol=0.05, rtol=0)

    # One unit of the last token is 0.3 standard deviations. The components are found by a randomised method.
    restored = transformer.output_projection(tokens / 0.3).detach()
    spectrum = torch.linalg.svdvals(positions - positions.mean(0)).square()
    lost = spectrum[tokens.shape[1] :].sum()
    assert float((restored - positions).square().sum()) == pytest.approx(float(lost), rel=0.05)


@pytest.mark.parametrize("model", [UniAS, UniAD])
def test_it_is_done_once_and_the_same_with_and_without_stored_features(
    tmp_path, model, tiny, arguments, write_category, monkeypatch
):
    arguments, layer = {
        UniAS: (arguments, "decoder.heads.0"),
        UniAD: (tiny(UniAD), "transformer.input_projection"),
    }[model]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = write_category(tmp_path / "data")
    weights = []
    for cache in ("off", "memory"):
        torch.manual_seed(0)
        start = {"principal_component_start": True, "feature_cache": cache, "learning_rate": 0.0}
        detector = model(**{**arguments, **start})
        datamodule = MVTecAD(data, "plate", num_workers=0, train_batch_size=4, seed=0)
        Engine(max_steps=4, default_root_dir=tmp_path, logger=False).fit(detector, datamodule=datamodule)
        weights.append(detector.model.get_submodule(layer).weight.detach().flatten(1))
    # Directions of equal strength are free to turn; what they span is not.
    spans = [weight.mT @ weight for weight in weights]
    torch.testing.assert_close(*spans, rtol=0.02, atol=0.02 * float(spans[0].abs().max()))


def test_weights_of_levels_are_exponents():
    targets = [torch.randn(2, 5, 8, 8), torch.randn(2, 5, 4, 4)]
    reconstructions = [torch.randn_like(target) for target in targets]
    plain = AnomalyMapGenerator([2, 1], (16, 16))
    deep, shallow = (AnomalyMapGenerator([2, 1], (16, 16), weights=weights) for weights in ((0, 2), (1, 0)))
    maps = plain.level_maps(targets, reconstructions)
    both = AnomalyMapGenerator([2, 1], (16, 16), weights=(1, 2))(targets, reconstructions)
    resize = {"size": (16, 16), "mode": "bilinear", "align_corners": True}
    torch.testing.assert_close(both, torch.nn.functional.interpolate(maps[0] * maps[1] ** 2, **resize))
    torch.testing.assert_close(deep(targets, reconstructions), torch.nn.functional.interpolate(maps[1] ** 2, **resize))
    torch.testing.assert_close(shallow(targets, reconstructions), torch.nn.functional.interpolate(maps[0], **resize))


@pytest.mark.parametrize("weights", [(1, 1), (1, -1, 1), ()])
def test_wrong_weights_are_named(tiny_arguments, weights):
    with pytest.raises(ValueError, match="level_weights must be"):
        UniAS(**tiny_arguments, levels=[1, 2, 3], level_weights=weights)
