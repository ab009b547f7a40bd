"""What no reader wants in the chapters on streams and on Criteo's logs: random layouts
of files, interrupted runs, files that change, malformed lines anywhere."""

import gzip
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys_nb.data import DataError
from recsys_nb.features import FeatureEncoder
from recsys_nb.training import criteo_files
from recsys_nb.training.checkpoints import CheckpointError
from recsys_nb.training.criteo_files import (
    CRITEO_CATEGORIES,
    CRITEO_COLUMNS,
    CRITEO_NUMBERS,
    criteo_to_parquet,
    parse_hexadecimal,
    read_criteo,
)
from recsys_nb.training.loop import train
from recsys_nb.training.processes import Resident
from recsys_nb.training.sampling import (
    correct_logit,
    correct_probability,
    sample_negatives,
)
from recsys_nb.training.stream import ParquetStream


def write(folder, rows, rng):
    "Rows in files and row groups of random sizes, some of them empty."
    folder.mkdir()
    frame = pd.DataFrame({"row": np.arange(rows), "x": rng.normal(size=rows)})
    frame["label"] = (rng.random(rows) < 0.2).astype(int)
    cuts = np.sort(rng.integers(0, rows + 1, 3))
    bounds = zip([0, *cuts], [*cuts, rows], strict=True)
    for number, (start, end) in enumerate(bounds):
        path = folder / f"part_{number}.parquet"
        frame[start:end].to_parquet(path, row_group_size=int(rng.integers(1, 60)))
    return frame


def encode(frame):
    return {
        "row": torch.tensor(frame["row"].to_numpy()),
        "x": torch.tensor(frame["x"].to_numpy(np.float32)),
        "y": torch.tensor(frame["label"].to_numpy(np.float32)),
    }


@pytest.mark.parametrize("seed", range(12))
def test_every_row_once_whatever_the_layout(tmp_path, seed):
    rng = np.random.default_rng(seed)
    frame = write(tmp_path / "f", int(rng.integers(50, 400)), rng)
    world, batch_size = int(rng.integers(1, 5)), int(rng.integers(5, 40))
    buffer_rows = int(rng.integers(batch_size + 5, 120))
    pieces = {"buffer_rows": buffer_rows, "piece_rows": int(rng.integers(1, 50))}
    stream = ParquetStream(tmp_path / "f", encode, **pieces)
    if seed % 2:
        stream = stream.downsample(0.5, seed=seed)
    wanted = np.sort(pd.concat(stream.frames()).row)
    assert len(wanted) == stream.n_rows and (seed % 2 or len(wanted) == len(frame))
    resident = Resident({"row": torch.arange(stream.n_rows)}, torch.device("cpu"))
    x = torch.tensor(frame.x.to_numpy(np.float32))
    for epoch in (1, 2):
        order = batch_size, seed, epoch
        parts = [list(stream.batches(*order, rank, world)) for rank in range(world)]
        like = [list(resident.batches(*order, rank, world)) for rank in range(world)]
        rows = torch.cat([batch["row"] for part in parts for batch in part])
        assert np.array_equal(np.sort(rows), wanted)
        sizes = [[len(batch["row"]) for batch in part] for part in parts]
        assert sizes == [[len(batch["row"]) for batch in part] for part in like]
        steps = {stream.steps(batch_size, world)}
        assert {len(part) for part in parts} == steps
        assert steps == {resident.steps(batch_size, world)}
        for batch in sum(parts, []):
            assert torch.equal(batch["x"], x[batch["row"]])


def test_never_more_rows_in_memory_than_the_buffer_and_two_pieces(tmp_path):
    encoded = [0]
    write(tmp_path / "f", 5_000, np.random.default_rng(0))

    def count(frame):
        encoded[0] += len(frame)
        return encode(frame)

    used, most = 0, 0
    stream = ParquetStream(tmp_path / "f", count, buffer_rows=300, piece_rows=40)
    for batch in stream.batches(32, 0, 1):
        most = max(most, encoded[0] - used)
        used += len(batch["row"])
    assert used == encoded[0] == 5_000 and 300 <= most <= 300 + 2 * 40


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.out = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(1, 1))

    def forward(self, x):
        return self.out(x[:, None]).squeeze(1)


