"""Models beyond the chapters: properties of packed histories, causality, ONNX files,
equal training with sparse and dense gradients."""

import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from test_training_processes import start_two

from recsys_nb.models.history import HISTORY_ENCODERS, pack_histories
from recsys_nb.models.sampled_softmax import log_draw, sampled_softmax_loss
from recsys_nb.models.two_tower import TwoTowerConfig, TwoTowerModel

N_ITEMS = 30
ENCODERS = {
    "mean": {"recency": 3},
    "attention": {"attention_heads": 2, "attention_dropout": 0.0},
}
assert set(ENCODERS) == set(HISTORY_ENCODERS)

histories = st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=20), max_size=12)


def make_model(encoder, seed=0, **changes):
    "A small model whose parameters are all in use."
    torch.manual_seed(seed)
    config = TwoTowerConfig(
        user_embedding_dim=8,
        item_embedding_dim=8,
        output_embedding_dim=8,
        item_categorical_cardinalities=[N_ITEMS, 4],
        history_encoder=encoder,
        history_length=6,
        **ENCODERS[encoder],
        **changes,
    )
    model = TwoTowerModel(config)
    with torch.no_grad():
        for parameter in model.history_encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def encode_users(model, history):
    "Vectors of users who are their history."
    return model.user(torch.empty(len(history), 0, dtype=torch.long), None, history)


def concatenate(log):
    "Items and offsets of lists of items."
    items = torch.tensor(
        [item for history in log for item in history], dtype=torch.long
    )
    sizes = torch.tensor([len(history) for history in log], dtype=torch.long)
    return items, torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])


@given(histories, st.integers(1, 9))
def test_every_pair_is_packed_once_and_windows_stay_whole(log, length):
    items, offsets = concatenate(log)
    packed = pack_histories(items, offsets, length)
    history, segments = packed.history.flip(1), packed.segments.flip(1)
    real = packed.targets >= 0
    assert torch.equal(real, history >= 0) and torch.equal(real, segments >= 0)
    pairs = zip(history[real].tolist(), packed.targets[real].tolist(), strict=True)
    expected = [pair for h in log for pair in zip(h, h[1:], strict=False)]
    assert sorted(pairs) == sorted(expected)
    for window in segments[real].unique():
        lines, places = (segments == window).nonzero().T
        assert len(lines.unique()) == 1
        assert torch.equal(places, torch.arange(len(places)) + places[0])
        following = packed.targets[lines, places][:-1]
        assert torch.equal(following, history[lines, places][1:])


@given(histories)
def test_packed_windows_know_nothing_of_each_other(log):
    model = make_model("attention").eval()
    packed = pack_histories(*concatenate(log), 6)
    if not len(packed.history):
        return
    vectors = model.user_positions(packed.history, segments=packed.segments)
    segments = packed.segments.flip(1)
    for window in segments[segments >= 0].unique():
        line, place = (segments == window).nonzero().T
        alone = packed.history.flip(1)[line, place].flip(0)[None]
        expected = model.user_positions(alone)[0]
        torch.testing.assert_close(vectors[line, place], expected, atol=1e-5, rtol=0)


