"""UniAS in anomalib's Engine: length of a run, resuming, checkpoints and what it refuses."""

import logging

import pytest
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_unias import CadaPostProcessor
from anomalib_unias.backbones import backbone_statistics
from anomalib_unias.models.components import ArchitectureMismatchError
from anomalib_unias.models.unias import UniAS, UniASLite
from anomalib_unias.post_processing import MissingCalibrationError


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_category):
    return write_category(tmp_path_factory.mktemp("data"))


@pytest.fixture
def data(root):
    return datamodule(root)


def datamodule(root) -> MVTecAD:
    return MVTecAD(root=root, category="plate", train_batch_size=2, eval_batch_size=4, num_workers=0)


@pytest.fixture(scope="module")
def build(tiny):
    """Models with few operations, which take most of the time."""

    def build(**changes) -> UniAS:
        torch.manual_seed(3)
        return UniAS(**{**tiny(UniAS), "levels": [2, 3], "visualizer": False, **changes})

    return build


def engine(tmp_path, **arguments) -> Engine:
    return Engine(
        default_root_dir=tmp_path / "results",
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def trained_state(model: UniAS) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items() if key.startswith("model.")}


def assert_same_state(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [key for key in first if not torch.equal(first[key], second[key])]
    assert not different


def settings(trainer) -> tuple:
    return trainer.max_epochs, trainer.max_steps, trainer.val_check_interval, trainer.check_val_every_n_epoch


def settings_of_a_run(tmp_path, model, data, **arguments) -> tuple:
    """Limits of epochs and steps, and both intervals of validation, when training begins."""
    seen = []

    class AtTheStart(Callback):
        def on_train_start(self, trainer, _module):
            seen.append(settings(trainer))
            trainer.should_stop = True

    engine(tmp_path, callbacks=[AtTheStart()], **arguments).fit(model, datamodule=data)
    return seen[0]


class TestLengthOfARun:
    def test_without_a_limit_it_ends_after_the_default(self, tmp_path, build, data):
        run = engine(tmp_path)
        run.fit(build(), datamodule=data)
        assert run.trainer.global_step == 4

    @pytest.mark.parametrize(
        ("arguments", "steps"), [({"max_epochs": 2}, 6), ({"max_steps": 5}, 5), ({"max_epochs": 1, "max_steps": 2}, 2)]
    )
    def test_the_user_wins(self, tmp_path, build, data, arguments, steps):
        run = engine(tmp_path, **arguments)
        run.fit(build(), datamodule=data)
        assert run.trainer.global_step == steps

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            # What Lightning sets if nothing is given, and what the paper trains for.
            ({"max_epochs": 1000}, (1000, -1)),
            ({"max_epochs": -1, "max_steps": 9}, (-1, 9)),
            ({"max_time": "00:00:00:30"}, (-1, -1)),
            # As the command line passes them.
            ({"max_epochs": None, "max_steps": -1, "max_time": None}, (-1, 4)),
        ],
    )
    def test_which_limit_holds(self, tmp_path, build, data, arguments, expected):
        assert settings_of_a_run(tmp_path, build(), data, **arguments)[:2] == expected

    def test_lightning_says_nothing_of_a_thousand_epochs(self, tmp_path, build, data, recwarn):
        settings_of_a_run(tmp_path, build(), data)
        assert not [warning for warning in recwarn if "1000 epochs" in str(warning.message)]

    @pytest.mark.parametrize("steps", [None, 0, 1.5])
    def test_a_length_that_is_none_is_an_error(self, tmp_path, build, data, steps):
        with pytest.raises(ValueError, match=f"training_steps must be a whole number from 1, got {steps}"):
            engine(tmp_path).fit(build(training_steps=steps), datamodule=data)

    def test_a_second_model_of_an_engine_has_its_own_length(self, tmp_path, build, data):
        run = engine(tmp_path)
        steps, paths = [], []
        for length in (4, 4, 6):
            run.fit(build(training_steps=length), datamodule=data)
            steps.append(run.trainer.global_step)
            paths.append(run.best_model_path)
        assert steps == [4, 4, 6]
        assert [torch.load(path, weights_only=True)["global_step"] for path in paths] == [4, 4, 6]

    @pytest.mark.parametrize("failure", [None, ValueError])
    def test_the_trainer_gets_its_limits_back(self, tmp_path, build, data, failure):
        class Failing(Callback):
            def on_train_batch_start(self, *_):
                if failure is not None:
                    raise failure

        run = engine(tmp_path, callbacks=[Failing()])
        try:
            run.fit(build(), datamodule=data)
        except ValueError:
            assert failure is not None
        assert settings(run.trainer) == (None, -1, 1.0, 1)

    @pytest.mark.parametrize(
        "arguments",
        [{}, {"max_steps": 5}, {"max_steps": 3, "accumulate_grad_batches": 2}, {"max_steps": 2, "max_epochs": 9}],
    )
    def test_steps_end_with_a_validation_and_a_checkpoint(self, tmp_path, build, data, arguments):
        """Three batches an epoch: the runs end in the middle of one."""
        validated = []

        class Validated(Callback):
            def on_validation_end(self, trainer, _module):
                validated.append(trainer.global_step)

        run = engine(tmp_path, callbacks=[Validated()], **arguments)
        model = build()
        run.fit(model, datamodule=data)
        steps = arguments.get("max_steps", 4)
        assert validated == [steps]
        saved = torch.load(run.trainer.checkpoint_callback.best_model_path, weights_only=True)
        assert saved["global_step"] == steps
        run.test(model, datamodule=data)

    @pytest.mark.parametrize("limit", [{}, {"limit_val_batches": 1}, {"limit_val_batches": 0}])
    def test_a_calibrated_run_is_validated_once_after_its_calibration(self, tmp_path, build, data, limit):
        """Three batches an epoch: the run ends in the middle of one."""
        calibrated, saved = [], []

        class Validated(Callback):
            def on_validation_batch_end(self, _trainer, module, *_):
                calibrated.append(module.post_processor.calibration is not None)

            def on_save_checkpoint(self, trainer, *_):
                saved.append(trainer.global_step)

        run = engine(tmp_path, callbacks=[Validated()], **limit)
        model = build(post_processor=CadaPostProcessor(held_out_fraction=0.5))
        run.fit(model, datamodule=data)
        assert calibrated == [True] * min(len(data.val_dataloader()), limit.get("limit_val_batches", 99))
        assert run.trainer.limit_val_batches == limit.get("limit_val_batches", 1.0)
        assert saved[-1] == 4
        assert torch.load(run.best_model_path, weights_only=True)["anomalib_post_processor_config"]["calibration"]

    @pytest.mark.parametrize("arguments", [{"max_epochs": 1}, {"max_steps": 2, "val_check_interval": 1}])
    def test_a_calibrated_run_is_validated_as_the_user_says(self, tmp_path, build, data, arguments):
        validated = []

        class Validated(Callback):
            def on_validation_end(self, _trainer, module):
                validated.append(module.post_processor.calibration is not None)

        model = build(post_processor=CadaPostProcessor(held_out_fraction=0.5))
        engine(tmp_path, callbacks=[Validated()], **arguments).fit(model, datamodule=data)
        assert validated == [False] * arguments.get("max_steps", 1) + [True]

    @pytest.mark.parametrize("arguments", [{"val_check_interval": 2}, {"check_val_every_n_epoch": 2}])
    def test_validation_as_the_user_says(self, tmp_path, build, data, arguments):
        given = (arguments.get("val_check_interval", 1.0), arguments.get("check_val_every_n_epoch", 1))
        assert settings_of_a_run(tmp_path, build(), data, max_steps=7, **arguments)[2:] == given

    def test_validation_by_time(self, tmp_path, build, data):
        run, model = engine(tmp_path, max_steps=3, val_check_interval="00:01:00:00"), build()
        run.fit(model, datamodule=data)
        assert run.trainer.global_step == 3
        assert model.post_processor.image_threshold.isnan(), "the hour was not over"

    @pytest.mark.parametrize("limit", [{"max_steps": 25}, {}])
    def test_what_monitors_sees_every_tenth_of_the_run(self, tmp_path, build, data, limit):
        never_better = {"monitor": "val_mean_image_auroc", "mode": "max"}
        stopping = EarlyStopping(**never_better, min_delta=10.0, patience=2)
        best = ModelCheckpoint(dirpath=tmp_path, filename="{step}", save_top_k=-1, **never_better)
        run = engine(tmp_path, callbacks=[stopping, best], **limit)
        run.fit(build(training_steps=25), datamodule=data)
        assert sorted(path.stem for path in tmp_path.glob("*.ckpt")) == ["step=3", "step=6", "step=9"]
        assert run.trainer.global_step == 9

    def test_a_monitored_run_is_validated_at_its_end_too(self, tmp_path, build, data):
        best = ModelCheckpoint(
            dirpath=tmp_path, filename="{step}", save_top_k=-1, monitor="val_mean_image_auroc", mode="max"
        )
        engine(tmp_path, callbacks=[best], max_steps=11).fit(build(), datamodule=data)
        assert {path.stem for path in tmp_path.glob("*.ckpt")} == {f"step={step}" for step in (2, 4, 6, 8, 10, 11)}

    def test_schedule_follows_the_length(self, tmp_path, build, data):
        class Rates(Callback):
            def __init__(self):
                self.rates = []

            def on_train_batch_start(self, trainer, *_args):
                self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        rates = Rates()
        engine(tmp_path, max_steps=10, callbacks=[rates]).fit(build(learning_rate=1e-2), datamodule=data)
        assert rates.rates == pytest.approx([1e-2] * 4 + [1e-3] * 4 + [1e-4] * 2)


