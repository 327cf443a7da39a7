"""An OpenVINO model of anomalib in MLServer, which speaks the open inference protocol.

    pip install mlserver openvino                                    # in a separate environment
    cp openvino_runtime.py model-settings.json line/weights/openvino/
    mlserver start line/weights/openvino
    python client.py image.png

MLServer (https://mlserver.readthedocs.io) calls this class; it does batching, metrics, gRPC and worker
processes itself.
"""

import asyncio
import logging

import openvino as ov
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri

_LOG = logging.getLogger(__name__)
_FORMAT = "1"


def export_problems(model: ov.Model) -> list[str]:
    """Return the warnings about a model that ``anomalib-unias inspect`` would also give.

    Args:
        model (ov.Model): The export.

    Returns:
        list[str]: Sentences; empty if there is nothing to warn about.
    """
    if not model.has_rt_info(["model_info", "description_format"]):
        return [
            "it has no description; it is treated as an export of anomalib, which takes RGB in [0, 1]. "
            "If it is one, 'anomalib-unias describe' adds the description"
        ]
    found = []
    format_ = model.get_rt_info(["model_info", "description_format"]).astype(str)
    if format_ != _FORMAT:
        found.append(f"its description has the format {format_}, this example supports {_FORMAT}: export it again")
    if not any("pred_label" in output.get_names() for output in model.outputs):
        found.append("it was exported without thresholds, so that no image is called good or defective")
    return found


class OpenVINORuntime(MLModel):
    """Answers with all outputs of the model, by their names."""

    async def load(self) -> bool:
        """Compile the model in full precision, so that scores equal those of training."""
        path = await get_model_uri(self.settings)
        core = ov.Core()
        model = core.read_model(path)
        for problem in export_problems(model):
            _LOG.warning("%s: %s", path, problem)
        self._compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the model on images ``(B, 3, H, W)``, RGB in [0, 1]."""
        images = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        # Each call has its own request, in a thread, so calls can overlap.
        request = self._compiled.create_infer_request()
        found = await asyncio.to_thread(request.infer, [images])
        outputs = [NumpyCodec.encode_output(output.any_name, found[output]) for output in self._compiled.outputs]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
