"""The decoder against tensors recorded from the published one.

Another recording: ``UNIAS_DECODER_FIXTURE=<file.npz> UNIAS_DECODER_SEED=<S>``; the weights and the inputs
are generated from the seed.
"""

import json
import math
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from anomalib_unias.models.unias.anomaly_map import AnomalyMapGenerator
from anomalib_unias.models.unias.components import FeatureFilter, UniASDecoder
from anomalib_unias.models.unias.loss import UniASLoss, reconstruction_errors
from anomalib_unias.models.unias.published_checkpoint import decoder_keys

SHARED = Path(os.environ.get("ANOMALIB_UNIAS_SHARED", Path(__file__).parents[4] / "shared"))
FIXTURE = Path(os.environ.get("UNIAS_DECODER_FIXTURE", SHARED / "fixtures" / "unias_decoder.npz"))
KEYS = SHARED / "fixtures" / "unias_decoder_keys.json"
SEED = int(os.environ.get("UNIAS_DECODER_SEED", "1"))

CHANNELS, SIZES, PATCHES = (24, 32, 56, 160), (112, 56, 28, 14), (8, 4, 2, 1)
TOLERANCE = 2e-4

pytestmark = pytest.mark.skipif(
    not (FIXTURE.is_file() and KEYS.is_file()), reason=f"recorded tensors not found: {FIXTURE}, {KEYS}"
)


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode("utf-8")) + SEED)


def published_weights() -> dict[str, torch.Tensor]:
    weights = {}
    for key, shape in json.loads(KEYS.read_text()).items():
        values = generator(key).standard_normal(shape)
        if key.endswith("bias"):
            values = 0.05 * values
        elif len(shape) == 1:
            values = 1 + 0.1 * values
        elif not key.endswith(("spatial_query_feat.weight", "spatial_query_embed.weight", "level_embed_src.weight")):
            values = values / math.sqrt(math.prod(shape[1:]))
        weights[key] = torch.from_numpy(values.astype(np.float32))
    return weights


def raw_features() -> list[torch.Tensor]:
    levels = []
    for index, (channels, size) in enumerate(zip(CHANNELS, SIZES, strict=True), start=1):
        rng = generator(f"input.res{index}")
        white = rng.standard_normal((2, channels, size, size))
        coarse = rng.standard_normal((2, channels, 7, 7)).repeat(size // 7, axis=2).repeat(size // 7, axis=3)
        offset = rng.standard_normal((1, channels, 1, 1))
        levels.append(torch.from_numpy((0.5 * white + coarse + 0.5 * offset).astype(np.float32)))
    return levels


def build_decoder() -> UniASDecoder:
    decoder = UniASDecoder(
        channels=CHANNELS,
        patch_sizes=PATCHES,
        reconstructed=(True,) * 4,
        grid=(14, 14),
        hidden_dim=256,
        num_heads=4,
        feedforward_dim=2048,
        encoder_layers=3,
        pixel_decoder_fusion=True,
        dropout=0.1,
        sample_aware_query=True,
        local_block="mgg",
        channel_branch=True,
        neighbor_mask_size=7,
        reconstruction_head="resize",
    )
    return decoder.eval()


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FIXTURE, allow_pickle=False) as data:
        return dict(data)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return published_weights()


@pytest.fixture(scope="module")
def run(weights: dict[str, torch.Tensor]) -> dict:
    """One forward and backward pass with every named tensor of the recording."""
    torch.manual_seed(0)
    decoder = build_decoder()
    decoder.load_state_dict(decoder_keys(weights))
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, sequence_first: bool = False):
        def hook(_module, _inputs, output):
            found[name] = (output.transpose(0, 1) if sequence_first else output).detach()

        return hook

    decoder.query.register_forward_hook(keep("query", sequence_first=True))
    for i, step in enumerate(reversed(decoder.steps)):
        step.patch_embedding.register_forward_hook(keep(f"src{i}", sequence_first=True))
        step.attention.register_forward_hook(keep(f"block{i}", sequence_first=True))
        step.local.register_forward_hook(keep(f"mgg{i}"))
    decoder.pixel_decoder.register_forward_hook(
        lambda _m, _i, out: found.update({f"fpn{i}": t.detach() for i, t in enumerate(reversed(out))})
    )

    inputs, targets = FeatureFilter(CHANNELS)(raw_features())
    reconstructions = decoder(inputs)
    maps = AnomalyMapGenerator(PATCHES, (224, 224))
    with torch.no_grad():
        for i, level_map in enumerate(reversed(maps.level_maps(targets, reconstructions))):
            found[f"amap{i}"] = level_map.squeeze(1)
        found["pred"] = maps(targets, reconstructions)
        found["product_full"] = torch.stack([found[f"amap{i}"] for i in range(4)]).prod(0).unsqueeze(1)
        for i, (target, reconstruction) in enumerate(zip(reversed(targets), reversed(reconstructions), strict=True)):
            found[f"recon{i}"] = reconstruction.detach()
            found[f"amapraw{i}"] = 1 - torch.cosine_similarity(target, reconstruction, dim=1)

    errors = [reconstruction_errors(t, r) for t, r in zip(reversed(targets), reversed(reconstructions), strict=True)]
    squared, distances = (torch.stack(terms) for terms in zip(*errors, strict=True))
    parameters = dict(decoder.named_parameters())
    gradients = {
        "mse": torch.autograd.grad(squared.sum(), list(parameters.values()), retain_graph=True, allow_unused=True),
        "cos": torch.autograd.grad((1 - distances).sum(), list(parameters.values()), retain_graph=True),
    }
    return {
        "tensors": found,
        "mse": squared.detach(),
        "distance": distances.detach(),
        "loss": UniASLoss()(targets, reconstructions).item(),
        "gradients": {kind: dict(zip(parameters, values, strict=True)) for kind, values in gradients.items()},
    }


