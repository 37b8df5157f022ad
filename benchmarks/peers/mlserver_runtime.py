"""Both kinds of work in MLServer, as a runtime that its model-settings.json names; bench_peers.py writes those."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from work import WORK


class Served(MLModel):
    async def load(self) -> bool:
        self._work = WORK[self.name]()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        [given] = payload.inputs
        texts = self._work.datatype == "BYTES"
        found = self._work(np.array(StringCodec.decode_input(given)) if texts else NumpyCodec.decode_input(given))
        output = NumpyCodec.encode_output(self._work.output, found)
        return InferenceResponse(model_name=self.name, outputs=[output])
