"""Checkpoints of the published code: renaming, the backbone, the command, and what is refused."""

from itertools import product

import pytest
import torch
from timm.models import create_model

from anomalib_unias import cli
from anomalib_unias.models.unias import UniAS, UniASModel
from anomalib_unias.models.unias.published_checkpoint import (
    _COMPILED,
    PublishedCheckpointError,
    convert_published_checkpoint,
    decoder_keys,
    load_published_checkpoint,
)

TRUNK = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
FIRST = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
OTHER = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}
TENSORS = ("weight", "bias", "in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
DEPTHS = (2, 4, 4, 6, 6, 8, 2)


def lukemelas(key: str) -> str:
    """The inverse of the renaming, written independently of it."""
    parts = key.split(".")
    if parts[0] != "blocks":
        return ".".join([TRUNK[parts[0]], *parts[1:]])
    stage, block = int(parts[1]), int(parts[2])
    rest = parts[3:]
    if rest[0] == "se":
        rest = [{"conv_reduce": "_se_reduce", "conv_expand": "_se_expand"}[rest[1]], *rest[2:]]
    else:
        rest = [(FIRST if stage == 0 else OTHER)[rest[0]], *rest[1:]]
    return ".".join(["_blocks", str(sum(DEPTHS[:stage]) + block), *rest])


@pytest.fixture(scope="module")
def model() -> UniASModel:
    torch.manual_seed(0)
    return UniASModel(pre_trained=False, feature_scaling="none").eval()


@pytest.fixture(scope="module")
def published(model) -> dict[str, torch.Tensor]:
    """What the published code would have saved for this model."""
    names = []
    for pattern, digits in product(_COMPILED, product("0123", repeat=2)):
        template = pattern.replace("<c>", digits[1])
        for placeholder in ("<n>", "<s>", "<i>"):
            template = template.replace(placeholder, digits[0])
        for branch in ("0", "1", "2.0", "2.1", "3.0", "3.1", "3.2") if "<b>" in template else ("",):
            base = f"sem_seg_head.{template.replace('<b>', branch)}"
            for middle, tensor in product(("", "linear1.", "linear2.", "norm."), TENSORS):
                names.append(f"{base}.{middle}{tensor}")
    state = model.decoder.state_dict()
    result = {}
    for name in names:
        try:
            (own,) = decoder_keys({name: torch.zeros(1)})
        except PublishedCheckpointError:
            continue
        if own in state:
            result.setdefault(own, name)
    published = {name: state[own] for own, name in result.items()}
    published["sem_seg_head.predictor.spatial_query_feat.weight"] = state["query.queries"]
    published["sem_seg_head.predictor.spatial_query_embed.weight"] = state["query_position"]
    levels = [state[f"steps.{i}.patch_embedding.level"] for i in (3, 2, 1, 0)]
    published["sem_seg_head.predictor.level_embed_src.weight"] = torch.stack(levels)
    return published


@pytest.fixture(scope="module")
def backbone() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    network = create_model("tf_efficientnet_b4")
    return {f"backbone.{lukemelas(key)}": tensor for key, tensor in network.state_dict().items()}


@pytest.fixture
def file(tmp_path, published, backbone):
    def write(state: dict | None = None):
        path = tmp_path / "published.pth"
        torch.save({"state_dict": {**published, **backbone} if state is None else state}, path)
        return path

    return write


def test_every_parameter_has_a_published_name(published, model):
    assert len(published) == 324
    assert decoder_keys(published).keys() == model.decoder.state_dict().keys()


def test_converted_model_is_the_same(file, model, backbone):
    torch.manual_seed(5)
    other = UniASModel(pre_trained=False, feature_scaling="none").eval()
    load_published_checkpoint(other, file())
    for key, tensor in model.decoder.state_dict().items():
        assert torch.equal(tensor, other.decoder.state_dict()[key]), key
    stem = other.backbone.network.conv_stem.weight
    assert torch.equal(stem, backbone["backbone._conv_stem.weight"])
    last = other.backbone.network.blocks[4][5].bn3.weight
    assert torch.equal(last, backbone["backbone._blocks.21._bn2.weight"])


def test_unused_tail_is_left_out(file):
    assert not any(".blocks.5." in key or "conv_head" in key for key in convert_published_checkpoint(file()))


def test_without_a_backbone_the_own_one_stays(file, published):
    other = UniASModel(pre_trained=False, feature_scaling="none")
    before = other.backbone.network.conv_stem.weight.clone()
    load_published_checkpoint(other, file(published))
    assert torch.equal(other.backbone.network.conv_stem.weight, before)


def test_command_writes_a_checkpoint_that_opens(file, model, tmp_path, monkeypatch):
    output = tmp_path / "unias.ckpt"
    monkeypatch.setattr("sys.argv", ["anomalib-unias", "convert", str(file()), str(output)])
    cli.main()
    loaded = UniAS.load_from_checkpoint(output).eval()
    for key, tensor in model.decoder.state_dict().items():
        assert torch.equal(tensor, loaded.model.decoder.state_dict()[key]), key


def test_unknown_and_missing_names_are_listed(file, published, backbone):
    with pytest.raises(PublishedCheckpointError, match="extra.weight"):
        convert_published_checkpoint(file({**published, "extra.weight": torch.zeros(1)}))
    with pytest.raises(PublishedCheckpointError, match="sem_seg_head.predictor.mystery"):
        convert_published_checkpoint(file({**published, "sem_seg_head.predictor.mystery": torch.zeros(1)}))
    with pytest.raises(PublishedCheckpointError, match="_blocks.99"):
        convert_published_checkpoint(file({**published, "backbone._blocks.99._bn0.weight": torch.zeros(1)}))
    with pytest.raises(PublishedCheckpointError, match="no decoder"):
        convert_published_checkpoint(file(backbone))
    part = dict(published)
    part.pop("sem_seg_head.predictor.decoder_norm.weight")
    part["sem_seg_head.predictor.decoder_norm.bias"] = torch.zeros(7)
    with pytest.raises(
        PublishedCheckpointError, match=r"missing: decoder.norm.weight; of another shape: decoder.norm.bias"
    ):
        load_published_checkpoint(UniASModel(pre_trained=False, feature_scaling="none"), file(part))