def test_generated_set_is_the_recorded_one(recorded, weights):
    sums = [float(weights[key].double().sum()) for key in sorted(weights)]
    np.testing.assert_allclose(sums, recorded["wsum_first"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose([float(v.double().sum()) for v in raw_features()], recorded["insum"], rtol=1e-6)


NAMES = [f"{part}{i}" for part in ("fpn", "src", "block", "mgg", "recon", "amapraw", "amap") for i in range(4)]


@pytest.mark.parametrize("name", ["query", *NAMES, "pred"])
def test_tensor(recorded, run, name):
    tensor = run["tensors"][name].double()
    assert list(tensor.shape) == recorded[f"{name}.shape"].tolist()
    std = float(recorded[f"{name}.std"])
    values = tensor.flatten().numpy()
    difference = np.abs(values[recorded[f"{name}.idx"]] - recorded[f"{name}.val"]).max()
    assert difference <= TOLERANCE * std
    for statistic, value in (("mean", values.mean()), ("std", values.std())):
        assert abs(value - float(recorded[f"{name}.{statistic}"])) <= TOLERANCE * std
    for statistic, value in (("min", values.min()), ("max", values.max())):
        assert abs(value - float(recorded[f"{name}.{statistic}"])) <= TOLERANCE * std


def test_whole_product_and_prediction(recorded, run):
    prediction = run["tensors"]["pred"]
    std = float(recorded["pred.std"])
    assert np.abs(run["tensors"]["product_full"].numpy() - recorded["product_full"]).max() <= TOLERANCE * std
    assert np.abs(prediction[:, :, 1::4, 1::4].numpy() - recorded["pred_s4"]).max() <= TOLERANCE * std
    np.testing.assert_allclose(prediction.amax(dim=(1, 2, 3)), recorded["pred_max"], atol=TOLERANCE * std)
    np.testing.assert_allclose(
        prediction.double().std(dim=(1, 2, 3), correction=0), recorded["pred_std"], rtol=1e-2, atol=TOLERANCE * std
    )


def test_loss_terms(recorded, run):
    np.testing.assert_allclose(run["mse"], recorded["mse"], rtol=1e-5)
    np.testing.assert_allclose(1 - run["distance"], recorded["cos"], atol=1e-5)
    assert 10 * run["loss"] == pytest.approx(float(recorded["loss_cosdist_w10"]), rel=1e-5)
    published = 10 * float(run["mse"].sum() + (1 - run["distance"]).sum())
    assert published == pytest.approx(float(recorded["loss_official_w10"]), rel=1e-5)


def test_gradients(recorded, run, weights):
    own_names = {key: list(decoder_keys({key: weights[key]})) for key in sorted(weights)}
    gradients = run["gradients"]
    for index, (key, names) in enumerate(own_names.items()):
        mse, cos = (torch.cat([gradients[kind][name].flatten() for name in names]).double() for kind in ("mse", "cos"))
        norms = [float(recorded[f"grad_{kind}_norm"][index]) for kind in ("mse", "cos")]
        # Both runs are float32: a single bias, a sum that nearly cancels, is off by some 1e-6 (median norm: 5e-2).
        assert float(mse.norm()) == pytest.approx(norms[0], rel=1e-3, abs=2e-5), key
        assert float(cos.norm()) == pytest.approx(norms[1], rel=1e-3, abs=2e-5), key
        # What these deviations of both factors allow.
        deviation = 2e-3 * norms[0] * norms[1] + 2e-5 * sum(norms) + 1e-9
        assert float(mse @ cos) == pytest.approx(float(recorded["grad_mse_dot_cos"][index]), abs=deviation), key
