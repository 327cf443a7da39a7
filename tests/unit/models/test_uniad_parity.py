"""The reconstruction network of UniAD against tensors recorded from the published one.

Another recording: ``UNIAD_FIXTURE=<file.npz> UNIAD_SEED=<S>``; the weights and the inputs are generated from the seed.
"""

import json
import math
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from anomalib_unias.models.components import score_of_map, sine_position_encoding
from anomalib_unias.models.uniad import UniADModel
from anomalib_unias.models.uniad.loss import UniADLoss
from anomalib_unias.models.uniad.published_checkpoint import transformer_keys
from anomalib_unias.models.uniad.torch_model import align_levels

SHARED = Path(os.environ.get("ANOMALIB_UNIAS_SHARED", Path(__file__).parents[4] / "shared"))
FIXTURE = Path(os.environ.get("UNIAD_FIXTURE", SHARED / "fixtures" / "uniad.npz"))
KEYS = SHARED / "fixtures" / "uniad_keys.json"
SEED = int(os.environ.get("UNIAD_SEED", "1"))

CHANNELS, SIZES = (24, 32, 56, 160), (112, 56, 28, 14)
TOLERANCE = 1e-4

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
        elif key.endswith("_embed.weight"):
            pass
        elif len(shape) == 1:
            values = 1 + 0.1 * values
        else:
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


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FIXTURE, allow_pickle=False) as data:
        return dict(data)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return published_weights()


@pytest.fixture(scope="module")
def model(weights: dict[str, torch.Tensor]) -> UniADModel:
    """With the widths of the published network, which are the default ones."""
    torch.manual_seed(0)
    model = UniADModel(pre_trained=False, dropout=0.0)
    model.transformer.load_state_dict(transformer_keys(weights))
    return model.eval()


@pytest.fixture(scope="module")
def run(model: UniADModel) -> dict:
    """One forward and backward pass without noise and one with it, and every named tensor of the recording."""
    transformer, found = model.transformer, {}

    def keep(name: str):
        return lambda _module, _inputs, output: found.update({name: output.detach().transpose(0, 1)})

    hooks = [
        transformer.input_projection.register_forward_hook(keep("proj")),
        transformer.norm.register_forward_hook(keep("decnorm")),
    ]
    for index, layer in enumerate(transformer.encoder):
        hooks += [layer.self_attention.register_forward_hook(keep(f"enc{index}_n1"))]
        hooks += [layer.register_forward_hook(keep(f"enc{index}"))]
    for index, layer in enumerate(transformer.decoder):
        hooks += [layer.memory_attention.register_forward_hook(keep(f"dec{index}_n1"))]
        hooks += [layer.output_attention.register_forward_hook(keep(f"dec{index}_n2"))]
        hooks += [layer.register_forward_hook(keep(f"dec{index}"))]
    target = align_levels(raw_features())
    clean = reconstruct(model, target)
    for hook in hooks:
        hook.remove()
    return {
        "tensors": found
        | {"align": target, "rec": clean["rec"], "pred14": clean["pred14"], "pred": clean["pred"]}
        | {"pos": transformer.position().detach(), "pos_sine": sine_position_encoding(14, 14, 256)},
        "clean": clean,
    }


@pytest.fixture(scope="module")
def noisy(model: UniADModel) -> dict:
    """The same in training mode, with the recorded noise for the one that is drawn."""
    noise = generator("jitter.noise").standard_normal((196, 2, 272)).astype(np.float32)
    as_grid = torch.from_numpy(noise).permute(1, 2, 0).reshape(2, 272, 14, 14)
    target = align_levels(raw_features())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda _level: as_grid)
        model.train()
        (jittered,) = model.jitter([target])
        found = reconstruct(model, target)
        model.eval()
    tensors = {"jit": jittered.flatten(2).permute(2, 0, 1), "rec_jit": found["rec"], "pred14_jit": found["pred14"]}
    return found | {"tensors": tensors}


def reconstruct(model: UniADModel, features: torch.Tensor) -> dict:
    target, reconstruction = model.reconstruct([features])
    loss = UniADLoss()(target, reconstruction)
    parameters = dict(model.transformer.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    with torch.no_grad():
        return {
            "rec": reconstruction.detach(),
            "pred14": (reconstruction - target).square().sum(dim=1, keepdim=True).sqrt(),
            "pred": model.anomaly_map(target, reconstruction),
            "loss": loss.item(),
            "gradients": dict(zip(parameters, gradients, strict=True)),
        }


def test_generated_set_is_the_recorded_one(recorded, weights):
    sums = [float(weights[key].double().sum()) for key in sorted(weights)]
    np.testing.assert_allclose(sums, recorded["wsum"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose([float(v.double().sum()) for v in raw_features()], recorded["insum"], rtol=1e-6)


LAYERS = [
    f"{part}{i}{norm}"
    for part, norms in (("enc", ("_n1", "")), ("dec", ("_n1", "_n2", "")))
    for i in range(4)
    for norm in norms
]


def assert_recorded(recorded, name, tensor):
    assert list(tensor.shape) == recorded[f"{name}.shape"].tolist()
    values, std = tensor.double().flatten().numpy(), float(recorded[f"{name}.std"])
    assert np.abs(values[recorded[f"{name}.idx"]] - recorded[f"{name}.val"]).max() <= TOLERANCE * std
    for statistic in ("mean", "std", "min", "max"):
        assert abs(getattr(values, statistic)() - float(recorded[f"{name}.{statistic}"])) <= TOLERANCE * std


@pytest.mark.parametrize("name", ["align", "pos", "pos_sine", "proj", *LAYERS, "decnorm", "rec", "pred14", "pred"])
def test_tensor(recorded, run, name):
    assert_recorded(recorded, name, run["tensors"][name])


@pytest.mark.parametrize("name", ["jit", "rec_jit", "pred14_jit"])
def test_tensor_with_noise(recorded, noisy, name):
    assert_recorded(recorded, name, noisy["tensors"][name].detach())


def test_whole_map(recorded, run):
    tolerance = TOLERANCE * float(recorded["pred.std"])
    np.testing.assert_allclose(run["tensors"]["pred14"], recorded["pred14_full"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(run["tensors"]["pred"][:, :, 1::4, 1::4], recorded["pred_s4"], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("kind", "name"), [("pooled", "avgpool16_max"), ("max", "max"), ("mean", "mean"), ("std", "std")]
)
def test_image_score(recorded, run, kind, name):
    scores = score_of_map(run["tensors"]["pred"], kind)
    np.testing.assert_allclose(scores, recorded[f"score_{name}"], rtol=0, atol=TOLERANCE * float(recorded["pred.std"]))


def test_loss(recorded, run, noisy):
    assert run["clean"]["loss"] == pytest.approx(float(recorded["loss"]), rel=1e-5)
    assert noisy["loss"] == pytest.approx(float(recorded["loss_jit"]), rel=1e-5)


@pytest.mark.parametrize("kind", ["", "_jit"])
def test_gradients(recorded, run, noisy, weights, kind):
    gradients = (noisy if kind else run["clean"])["gradients"]
    names = [next(iter(transformer_keys({key: weights[key]}))) for key in sorted(weights)]
    assert sorted(names) == sorted(gradients)
    norms = [float(gradients[name].double().norm()) for name in names]
    np.testing.assert_allclose(norms, recorded[f"grad_norm{kind}"], rtol=1e-4, atol=1e-9)


def test_neighbours_of_a_query(recorded, model):
    np.testing.assert_array_equal(model.transformer.mask.sum(dim=1), recorded["mask_forbidden_per_query"])
