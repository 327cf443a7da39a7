"""An OpenVINO model of anomalib in MLServer, which speaks the open inference protocol.

    pip install mlserver openvino                                    # in an environment of its own
    cp openvino_runtime.py model-settings.json line/weights/openvino/
    mlserver start line/weights/openvino
    python client.py image.png

MLServer (https://mlserver.readthedocs.io) calls this class; batching, metrics, gRPC and worker
processes are its own business.
"""

import asyncio

import openvino as ov
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class OpenVINORuntime(MLModel):
    """Answers with all outputs of the model, by their names."""

    async def load(self) -> bool:
        """Compile the model, in full precision: scores are those of training."""
        path = await get_model_uri(self.settings)
        self._compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Compute images ``(B, 3, H, W)``, RGB in [0, 1]."""
        images = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        # A request for each call, in a thread: calls can overlap.
        request = self._compiled.create_infer_request()
        found = await asyncio.to_thread(request.infer, [images])
        outputs = [NumpyCodec.encode_output(output.any_name, found[output]) for output in self._compiled.outputs]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
