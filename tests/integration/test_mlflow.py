"""What MLflow gets from a test through anomalib's own logger: our metrics, and the report as an artifact."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine
from anomalib.loggers import AnomalibMLFlowLogger
from anomalib.models import Padim
from tests.documentation import blocks

from anomalib_unias import EvaluationReport, UnifiedDataModule, UnifiedEvaluator

pytest.importorskip("mlflow", reason="MLflow is not installed: pip install mlflow-skinny")


def test_mlflow_gets_metrics_and_report(
    tmp_path: Path, write_category: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    for category in ("bottle", "cable"):
        write_category(tmp_path / "products", category, size=48)
    torch.manual_seed(0)
    size = Padim.configure_pre_processor((32, 32))
    model = Padim("resnet18", ["layer1"], False, 4, pre_processor=size, evaluator=UnifiedEvaluator(print_table=False))
    data = UnifiedDataModule(root=tmp_path / "products", train_batch_size=4, eval_batch_size=6, num_workers=0, seed=0)
    logger = AnomalibMLFlowLogger("line", tracking_uri=(tmp_path / "mlruns").as_uri())
    options = {"accelerator": "cpu", "enable_progress_bar": False, "default_root_dir": tmp_path}
    engine = Engine(logger=logger, callbacks=[EvaluationReport()], **options)
    engine.fit(model, datamodule=data)
    (results,) = engine.test(model, datamodule=data, verbose=False)
    exec(documented(), {"logger": logger, "engine": engine, "Path": Path})

    run = logger.experiment.get_run(logger.run_id)
    logged = {name: value for name, value in run.data.metrics.items() if name in results}
    assert logged == pytest.approx(results, nan_ok=True)
    assert any("mixed" in name for name in logged)
    stored = Path(run.info.artifact_uri.removeprefix("file://")) / "report"
    written = Path(engine.trainer.default_root_dir) / "report"
    files = {path.relative_to(written) for path in written.rglob("*") if path.is_file()}
    assert files == {path.relative_to(stored) for path in stored.rglob("*") if path.is_file()}
    assert (stored / "index.html").read_bytes() == (written / "index.html").read_bytes()


def documented() -> str:
    """The last lines of the example: what is done after a test."""
    (block,) = [block for block in blocks("python") if "AnomalibMLFlowLogger" in block]
    return "\n".join(ast.unparse(node) for node in ast.parse(block).body[-2:])
