"""Training: pauses, interruptions and damage end in the weights of a quiet run."""

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import processes
from torch.nn.functional import binary_cross_entropy_with_logits

import recsys_nb.training.checkpoints as checkpoints_module
from recsys_nb.models.sampled_softmax import sampled_softmax_loss
from recsys_nb.models.two_tower import TwoTowerConfig, TwoTowerModel
from recsys_nb.training.checkpoints import CheckpointError, read_checkpoint
from recsys_nb.training.loop import Trainer, train
from recsys_nb.training.optim import RowAdam

EPOCHS = 4
STEPS = 19  # of an epoch


class Ranker(torch.nn.Module):
    "Layers with dropout beside a sparse table: both optimizers and random numbers."

    def __init__(self, dropout=0.3):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(40, 8, sparse=True)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(11, 16),
            torch.nn.ReLU(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(16, 1),
        )

    def forward(self, dense, codes):
        inputs = torch.cat([dense, self.table(codes)], 1)
        return self.layers(inputs).squeeze(1)


def make_examples():
    g = torch.Generator().manual_seed(1)
    dense = torch.randn(600, 3, generator=g)
    codes = torch.randint(40, (600,), generator=g)
    return {"dense": dense, "codes": codes, "label": (codes % 2) * 1.0}


def log_loss(model, batch):
    logits = model(batch["dense"], batch["codes"])
    return binary_cross_entropy_with_logits(logits, batch["label"])


def settings(**changes):
    options = {
        "monitor": "valid_loss",
        "epochs": EPOCHS,
        "batch_size": 32,
        "patience": None,
        "lr": 0.01,
        "device": "cpu",
        "precision": "fp32",
    }
    return options | changes


def run(folder=None, on_step=lambda: None, **changes):
    "The run that all tests here are about: its weights and its epochs."
    data, model = make_examples(), Ranker()

    def loss(model, batch):
        on_step()
        return log_loss(model, batch)

    result = train(
        model,
        loss,
        data,
        lambda model: {"valid_loss": loss(model, data)},
        folder=folder,
        progress=False,
        **settings(**changes),
    )
    return model.state_dict(), result.epochs


def assert_equal(weights, others):
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.fixture(scope="module")
def whole():
    return run()


def assert_goes_on(folder, whole):
    weights, epochs = run(folder)
    assert epochs == whole[1]
    assert_equal(weights, whole[0])
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"epoch-{e:05d}.safetensors" for e in (EPOCHS - 1, EPOCHS)]


# A trainer that pauses


def make_trainer(**changes):
    data = make_examples()
    return Trainer(
        Ranker(),
        log_loss,
        data,
        lambda model: {"valid_loss": log_loss(model, data)},
        **settings(**changes),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "cosine", "warmup": 0.1, "ema": 0.9},
        {"plateau": (0.3, 1), "lr": 0.1, "clip_grad": 0.1, "weight_decay": 0.01},
        {"precision": "bf16"},
    ],
)
def test_two_trainers_that_take_turns_equal_uninterrupted_runs(changes):
    quiet = make_trainer(**changes).run()
    first, second = make_trainer(**changes), make_trainer(**changes, seed=7)
    while not first.result_.stopped:
        first.run(steps=7)
        second.run(steps=3)
        torch.rand(3)
        first.validate()
    assert first.step_ == quiet.step_ == EPOCHS * STEPS
    assert first.finish().epochs == quiet.finish().epochs
    assert_equal(first.model.state_dict(), quiet.model.state_dict())
    alone = make_trainer(**changes, seed=7).run(steps=second.step_)
    assert_equal(second.model.state_dict(), alone.model.state_dict())


def test_run_by_epochs_and_limits():
    trainer = make_trainer()
    assert trainer.run(epochs=2).step_ == 2 * STEPS and not trainer.result_.stopped
    assert trainer.run(epochs=1, steps=5).step_ == 2 * STEPS + 5
    result = trainer.finish()  # closes the epoch that was begun
    assert (len(result.epochs), result.stopped) == (3, "finish")
    assert trainer.run().step_ == 2 * STEPS + 5  # it has ended
    limited = make_trainer(max_steps=25)
    assert limited.run().step_ == 25
    assert limited.finish().stopped == "steps"