def _without_init(cls):
    model = cls.__new__(cls)
    torch.nn.Module.__init__(model)
    return model


@pytest.mark.parametrize("at_epoch_end", [False, True])
def test_resumed_run_continues_exactly(tmp_path, build, data, at_epoch_end):
    whole = build()
    torch.manual_seed(7)
    engine(tmp_path / "whole", max_epochs=4).fit(whole, datamodule=data)

    checkpoint = ModelCheckpoint(
        dirpath=tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=at_epoch_end
    )
    # The schedule is as long as the whole run: the first part is stopped, not shortened.
    stopped = build()
    torch.manual_seed(7)
    engine(tmp_path / "first", max_epochs=4, callbacks=[checkpoint, StopAfter(2)]).fit(stopped, datamodule=data)
    resumed = build()
    torch.manual_seed(99)
    engine(tmp_path / "second", max_epochs=4).fit(resumed, datamodule=data, ckpt_path=tmp_path / "epoch=1.ckpt")

    assert_same_state(trained_state(whole), trained_state(resumed))
    assert any(not torch.equal(a, b) for a, b in zip(stopped.parameters(), resumed.parameters(), strict=True))


class StopAfter(Callback):
    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, _module):
        if trainer.current_epoch + 1 == self.epochs:
            trainer.should_stop = True


