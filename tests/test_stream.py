"What no reader wants in the chapters on streams and on Criteo's logs: random layouts of files, interrupted runs, files that change, malformed lines anywhere."
import gzip
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from recsys_nb import criteo
from recsys_nb.criteo import CRITEO_CATEGORIES, CRITEO_COLUMNS, CRITEO_NUMBERS, criteo_to_parquet, read_criteo
from recsys_nb.data import DataError
from recsys_nb.features import FeatureEncoder
from recsys_nb.stream import ParquetStream, correct_logit, correct_probability, fit_batches, sample_negatives
from recsys_nb.training.checkpoints import CheckpointError
from recsys_nb.training.loop import train
from recsys_nb.training.processes import Resident


def write(folder, rows, rng):
    "`rows` rows in files and row groups of random sizes, some of them empty."
    folder.mkdir()
    f = pd.DataFrame({"row": np.arange(rows), "x": rng.normal(size=rows), "label": (rng.random(rows) < .2).astype(int)})
    cuts = np.sort(rng.integers(0, rows + 1, 3))
    for k, (a, b) in enumerate(zip([0, *cuts], [*cuts, rows])): f[a:b].to_parquet(folder / f"part_{k}.parquet", row_group_size=int(rng.integers(1, 60)))
    return f


def tensors(f): return {"row": torch.tensor(f["row"].to_numpy()), "x": torch.tensor(f["x"].to_numpy(np.float32)), "y": torch.tensor(f["label"].to_numpy(np.float32))}


@pytest.mark.parametrize("seed", range(12))
def test_every_row_once_whatever_the_layout(tmp_path, seed):
    rng = np.random.default_rng(seed); f = write(tmp_path / "f", int(rng.integers(50, 400)), rng)
    world, batch = int(rng.integers(1, 5)), int(rng.integers(5, 40))
    stream = ParquetStream(tmp_path / "f", tensors, buffer_rows=int(rng.integers(batch + 5, 120)), piece_rows=int(rng.integers(1, 50)))
    if seed % 2: stream = stream.downsample(.5, seed=seed)
    want = np.sort(pd.concat(stream.frames()).row); resident = Resident({"row": torch.arange(stream.n_rows)}, torch.device("cpu"))
    assert len(want) == stream.n_rows and (seed % 2 or len(want) == len(f))
    for epoch in (1, 2):
        parts = [list(stream.batches(batch, seed, epoch, r, world)) for r in range(world)]
        assert np.array_equal(np.sort(torch.cat([b["row"] for p in parts for b in p])), want)
        assert [[len(b["row"]) for b in p] for p in parts] == [[len(b["row"]) for b in resident.batches(batch, seed, epoch, r, world)] for r in range(world)]
        assert {len(p) for p in parts} == {stream.steps(batch, world)} == {resident.steps(batch, world)}
        assert all(torch.equal(b["x"], torch.tensor(f.x.to_numpy(np.float32))[b["row"]]) for p in parts for b in p)


def test_never_more_rows_in_memory_than_the_buffer_and_two_pieces(tmp_path):
    rng, made = np.random.default_rng(0), [0]; write(tmp_path / "f", 5_000, rng)
    def count(f): made[0] += len(f); return tensors(f)
    used, most = 0, 0
    for b in ParquetStream(tmp_path / "f", count, buffer_rows=300, piece_rows=40).batches(32, 0, 1):
        most = max(most, made[0] - used); used += len(b["row"])
    assert used == made[0] == 5_000 and 300 <= most <= 300 + 2 * 40


class Line(torch.nn.Module):
    def __init__(self): super().__init__(); torch.manual_seed(0); self.out = torch.nn.Sequential(torch.nn.Dropout(.2), torch.nn.Linear(1, 1))
    def forward(self, x): return self.out(x[:, None]).squeeze(1)


def fit(stream, folder=None, step=lambda: None, epochs=3):
    model = Line()
    def loss(model, b): step(); return bce(model(b["x"]), b["y"])
    train(model, loss, stream, epochs=epochs, batch_size=50, patience=None, device="cpu", precision="fp32", folder=folder, progress=False)
    return model.out[1].weight.item()


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path):
    write(tmp_path / "f", 1_000, np.random.default_rng(1)); write(tmp_path / "g", 1_000, np.random.default_rng(2))
    stream, left, before = ParquetStream(tmp_path / "f", tensors, buffer_rows=200), [30], set(threading.enumerate())
    def stop():
        left[0] -= 1
        if not left[0]: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): fit(stream, tmp_path / "c", stop)
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("ThreadPool")] and (tmp_path / "c" / "epoch-00001.safetensors").exists()
    assert fit(stream, tmp_path / "c") == fit(stream)
    for other in (ParquetStream(tmp_path / "g", tensors, buffer_rows=200), ParquetStream(tmp_path / "f", tensors, buffer_rows=201), stream.downsample(.5)):
        with pytest.raises(CheckpointError, match="data was"): fit(other, tmp_path / "c")


