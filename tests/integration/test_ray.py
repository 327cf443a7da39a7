"""The example in ``examples/ray``, on a local cluster of two workers."""

import os
import signal
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
from PIL import Image

HOW = "pip install 'anomalib-unias[ray]' && pytest tests/integration/test_ray.py"
ray = pytest.importorskip("ray", reason=f"Ray is not installed, it is large: {HOW}")
parquet = pytest.importorskip("pyarrow.parquet", reason=f"pyarrow is not installed: {HOW}")
pytestmark = pytest.mark.usefixtures("cluster")

from anomalib_unias.deploy import batches  # noqa: E402

ROOT = Path(__file__).parents[2]
write_toy_model = run_path(str(ROOT / "tests" / "unit" / "deploy" / "exported_toy.py"))["write_toy_model"]
IMAGES = 150


@pytest.fixture(scope="module")
def cluster():
    variables = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    # As many cores as workers: reading and writing must not starve.
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": variables}, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for index in range(IMAGES):
        pixels = np.full((24, 32, 3), 30, np.uint8)
        pixels[4:8, 4:8, 0] = 255 if index % 3 == 0 else 30
        Image.fromarray(pixels).save(root / f"{index:03}.png")
    (root / "broken.png").write_bytes(b"nonsense")
    (root / "cut.png").write_bytes((root / "000.png").read_bytes()[:60])
    return root


class MortalInspector(batches.BatchInspector):
    """Kills its own process in the middle of its second batch, the first time."""

    def __init__(self, model: str, trace: str) -> None:
        super().__init__(model)
        self._trace, self._batches = Path(trace), 0

    def __call__(self, batch):
        self._batches += 1
        found = super().__call__(batch)
        if self._batches == 2 and not self._trace.exists():
            self._trace.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return found


def rows(folder):
    return {row["image"]: row for row in parquet.read_table(folder).to_pylist()}, parquet.read_table(folder).num_rows


def check(folder, results):
    found, count = rows(results)
    assert count == len(found) == IMAGES + 2
    assert found.keys() == {str(path) for path in folder.iterdir()}
    for name, row in found.items():
        if Path(name).stem.isdigit():
            assert (row["label"], row["error"]) == (int(Path(name).stem) % 3 == 0, None)
        else:
            assert row["score"] is None
            assert f"Cannot read image file {name}" in row["error"]
    assert found[str(folder / "000.png")]["boxes"] == [[4, 4, 4, 4]]


def test_all_images_have_one_row(folder, tmp_path):
    model = write_toy_model(tmp_path / "model.xml")
    inspect_images = run_path(str(ROOT / "examples" / "ray" / "inspect_images.py"))["inspect_images"]
    inspect_images(str(model), str(folder), str(tmp_path / "results"), workers=2)
    check(folder, tmp_path / "results")


def test_a_killed_worker_loses_and_doubles_nothing(folder, tmp_path):
    model, trace = write_toy_model(tmp_path / "model.xml"), tmp_path / "killed"
    ray.cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["x"]))
    share = {"num_cpus": 0.1}
    images = ray.data.read_binary_files(str(folder), include_paths=True, override_num_blocks=8, ray_remote_args=share)
    options = {"batch_format": "pyarrow", "batch_size": 8, "num_cpus": 0.9}
    images.map_batches(
        MortalInspector,
        fn_constructor_args=[str(model), str(trace)],
        compute=ray.data.ActorPoolStrategy(size=2),
        **options,
    ).write_parquet(str(tmp_path / "results"), ray_remote_args=share)
    assert trace.exists()
    check(folder, tmp_path / "results")