@pytest.fixture(scope="module")
def checkpoint_path(tmp_path_factory, build, root):
    run = engine(tmp_path_factory.mktemp("checkpoint"))
    run.fit(build(channel_branch=False), datamodule=datamodule(root))
    return run.trainer.checkpoint_callback.best_model_path


def test_checkpoint_rebuilds_model_and_predictions(checkpoint_path):
    loaded = UniAS.load_from_checkpoint(checkpoint_path).eval()
    again = UniAS.load_from_checkpoint(checkpoint_path).eval()
    images = torch.rand(2, 3, 200, 150)
    assert torch.equal(loaded(images).anomaly_map, again(images).anomaly_map)
    assert loaded.model.image_size == (64, 96)
    assert loaded.model.scaler.fitted
    assert loaded.hparams["training_steps"] == 4


def test_scales_are_those_of_the_training_images(checkpoint_path, root):
    """Levels have unit mean square over them; before, they differ by far more."""
    model, data = UniAS.load_from_checkpoint(checkpoint_path).eval(), datamodule(root)
    data.setup()
    images = torch.stack([model.pre_processor(item.image[None])[0] for item in data.train_data])
    features = model.model.backbone(images)
    before = torch.stack([feature.square().mean() for feature in features])
    assert before.max() > 1.5 * before.min()
    for feature in model.model.scaler(features):
        assert feature.square().mean().item() == pytest.approx(1, rel=0.02)


def test_checkpoint_holds_the_backbone_once_and_plain_data(checkpoint_path):
    content = torch.load(checkpoint_path, weights_only=True)
    names = [key for key in content["state_dict"] if key.endswith("layer1.0.conv1.weight")]
    assert names == ["model.backbone.network.layer1.0.conv1.weight"]
    assert not any("kernel" in key for key in content["state_dict"])