@pytest.mark.parametrize("how", ["shorter", "other", "gone"])
def test_a_file_that_changes_under_the_training(tmp_path, how):
    write(tmp_path / "f", 1_000, np.random.default_rng(1)); stream = ParquetStream(tmp_path / "f", tensors)
    file = max(stream.files, key=lambda p: p.stat().st_size)
    if how == "shorter": file.write_bytes(file.read_bytes()[:200])
    elif how == "other": file.write_bytes(b"PAR1" + bytes(range(256)) * (file.stat().st_size // 256) + b"PAR1")
    else: file.unlink()
    with pytest.raises(DataError, match=file.name): list(stream.in_order())


@pytest.mark.parametrize("seed", range(6))
def test_encoders_fitted_in_batches_are_those_fitted_at_once(tmp_path, seed):
    rng = np.random.default_rng(seed); n = 3_000
    f = pd.DataFrame({"text": rng.choice([f"v{i}" for i in range(60)], n), "whole": rng.integers(-9, 30, n), "half": rng.integers(0, 9, n) / 2, "yes": rng.random(n) < .3,
        "price": rng.lognormal(size=n), "zeros": np.zeros(n), "tags": rng.choice(["a|b", "b|c|c", "d", ""], n)})
    f["gaps"] = pd.Series(rng.integers(0, 40, n)).where(rng.random(n) < .7); f["late"] = np.where(f.index < n // 2, np.nan, 7.)
    f["word"] = f.text.where(rng.random(n) < .6)
    f.to_parquet(tmp_path / "f.parquet", row_group_size=int(rng.integers(50, 900)))
    settings = dict(categorical=["text", "whole", "half", "yes", "word", "late"], hashed={"gaps": 16}, bucketed={"price": 12, "whole2": 5}, numeric=["zeros", "half2"], log=["price2"], multi=["tags"], min_count=int(rng.integers(1, 60)))
    more = lambda f: f.assign(whole2=f.whole, half2=f.half, price2=f.price)
    at_once, in_parts = FeatureEncoder(**settings).fit(more(f)), fit_batches(FeatureEncoder(**settings), map(more, ParquetStream([tmp_path / "f.parquet"], dict, piece_rows=int(rng.integers(7, 400))).frames()))
    assert at_once.cardinalities == in_parts.cardinalities and at_once.dense_names == in_parts.dense_names
    (s1, d1), (s2, d2) = at_once.transform(more(f)), in_parts.transform(more(f))
    assert torch.equal(s1, s2) and torch.allclose(d1, d2, atol=1e-6)
    in_parts.save(tmp_path); assert torch.equal(FeatureEncoder.load(tmp_path).transform(more(f)).sparse, s1)


@pytest.mark.parametrize("share", [.5, .1, .03])
def test_calibration_is_restored(share):
    rng = np.random.default_rng(0); n = 400_000
    x = rng.normal(size=(n, 2)); p = 1 / (1 + np.exp(-(-3.5 + x @ [1., -.6]))); y = rng.random(n) < p
    kept = sample_negatives(y, np.arange(n), share)
    assert kept[y].all() and abs(kept[~y].mean() - share) < .004
    learnt = LogisticRegression(C=np.inf).fit(x[kept], y[kept]).predict_proba(x)[:, 1]
    q = correct_probability(learnt, share)
    bins = np.digitize(q, np.quantile(q, np.arange(.1, 1, .1)))
    mean = lambda v: np.bincount(bins, v) / np.bincount(bins)
    assert np.abs(mean(q) / mean(y) - 1).max() < .12 and abs(q.mean() / y.mean() - 1) < .03 < abs(learnt.mean() / y.mean() - 1)
    assert np.allclose(1 / (1 + np.exp(-correct_logit(np.log(learnt / (1 - learnt)), share))), q)
    assert np.allclose(correct_probability(p / (p + (1 - p) * share), share), p) # what a perfect model learns from the sample


# Criteo's format

def lines(n, seed=0):
    "Lines of random cells, a fifth of them missing."
    rng = np.random.default_rng(seed); out = []
    for _ in range(n):
        cells = [str(rng.integers(2)), *(str(v) for v in rng.integers(-3, 10 ** 6, 13)), *(f"{v:08x}" for v in rng.integers(0, 2 ** 32, 26))]
        out.append("\t".join(c if i == 0 or rng.random() < .8 else "" for i, c in enumerate(cells)) + "\n")
    return out


def expected(text):
    number = lambda c, base: int(c, base) if c else None
    rows = [line.rstrip("\n").split("\t") for line in text]
    return {name: [number(r[i], 16 if name in CRITEO_CATEGORIES else 10) for r in rows] for i, name in enumerate(CRITEO_COLUMNS)}


@pytest.mark.parametrize("ending, block", [(".txt", 3_000), ("", 1 << 20), (".gz", 5_000)])
def test_cells_are_what_the_lines_say(tmp_path, ending, block):
    text = lines(300); path = tmp_path / f"day_0{ending}"
    path.write_bytes(gzip.compress("".join(text).encode()) if ending == ".gz" else "".join(text).encode())
    blocks = list(read_criteo(path, block))
    assert pa.concat_tables(blocks).to_pydict() == expected(text) and (block == 1 << 20) == (len(blocks) == 1)
    [made] = criteo_to_parquet(path, tmp_path / "p", group_rows=70, block_bytes=block)
    meta = pq.read_metadata(made)
    assert pq.read_table(made).to_pydict() == expected(text) and [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [70] * 4 + [20]


def test_hexadecimal_of_any_length():
    words = ["0", "f", "F0", "00000000", "ffffffff", "DEADbeef", None, "1234567"]
    assert criteo._from_hex(pa.array(words)).to_pylist() == [None if w is None else int(w, 16) for w in words]
    for bad in ("g", "0x1", "123456789", "-1", " 1", "é"):
        with pytest.raises(pa.ArrowInvalid): criteo._from_hex(pa.array(["1", bad]))


@pytest.mark.parametrize("seed", range(10))
def test_a_malformed_line_is_named(tmp_path, seed):
    rng = np.random.default_rng(seed); text = lines(200, seed); at = int(rng.integers(200)); cells = text[at].rstrip("\n").split("\t")
    kind = seed % 5; column = int(rng.integers(1, 14))
    if kind == 0: cells = cells[:-1]
    elif kind == 1: cells.append("00000000")
    elif kind == 2: cells[0] = "2"
    elif kind == 3: cells[column] = "1.5"
    else: cells[13 + column] = "nothex"
    text[at] = "\t".join(cells) + "\n"; path = tmp_path / "day_3.txt"; path.write_text("".join(text))
    says = f"{len(cells)} columns" if kind < 2 else f"column {CRITEO_COLUMNS[{2: 0, 3: column, 4: 13 + column}[kind]]} is"
    with pytest.raises(DataError, match=rf"day_3\.txt, line {at + 1}: {says}"): list(read_criteo(path, 4_000))
    with pytest.raises(DataError, match=f"line {at + 1}"): criteo_to_parquet(tmp_path, tmp_path / "p", group_rows=20, block_bytes=4_000)
    assert not list((tmp_path / "p").iterdir())


def test_an_interrupted_conversion_goes_on_with_its_file(tmp_path, monkeypatch):
    raw = tmp_path / "raw"; raw.mkdir()
    for k in (0, 1, 2): (raw / f"day_{k}").write_text("".join(lines(100, k)))
    read = criteo.read_criteo
    def stop(path, block):
        yield from read(path, block)
        if path.name == "day_1": raise KeyboardInterrupt
    monkeypatch.setattr(criteo, "read_criteo", stop)
    with pytest.raises(KeyboardInterrupt): criteo_to_parquet(raw, tmp_path / "p", group_rows=30)
    assert [p.name for p in (tmp_path / "p").iterdir()] == ["day_0.parquet"]
    opened = []; monkeypatch.setattr(criteo, "read_criteo", lambda path, block: opened.append(path.name) or read(path, block))
    assert [p.name for p in criteo_to_parquet(raw, tmp_path / "p", group_rows=30)] == [f"day_{k}.parquet" for k in (0, 1, 2)] and opened == ["day_1", "day_2"]
    (raw / "day_0").write_text("".join(lines(50, 9))); opened.clear()
    made = criteo_to_parquet(raw, tmp_path / "p"); assert opened == ["day_0"] and pq.read_metadata(made[0]).num_rows == 50


def test_numbers_and_categories_are_all_columns(): assert len(CRITEO_COLUMNS) == 40 == 1 + len(CRITEO_NUMBERS) + len(CRITEO_CATEGORIES)
