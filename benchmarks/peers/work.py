"""The work that every peer does, loaded inside its process: see bench_peers.py, which wrote the files.

`tensor`: token ids INT64 [N, 16] -> probabilities FP32 [N, 2]. `text`: texts -> tokenizer -> probabilities FP32 [N, 3].
The folder is $BENCH_PEERS_FILES.
"""

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

FOLDER = Path(os.environ["BENCH_PEERS_FILES"])
MAX_BATCH = 64


def _session(name: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(str(FOLDER / name), options, providers=["CPUExecutionProvider"])


class TensorWork:
    input, datatype, width = "input_ids", "INT64", 16
    output, labels = "probs", 2

    def __init__(self) -> None:
        self._session = _session("tensor.onnx")

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        return self._session.run([self.output], {self.input: ids})[0]


class TextWork:
    input, datatype, width = "text", "BYTES", 1
    output, labels = "probabilities", 3

    def __init__(self) -> None:
        self._session = _session("text/model.onnx")
        self._tokenizer = Tokenizer.from_file(str(FOLDER / "text" / "tokenizer.json"))
        self._tokenizer.enable_padding()

    def __call__(self, texts: np.ndarray) -> np.ndarray:
        rows = self._tokenizer.encode_batch([text.decode() if isinstance(text, bytes) else text for text in texts.flat])
        feed = {
            "input_ids": [row.ids for row in rows],
            "attention_mask": [row.attention_mask for row in rows],
            "token_type_ids": [row.type_ids for row in rows],
        }
        return self._session.run([self.output], {name: np.array(ids, np.int64) for name, ids in feed.items()})[0]


WORK = {"tensor": TensorWork, "text": TextWork}