def test_checkpoint_opens_at_another_image_size(checkpoint_path):
    larger = UniAS.load_from_checkpoint(checkpoint_path, image_size=(96, 128)).eval()
    assert larger(torch.rand(1, 3, 50, 50)).anomaly_map.shape == (1, 1, 96, 128)
    assert larger.input_size == (96, 128)
    # What is learned per position keeps its place.
    small = UniAS.load_from_checkpoint(checkpoint_path)
    tables = [m.model.decoder.query_position.view(*m.model.decoder.grid, -1) for m in (small, larger)]
    middle = [table[table.shape[0] // 2 - 1 :, table.shape[1] // 2 - 1 :][:2, :2].mean((0, 1)) for table in tables]
    assert torch.cosine_similarity(middle[0], middle[1], dim=0) > 0.8


def test_thresholds_do_not_hold_at_another_image_size(checkpoint_path, caplog):
    same = UniAS.load_from_checkpoint(checkpoint_path)
    assert same.post_processor.image_threshold.isfinite()
    assert not caplog.text
    larger = UniAS.load_from_checkpoint(checkpoint_path, image_size=(96, 128)).eval()
    answer = larger(torch.rand(1, 3, 50, 50))
    assert (answer.pred_label, answer.pred_mask) == (None, None)
    assert larger.post_processor.image_max.isnan()
    assert "trained at 64x96 pixels and is opened at 96x128" in caplog.text


def test_a_calibration_does_not_hold_at_another_image_size(tmp_path, build, data):
    run = engine(tmp_path)
    run.fit(build(channel_branch=False, post_processor=CadaPostProcessor(map_power=1)), datamodule=data)
    path = run.trainer.checkpoint_callback.best_model_path
    assert UniAS.load_from_checkpoint(path).eval()(torch.rand(1, 3, 50, 50)).pred_label is not None
    larger = UniAS.load_from_checkpoint(path, image_size=(96, 128)).eval()
    with pytest.raises(MissingCalibrationError):
        larger(torch.rand(1, 3, 50, 50))


def test_channel_branch_is_bound_to_its_grid(tmp_path, build, data):
    run = engine(tmp_path)
    run.fit(build(), datamodule=data)
    path = run.trainer.checkpoint_callback.best_model_path
    with pytest.raises(ArchitectureMismatchError, match="grid of 4x6 tokens, the model has 6x8.*channel_branch=False"):
        UniAS.load_from_checkpoint(path, image_size=(96, 128))


def test_checkpoint_of_another_architecture(checkpoint_path, build, data, tmp_path):
    with pytest.raises(ArchitectureMismatchError, match=r"hidden_dim=16 \(here 32\)"):
        engine(tmp_path).test(build(hidden_dim=32, channel_branch=False), datamodule=data, ckpt_path=checkpoint_path)
    foreign = torch.load(checkpoint_path, weights_only=True)
    foreign["state_dict"] = {"model.layer.weight": torch.zeros(1)}
    foreign["hyper_parameters"] = {}
    with pytest.raises(ArchitectureMismatchError, match="does not hold the arguments"):
        build().on_load_checkpoint(foreign)
    older = torch.load(checkpoint_path, weights_only=True)
    older["state_dict"]["model.layer.weight"] = torch.zeros(1)
    with pytest.raises(ArchitectureMismatchError, match="another version of this package has saved it"):
        build(channel_branch=False).on_load_checkpoint(older)


def saved(model, path):
    """Save a model that was not trained as the trainer does."""
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=path.parent)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path


@pytest.fixture
def former(build, tmp_path):
    """Path of a checkpoint as it was written when packaged backbones had names of timm's, and the model in it."""
    model = build(backbone="tf_efficientnet_lite0_pypi", pre_trained=False, channel_branch=False)
    path = saved(model, tmp_path / "former.ckpt")
    content = torch.load(path, weights_only=True)
    assert content.pop("anomalib_unias_format") == 2
    content["hyper_parameters"]["backbone"] = "efficientnet_lite0"
    torch.save(content, path)
    return path, model


def test_former_checkpoint_has_the_network_it_was_trained_with(former):
    path, model = former
    loaded = UniAS.load_from_checkpoint(path)
    assert loaded.hparams.backbone == "tf_efficientnet_lite0_pypi"
    images = torch.rand(1, 3, 64, 96)
    for feature, expected in zip(loaded.model.backbone(images), model.model.backbone(images), strict=True):
        assert torch.equal(feature, expected)
    model.on_load_checkpoint(torch.load(path, weights_only=True))


def test_former_checkpoint_in_a_network_of_timm_is_refused(former, build):
    stock = build(backbone="efficientnet_lite0", pre_trained=False, channel_branch=False)
    with pytest.raises(ArchitectureMismatchError, match="Build the model with backbone='tf_efficientnet_lite0_pypi'"):
        stock.on_load_checkpoint(torch.load(former[0], weights_only=True))


def test_network_of_timm_stays_that_of_timm(build, tmp_path):
    stock = build(backbone="efficientnet_lite0", pre_trained=False)
    path = saved(stock, tmp_path / "model.ckpt")
    assert UniAS.load_from_checkpoint(path).hparams.backbone == "efficientnet_lite0"


def test_former_checkpoint_is_smoothed_as_it_was(build, tmp_path):
    arguments = {"prototypes": 4, "channel_branch": False}
    model = build(**arguments)
    path = saved(model, tmp_path / "former.ckpt")
    content = torch.load(path, weights_only=True)
    assert content["hyper_parameters"].pop("prototype_smoothing") == 2
    torch.save(content, path)
    images = torch.rand(1, 3, 64, 96)
    expected = model.eval().model(images).anomaly_map
    opened, given = UniASLite.load_from_checkpoint(path), build(**arguments, prototype_smoothing=1)
    given.load_state_dict(content["state_dict"])
    assert not torch.equal(given.eval().model(images).anomaly_map, expected)
    given.on_load_checkpoint(content)
    for one in (opened, given):
        assert one.hparams.prototype_smoothing == 2
        assert torch.equal(one.eval().model(images).anomaly_map, expected)


@pytest.mark.parametrize("sigma", [0, -1.5, float("nan")])
def test_smoothing_is_positive(build, sigma):
    with pytest.raises(ValueError, match=f"prototype_smoothing is a standard deviation .* larger than 0, got {sigma}"):
        build(prototype_smoothing=sigma)


def test_pre_processor_follows_the_backbone(build):
    lite = build(backbone="tf_efficientnet_lite0_pypi", pre_trained=False)
    *_, normalize = lite.pre_processor.transform.transforms
    assert tuple(normalize.mean) == backbone_statistics("tf_efficientnet_lite0_pypi")[0] == (0.5, 0.5, 0.5)
    *_, normalize = build().pre_processor.transform.transforms
    assert tuple(normalize.mean) == pytest.approx((0.485, 0.456, 0.406))


def test_size_comes_from_the_pre_processor(tiny_arguments):
    own = PreProcessor(transform=Compose([Resize((128, 64)), Normalize([0.5] * 3, [0.5] * 3)]))
    tiny_arguments.pop("image_size")
    model = UniAS(**tiny_arguments, pre_processor=own)
    assert model.model.image_size == (128, 64)
    with pytest.raises(ValueError, match=r"\(64, 64\) but the pre-processor resizes to \(128, 64\)"):
        UniAS(**tiny_arguments, image_size=(64, 64), pre_processor=own)


def test_clipping_gives_way_to_the_trainer(tmp_path, build, data):
    class Norms(Callback):
        def __init__(self):
            self.norms = []

        def on_before_zero_grad(self, _trainer, module, _optimizer):
            gradients = [p.grad.norm() for p in module.parameters() if p.grad is not None]
            if gradients:
                self.norms.append(torch.stack(gradients).norm().item())

    own, given = Norms(), Norms()
    engine(tmp_path, callbacks=[own]).fit(build(), datamodule=data)
    engine(tmp_path, callbacks=[given], gradient_clip_val=0.01).fit(build(), datamodule=data)
    assert own.norms == pytest.approx([0.1] * len(own.norms), rel=1e-3)
    assert given.norms == pytest.approx([0.01] * len(given.norms), rel=1e-3)


def test_infinite_loss_stops_and_names_the_images(tmp_path, build, data):
    model = build()
    with torch.no_grad():
        model.model.decoder.query_position.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 0.*\.png"):
        engine(tmp_path).fit(model, datamodule=data)


def test_empty_training_set(tmp_path, build, data):
    data.setup()
    data.train_data.samples = data.train_data.samples.iloc[:0]
    data._is_setup = True
    with pytest.raises(ValueError, match="training set of MVTecAD is empty"):
        engine(tmp_path).fit(build(), datamodule=data)


def test_unknown_schedule(build):
    with pytest.raises(ValueError, match="'step' or 'one_cycle'"):
        build(lr_schedule="linear")


def test_bfloat16_training_is_finite(tmp_path, build, data, caplog):
    caplog.set_level(logging.ERROR)
    model = build()
    run = engine(tmp_path, precision="bf16-mixed")
    run.fit(model, datamodule=data)
    assert torch.isfinite(run.trainer.callback_metrics["train_loss"])