def fit(stream, folder=None, step=lambda: None, epochs=3):
    model = Line()

    def loss(model, batch):
        step()
        return binary_cross_entropy_with_logits(model(batch["x"]), batch["y"])

    settings = {"batch_size": 50, "patience": None, "device": "cpu"}
    settings |= {"precision": "fp32", "progress": False, "folder": folder}
    train(model, loss, stream, epochs=epochs, **settings)
    return model.out[1].weight.item()


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path):
    write(tmp_path / "f", 1_000, np.random.default_rng(1))
    write(tmp_path / "g", 1_000, np.random.default_rng(2))
    stream = ParquetStream(tmp_path / "f", encode, buffer_rows=200)
    left, before = [30], set(threading.enumerate())

    def stop():
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(stream, tmp_path / "c", stop)
    new_threads = set(threading.enumerate()) - before
    assert not [t for t in new_threads if t.name.startswith("ThreadPool")]
    assert (tmp_path / "c" / "epoch-00001.safetensors").exists()
    assert fit(stream, tmp_path / "c") == fit(stream)
    others = (
        ParquetStream(tmp_path / "g", encode, buffer_rows=200),
        ParquetStream(tmp_path / "f", encode, buffer_rows=201),
        stream.downsample(0.5),
    )
    for other in others:
        with pytest.raises(CheckpointError, match="data was"):
            fit(other, tmp_path / "c")


@pytest.mark.parametrize("how", ["shorter", "other", "gone"])
def test_a_file_that_changes_under_the_training(tmp_path, how):
    write(tmp_path / "f", 1_000, np.random.default_rng(1))
    stream = ParquetStream(tmp_path / "f", encode)
    file = max(stream.reader.files, key=lambda path: path.stat().st_size)
    if how == "shorter":
        file.write_bytes(file.read_bytes()[:200])
    elif how == "other":
        noise = bytes(range(256)) * (file.stat().st_size // 256)
        file.write_bytes(b"PAR1" + noise + b"PAR1")
    else:
        file.unlink()
    with pytest.raises(DataError, match=file.name):
        list(stream.in_order())


def draw_columns(rng, rows):
    "Columns of all kinds, some with gaps."
    frame = pd.DataFrame({"text": rng.choice([f"v{i}" for i in range(60)], rows)})
    frame["whole"] = rng.integers(-9, 30, rows)
    frame["half"] = rng.integers(0, 9, rows) / 2
    frame["yes"] = rng.random(rows) < 0.3
    frame["price"] = rng.lognormal(size=rows)
    frame["zeros"] = np.zeros(rows)
    frame["tags"] = rng.choice(["a|b", "b|c|c", "d", ""], rows)
    counts = pd.Series(rng.integers(0, 40, rows))
    frame["gaps"] = counts.where(rng.random(rows) < 0.7)
    frame["late"] = np.where(frame.index < rows // 2, np.nan, 7.0)
    frame["word"] = frame.text.where(rng.random(rows) < 0.6)
    return frame


def copy_columns(frame):
    "A column may have one role; these have two."
    return frame.assign(whole2=frame.whole, half2=frame.half, price2=frame.price)


@pytest.mark.parametrize("seed", range(6))
def test_encoders_fitted_in_batches_are_those_fitted_at_once(tmp_path, seed):
    rng = np.random.default_rng(seed)
    frame = draw_columns(rng, 3_000)
    path = tmp_path / "f.parquet"
    frame.to_parquet(path, row_group_size=int(rng.integers(50, 900)))
    roles = {
        "categorical": ["text", "whole", "half", "yes", "word", "late"],
        "hashed": {"gaps": 16},
        "bucketed": {"price": 12, "whole2": 5},
        "numeric": ["zeros", "half2"],
        "log": ["price2"],
        "multi": ["tags"],
        "min_count": int(rng.integers(1, 60)),
    }
    wide = copy_columns(frame)
    stream = ParquetStream([path], dict, piece_rows=int(rng.integers(7, 400)))
    at_once = FeatureEncoder(**roles).fit(wide)
    in_parts = FeatureEncoder(**roles).fit_batches(map(copy_columns, stream.frames()))
    assert at_once.cardinalities == in_parts.cardinalities
    assert at_once.dense_names == in_parts.dense_names
    wanted, found = at_once.transform(wide), in_parts.transform(wide)
    assert torch.equal(wanted.sparse, found.sparse)
    assert torch.allclose(wanted.dense, found.dense, atol=1e-6)
    in_parts.save(tmp_path)
    loaded = FeatureEncoder.load(tmp_path)
    assert torch.equal(loaded.transform(wide).sparse, wanted.sparse)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.03])