@given(st.lists(st.integers(0, N_ITEMS - 1), min_size=2, max_size=6), st.data())
def test_a_later_item_changes_no_earlier_vector(history, data):
    model = make_model("attention").eval()
    place = data.draw(st.integers(0, len(history) - 1))
    changed = [*history]
    changed[place] = (history[place] + 1) % N_ITEMS
    before, after = (
        model.user_positions(torch.tensor([h[::-1]]))[0] for h in (history, changed)
    )
    assert torch.equal(before[:place], after[:place])
    assert not torch.allclose(before[place], after[place])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_and_old_items_change_nothing(encoder):
    model = make_model(encoder).eval()
    history = torch.randint(N_ITEMS, (5, 6))
    padded = torch.cat([history, torch.full((5, 3), -1)], 1)
    longer = torch.cat([history, torch.randint(N_ITEMS, (5, 4))], 1)
    expected = encode_users(model, history)
    torch.testing.assert_close(encode_users(model, padded), expected)
    torch.testing.assert_close(encode_users(model, longer), expected)
    assert not encode_users(model, torch.full((2, 4), -1)).any()


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_sparse_and_dense_gradients_train_alike(encoder, positions):
    if positions and encoder == "mean":
        pytest.skip("the mean has one vector for a history")

    def train(sparse):
        model = make_model(encoder, sparse=sparse)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        generator = torch.Generator().manual_seed(1)
        for _ in range(5):
            history = torch.randint(-1, N_ITEMS, (16, 6), generator=generator)
            items = torch.randint(4, (96 if positions else 16, 2), generator=generator)
            if positions:
                u, v = model.both_positions(history, items)
                u = u.flatten(0, 1)
            else:
                none = torch.empty(16, 0, dtype=torch.long)
                u, v = model.both(none, items, history=history)
            optimizer.zero_grad()
            sampled_softmax_loss(u, v, item_ids=items[:, 0]).backward()
            optimizer.step()
        return model.state_dict()

    dense = train(False)
    for name, tensor in train(True).items():
        torch.testing.assert_close(tensor, dense[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_same_seed_trains_the_same_model(encoder):
    def train():
        model = make_model(encoder, dropout=0.3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        history = torch.arange(24).view(4, 6)
        for _ in range(3):
            optimizer.zero_grad()
            encode_users(model, history)[:, 0].sum().backward()
            optimizer.step()
        return encode_users(model.eval(), history)

    assert torch.equal(train(), train())


class UserTower(torch.nn.Module):
    "What is exported: histories in, vectors out."

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, history):
        return encode_users(self.model, history)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_onnx_file_gives_the_same_vectors(encoder, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    tower = UserTower(make_model(encoder, sparse=True)).eval()
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.onnx.export(
            tower,
            kwargs={"history": torch.randint(-1, N_ITEMS, (3, 5))},
            output_names=["vector"],
            dynamic_shapes={"history": free},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    path = tmp_path / "user.onnx"
    program.save(path)
    session = runtime.InferenceSession(path)
    for shape in ((1, 1), (4, 6), (2, 3), (3, 11)):  # also longer than history_length
        history = torch.randint(-1, N_ITEMS, shape)
        history[0] = -1
        (vectors,) = session.run(None, {"history": history.numpy()})
        with torch.no_grad():
            expected = tower(history).numpy()
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


def save_loss_of_two(folder, rank):
    "The loss and the gradients of this process's part of a batch of ten."
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    u, table = (torch.randn(n, 4, dtype=torch.double) for n in (10, 20))
    ids, others = torch.randint(20, (10,)), torch.randint(20, (6,))
    v, extra = table[ids], table[others]
    log_q = log_draw(torch.arange(1, 21), 10, 6).double()
    mine = slice(0, 7) if rank == 0 else slice(7, 10)
    users, items = u[mine].requires_grad_(), v[mine].requires_grad_()
    negatives = extra, log_q[others], others
    codes = ids[mine]
    loss = sampled_softmax_loss(users, items, 0.5, log_q[codes], codes, negatives)
    (loss * len(users) / 10).backward()
    rows = {"loss": loss.item() * len(users) / 10, "grad": users.grad.tolist()}
    (folder / f"{rank}.json").write_text(json.dumps(rows))
    dist.destroy_process_group()


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path):
    assert start_two(save_loss_of_two, tmp_path) == [0, 0]
    rows = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]

    torch.manual_seed(0)
    u, table = (torch.randn(n, 4, dtype=torch.double) for n in (10, 20))
    ids, others = torch.randint(20, (10,)), torch.randint(20, (6,))
    v, extra = table[ids], table[others]
    log_q = log_draw(torch.arange(1, 21), 10, 6).double()
    u.requires_grad_()
    negatives = extra, log_q[others], others
    loss = sampled_softmax_loss(u, v, 0.5, log_q[ids], ids, negatives)
    loss.backward()
    assert sum(r["loss"] for r in rows) == pytest.approx(loss.item())
    gradients = torch.tensor([g for r in rows for g in r["grad"]], dtype=torch.double)
    torch.testing.assert_close(gradients, u.grad)
