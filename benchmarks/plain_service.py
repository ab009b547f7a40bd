"""The service that one writes in an afternoon, beside which serving_http.py measures:
FastAPI, ONNX Runtime and NumPy over an exported folder. One source proposes 500 items
by an exact product, the ranker orders them. With `noop` it parses the question and
gives the same 10 items to everybody: what the server costs without a recommender.

    python benchmarks/plain_service.py FOLDER PORT [noop]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from safetensors.numpy import load_file

N_CANDIDATES = 500


class Event(BaseModel):
    item_id: int


class Question(BaseModel):
    user_id: int | str
    events: list[Event] = []
    k: int = 10


class Plain:
    "Answers with the user tower, a product with all items, and the ranker."

    def __init__(
        self,
        folder: Path,  # as written by `export`
    ):
        manifest = json.loads((folder / "manifest.json").read_text())
        tower = manifest["sources"]["Two-Tower"]
        self.item_ids = json.loads((folder / "items.json").read_text())
        user_ids = json.loads((folder / "users.json").read_text())
        self.rows = {user: row for row, user in enumerate(user_ids)}
        self.codes = {item: code for code, item in enumerate(self.item_ids)}
        taken = load_file(folder / "histories.safetensors")
        self.taken, self.starts = taken["items"], taken["offsets"]
        arrays = load_file(folder / tower["file"])
        self.vectors, self.bonus = arrays["item_vectors"], arrays["item_bonus"]
        self.length = tower["settings"]["history_length"]
        self.tower = open_network(folder / f"{tower['network']}.onnx")
        self.ranker = open_network(folder / "ranker.onnx")

    def recommend(
        self,
        question: Question,  # of a client
    ) -> dict:  # user_id, items
        "The list of a user."
        history = self.read_history(question)
        inputs = {"history": history[::-1][: self.length][None].astype(np.int64)}
        user = run(self.tower, inputs, n_rows=1)[0]
        scores = self.vectors @ user + self.bonus
        scores[history] = -np.inf
        some = np.argpartition(-scores, N_CANDIDATES)[:N_CANDIDATES]
        ranked = run(self.ranker, {}, n_rows=N_CANDIDATES)
        order = np.lexsort((-scores[some], -ranked))[: question.k]
        items = [
            {"item_id": self.item_ids[code], "rank": rank, "score": float(scores[code])}
            for rank, code in enumerate(some[order], 1)
        ]
        return {"user_id": question.user_id, "items": items}

    def read_history(
        self,
        question: Question,  # of a client
    ) -> np.ndarray:  # item codes, the oldest first
        "What the user took, and the new events."
        new = [self.codes[event.item_id] for event in question.events]
        row = self.rows.get(question.user_id)
        if row is None:
            return np.array(new)
        old = self.taken[self.starts[row] : self.starts[row + 1]]
        return np.append(old, new).astype(np.int64)


def open_network(
    path: Path,  # of an ONNX file
) -> onnxruntime.InferenceSession:
    "A session on one thread."
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options)


def run(
    session: onnxruntime.InferenceSession,  # of a network
    inputs: dict[str, np.ndarray],  # those that matter; others are zeros
    n_rows: int,  # of each input
) -> np.ndarray:
    "The first output; inputs that cost the same whatever they hold are zeros."
    for one in session.get_inputs():
        if one.name not in inputs:
            dtype = np.int64 if "int64" in one.type else np.float32
            inputs[one.name] = np.zeros((n_rows, one.shape[1]), dtype)
    return session.run(None, inputs)[0]


def make_app(
    folder: Path,  # as written by `export`
    is_noop: bool,  # the same items to everybody
) -> FastAPI:
    "The service."
    app = FastAPI()
    plain = Plain(folder)
    same = [{"item_id": i, "rank": i, "score": -i / 3} for i in range(1, 11)]

    def answer(question: Question) -> dict:
        if is_noop:
            return {"user_id": question.user_id, "items": same}
        return plain.recommend(question)

    @app.get("/recommend/{user_id}")
    def get(user_id: int, k: int = 10) -> dict:
        return answer(Question(user_id=user_id, k=k))

    @app.post("/recommend")
    def post(question: Question) -> dict:
        return answer(question)

    @app.get("/readyz")
    def ready() -> dict:
        return {"status": "ok"}

    return app


if __name__ == "__main__":
    folder, port, *more = sys.argv[1:]
    app = make_app(Path(folder), more == ["noop"])
    uvicorn.run(app, port=int(port), access_log=False, log_level="warning")