def test_calibration_is_restored(share):
    rng = np.random.default_rng(0)
    n = 400_000
    x = rng.normal(size=(n, 2))
    true = 1 / (1 + np.exp(-(-3.5 + x @ [1.0, -0.6])))
    clicked = rng.random(n) < true
    kept = sample_negatives(clicked, np.arange(n), share)
    assert kept[clicked].all() and abs(kept[~clicked].mean() - share) < 0.004
    model = LogisticRegression(C=np.inf).fit(x[kept], clicked[kept])
    learnt = model.predict_proba(x)[:, 1]
    corrected = correct_probability(learnt, share)
    tenths = np.digitize(corrected, np.quantile(corrected, np.arange(0.1, 1, 0.1)))

    def average(values):
        return np.bincount(tenths, values) / np.bincount(tenths)

    assert np.abs(average(corrected) / average(clicked) - 1).max() < 0.12
    assert abs(corrected.mean() / clicked.mean() - 1) < 0.03
    assert abs(learnt.mean() / clicked.mean() - 1) > 0.03
    logit = correct_logit(np.log(learnt / (1 - learnt)), share)
    assert np.allclose(1 / (1 + np.exp(-logit)), corrected)
    ideal = true / (true + (1 - true) * share)  # what a perfect model learns
    assert np.allclose(correct_probability(ideal, share), true)


# --- Criteo's format ------------------------------------------------------------------


def draw_lines(rows, seed=0):
    "Lines of random cells, a fifth of them missing."
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(rows):
        cells = [str(rng.integers(2))]
        cells += [str(number) for number in rng.integers(-3, 10**6, 13)]
        cells += [f"{code:08x}" for code in rng.integers(0, 2**32, 26)]
        shown = [cell if rng.random() < 0.8 else "" for cell in cells[1:]]
        lines.append("\t".join([cells[0], *shown]) + "\n")
    return lines


def parse_plainly(lines):
    "What the lines say, cell by cell."
    rows = [line.rstrip("\n").split("\t") for line in lines]
    columns = {}
    for place, name in enumerate(CRITEO_COLUMNS):
        base = 16 if name in CRITEO_CATEGORIES else 10
        cells = [row[place] for row in rows]
        columns[name] = [int(cell, base) if cell else None for cell in cells]
    return columns


@pytest.mark.parametrize(
    "ending, block", [(".txt", 3_000), ("", 1 << 20), (".gz", 5_000)]
)
def test_cells_are_what_the_lines_say(tmp_path, ending, block):
    lines = draw_lines(300)
    path = tmp_path / f"day_0{ending}"
    content = "".join(lines).encode()
    path.write_bytes(gzip.compress(content) if ending == ".gz" else content)
    blocks = list(read_criteo(path, block))
    assert pa.concat_tables(blocks).to_pydict() == parse_plainly(lines)
    assert (block == 1 << 20) == (len(blocks) == 1)
    [made] = criteo_to_parquet(path, tmp_path / "p", group_rows=70, block_bytes=block)
    meta = pq.read_metadata(made)
    assert pq.read_table(made).to_pydict() == parse_plainly(lines)
    sizes = [meta.row_group(place).num_rows for place in range(meta.num_row_groups)]
    assert sizes == [70] * 4 + [20]