def test_callback_gets_seconds_and_ends_the_run():
    rows = []

    def on_epoch(row):
        rows.append(row)
        return len(rows) == 2

    data = make_examples()
    result = train(
        Ranker(),
        log_loss,
        data,
        lambda model: {"valid_loss": log_loss(model, data)},
        on_epoch=on_epoch,
        progress=False,
        **settings(),
    )
    assert result.stopped == "on_epoch" and len(result.epochs) == 2
    assert all(row["seconds"] > 0 for row in rows)
    assert all("seconds" not in row for row in result.epochs)
    assert list(rows[0]) == ["epoch", "loss", "valid_loss", "seconds"]


def test_average_is_validated_and_returned():
    trainer = make_trainer(ema=0.9)
    trainer.run(epochs=1)
    own = {name: t.clone() for name, t in trainer.model.state_dict().items()}
    trainer.validate()
    assert_equal(trainer.model.state_dict(), own)
    best = trainer.finish()
    averages = trainer.stepper.average.averages
    assert_equal(dict(trainer.model.named_parameters()), averages)
    with torch.no_grad():
        value = log_loss(trainer.model, make_examples()).item()
    assert best.epochs[-1]["valid_loss"] == pytest.approx(value, abs=1e-6)


def test_progress_is_shown_only_if_asked_for(capsys):
    model, data = torch.nn.Linear(3, 1), {"x": torch.randn(50, 3)}

    def loss(model, batch):
        return (model(batch["x"]) - 1).pow(2).mean()

    train(model, loss, data, epochs=2, progress=False)
    assert capsys.readouterr() == ("", "")
    train(model, loss, data, epochs=2, progress=True)
    assert "2/2" in capsys.readouterr().err
    train(model, loss, data, epochs=2, progress="lines")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].startswith("epoch 2: loss ")


# The row-wise optimizer


def train_tables(sparse):
    "60 steps of a two-tower model, whose tables are read from two places."
    torch.manual_seed(0)
    config = TwoTowerConfig(
        8,
        8,
        8,
        user_categorical_cardinalities=[30],
        item_categorical_cardinalities=[200, 3],
        history=True,
        sparse=sparse,
    )
    model = TwoTowerModel(config)
    g = torch.Generator().manual_seed(1)
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    optimizer = RowAdam(tables, lr=0.01, beta=0.99)
    moments = [torch.zeros(len(table)) for table in tables]
    for step in range(1, 61):
        user = torch.randint(30, (16, 1), generator=g)
        item = torch.randint(200, (16, 1), generator=g)
        history = torch.randint(-1, 200, (16, 5), generator=g)
        model.zero_grad()
        items = model.item(torch.cat([item, item % 3], 1))
        sampled_softmax_loss(model.user(user, history=history), items).backward()
        if sparse:
            optimizer.step()
            continue
        for table, moment in zip(tables, moments, strict=True):
            moment.mul_(0.99).add_(table.grad.square().mean(1), alpha=0.01)
            roots = (moment / (1 - 0.99**step)).sqrt() + 1e-8
            table.data -= 0.01 * table.grad / roots[:, None]
    return tables


def test_rows_that_were_not_read_are_made_up_for():
    "RowAdam equals its formula for all rows in every step."
    pairs = zip(train_tables(sparse=True), train_tables(sparse=False), strict=True)
    for table, expected in pairs:
        torch.testing.assert_close(table, expected, rtol=0, atol=2e-5)


# Killed


def run_slowly(folder, precision, parent, threads):
    "The run, which tells its parent of every step."

    def on_step():
        parent.send("step")
        time.sleep(0.02)

    torch.set_num_threads(threads)
    run(folder, on_step, precision=precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_in_an_epoch(tmp_path, precision):
    theirs, mine = processes.Pipe()
    threads = torch.get_num_threads()
    args = tmp_path, precision, theirs, threads
    process = processes.Process(target=run_slowly, args=args)
    process.start()
    for _ in range(2 * (STEPS + 1) + 7):  # two epochs with validations, and some
        assert mine.poll(60)
        mine.recv()
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "epoch-00002.safetensors").exists()
    assert not (tmp_path / "epoch-00003.safetensors").exists()
    steps = []
    weights, epochs = run(tmp_path, lambda: steps.append(1), precision=precision)
    assert len(steps) == (EPOCHS - 2) * (STEPS + 1)  # it went on
    expected, all_epochs = run(precision=precision)
    assert epochs == all_epochs
    assert_equal(weights, expected)


class Stop(BaseException):
    "In place of a kill: nothing may catch it."


def list_events(owner_and_names, event, patch):
    "Call `event` before and after each thing that the writing of a file does."
    for owner, name in owner_and_names:
        real = getattr(owner, name)

        def watched(*args, real=real, name=name, **options):
            event(f"before {name}")
            result = real(*args, **options)
            event(f"after {name}")
            return result

        patch(owner, name, watched)


WATCHED = [
    (checkpoints_module, "save_file"),
    (os, "fsync"),
    (os, "replace"),
    (Path, "unlink"),
]


def test_stopped_at_every_moment_of_a_write(tmp_path, monkeypatch, whole):
    events = []
    with monkeypatch.context() as patch:
        list_events(WATCHED, events.append, patch.setattr)
        run(tmp_path / "quiet", epochs=3)
    first = [i for i, name in enumerate(events) if name == "before save_file"][2]
    assert {"after replace", "before unlink"} <= set(events[first:])
    for moment in range(first, len(events)):
        folder, seen = tmp_path / str(moment), []

        def stop(name, moment=moment, seen=seen):
            seen.append(name)
            if len(seen) == moment + 1:
                raise Stop(name)

        with monkeypatch.context() as patch, pytest.raises(Stop):
            list_events(WATCHED, stop, patch.setattr)
            run(folder)
        assert_goes_on(folder, whole)


@pytest.mark.parametrize("name", ["pack_state", "save_file"])
def test_no_memory_for_a_checkpoint(tmp_path, monkeypatch, whole, name):
    def fail(*args):
        raise MemoryError

    run(tmp_path, epochs=2)
    owner = sys.modules["recsys_nb.training.loop"]
    if name == "save_file":
        owner = checkpoints_module
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(MemoryError):
            run(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert_goes_on(tmp_path, whole)


# No room


def test_full_disk(tmp_path, monkeypatch, whole):
    run(tmp_path, epochs=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "save_file", fail)
        message = f"the disk of the folder {tmp_path} is full. It needs [0-9,]+ bytes"
        with pytest.raises(CheckpointError, match=message):
            run(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert_goes_on(tmp_path, whole)


@pytest.fixture
def disk(tmp_path):
    "A disk of one megabyte; only root can mount it."
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_disk_that_is_really_full(disk, whole):
    folder = disk / "run"
    run(folder, epochs=2)
    size = max(path.stat().st_size for path in folder.iterdir())
    room = shutil.disk_usage(disk).free - size // 2
    (disk / "others").write_bytes(bytes(room))  # half a checkpoint is left
    with pytest.raises(CheckpointError, match="is full") as error:
        run(folder)
    said = re.search("It needs ([0-9,]+) bytes", str(error.value))
    need = int(said[1].replace(",", ""))
    assert size / 2 < need <= 2 * size
    (disk / "others").unlink()
    assert_goes_on(folder, whole)


# Damaged by the disk


def cut(content, draw):
    return content[: draw.randrange(len(content))]


def flip(content, draw):
    damaged = bytearray(content)
    damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def zero(content, draw):
    start = draw.randrange(len(content) - 512)
    return content[:start] + bytes(512) + content[start + 512 :]


@pytest.mark.parametrize("damage", [cut, flip, zero])
def test_damaged(tmp_path, whole, damage):
    "A damaged file is named and the one before is used; else all are named."
    draw = random.Random(3)
    run(tmp_path, epochs=3)
    files = {path: path.read_bytes() for path in sorted(tmp_path.iterdir())}
    before, latest = files
    for _ in range(3):
        for path in tmp_path.iterdir():
            path.unlink()
        before.write_bytes(files[before])
        latest.write_bytes(damage(files[latest], draw))
        message = "epoch-00003.* goes on from the one before, epoch-00002.safetensors"
        with pytest.warns(UserWarning, match=message):
            assert_goes_on(tmp_path, whole)
        for path in tmp_path.iterdir():
            path.unlink()
        for path, content in files.items():
            path.write_bytes(damage(content, draw))
        message = "no checkpoint that is whole: .*epoch-00003.*epoch-00002.*resume"
        with pytest.raises(CheckpointError, match=message):
            run(tmp_path)


def test_a_changed_byte_is_found(tmp_path):
    "Wherever it is: in the weights, the names, the settings or the checksum."
    run(tmp_path, epochs=1)
    path = max(tmp_path.iterdir())
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    draw = random.Random(0)
    places = [*range(8), *(draw.randrange(8, header) for _ in range(300))]
    places += [draw.randrange(header, len(content)) for _ in range(100)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=path.name):
            read_checkpoint(path)
    path.write_bytes(content)
    read_checkpoint(path)