def test_hexadecimal_of_any_length():
    words = ["0", "f", "F0", "00000000", "ffffffff", "DEADbeef", None, "1234567"]
    numbers = [None if word is None else int(word, 16) for word in words]
    assert parse_hexadecimal(pa.array(words)).to_pylist() == numbers
    for bad in ("g", "0x1", "123456789", "-1", " 1", "é"):
        with pytest.raises(pa.ArrowInvalid):
            parse_hexadecimal(pa.array(["1", bad]))


def spoil(cells, kind, column):
    "Make cells wrong in one of five ways; the column that is wrong, if it is one."
    if kind == "short":
        cells.pop()
    elif kind == "long":
        cells.append("00000000")
    else:
        column = {"label": 0, "number": column, "category": 13 + column}[kind]
        cells[column] = {"label": "2", "number": "1.5", "category": "nothex"}[kind]
        return CRITEO_COLUMNS[column]
    return None


@pytest.mark.parametrize("seed", range(10))
def test_a_malformed_line_is_named(tmp_path, seed):
    rng = np.random.default_rng(seed)
    lines = draw_lines(200, seed)
    place = int(rng.integers(200))
    cells = lines[place].rstrip("\n").split("\t")
    kind = ["short", "long", "label", "number", "category"][seed % 5]
    wrong = spoil(cells, kind, int(rng.integers(1, 14)))
    lines[place] = "\t".join(cells) + "\n"
    path = tmp_path / "day_3.txt"
    path.write_text("".join(lines))
    says = f"column {wrong} is" if wrong else f"{len(cells)} columns"
    with pytest.raises(DataError, match=rf"day_3\.txt, line {place + 1}: {says}"):
        list(read_criteo(path, 4_000))
    with pytest.raises(DataError, match=f"line {place + 1}"):
        criteo_to_parquet(tmp_path, tmp_path / "p", group_rows=20, block_bytes=4_000)
    assert not list((tmp_path / "p").iterdir())


def test_an_interrupted_conversion_goes_on_with_its_file(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    raw.mkdir()
    for day in (0, 1, 2):
        (raw / f"day_{day}").write_text("".join(draw_lines(100, day)))
    read = criteo_files.read_criteo

    def stop(path, block):
        yield from read(path, block)
        if path.name == "day_1":
            raise KeyboardInterrupt

    monkeypatch.setattr(criteo_files, "read_criteo", stop)
    with pytest.raises(KeyboardInterrupt):
        criteo_to_parquet(raw, tmp_path / "p", group_rows=30)
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["day_0.parquet"]
    opened = []

    def note(path, block):
        opened.append(path.name)
        return read(path, block)

    monkeypatch.setattr(criteo_files, "read_criteo", note)
    made = criteo_to_parquet(raw, tmp_path / "p", group_rows=30)
    assert [path.name for path in made] == [f"day_{day}.parquet" for day in (0, 1, 2)]
    assert opened == ["day_1", "day_2"]
    (raw / "day_0").write_text("".join(draw_lines(50, 9)))
    opened.clear()
    made = criteo_to_parquet(raw, tmp_path / "p")
    assert opened == ["day_0"] and pq.read_metadata(made[0]).num_rows == 50


def test_numbers_and_categories_are_all_columns():
    n_columns = 1 + len(CRITEO_NUMBERS) + len(CRITEO_CATEGORIES)
    assert len(CRITEO_COLUMNS) == 40 == n_columns
