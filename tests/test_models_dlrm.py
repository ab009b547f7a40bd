"DLRM: logits and gradients of every option beside the plain formulation; compilers."

import shutil

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import embedding, linear

from recsys_nb.models.dlrm import DLRM, DLRMConfig, log_loss
from recsys_nb.training import CheckpointError, train

CARDINALITIES = (40, 7)
COMPILER = shutil.which("g++") or shutil.which("clang++")


def make_model(cardinalities=CARDINALITIES, **options):
    torch.manual_seed(0)
    config = DLRMConfig(
        sparse_cardinalities=cardinalities,
        sparse_embedding_dim=8,
        num_dense_features=3,
        bottom_mlp_dims=[16, 8],
        top_mlp_dims=[16, 1],
        reference_init=True,
        **options,
    )
    return DLRM(config)


def make_batch(n=600):
    generator = torch.Generator().manual_seed(1)
    codes = [torch.randint(c, (n,), generator=generator) for c in CARDINALITIES]
    sparse = torch.stack(codes, 1)
    return {
        "dense": torch.randn(n, 3, generator=generator),
        "sparse": sparse,
        "label": (sparse.sum(1) % 2).float(),
    }


def mlp(x, weights, name):
    hidden = linear(x, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"]).relu()
    return linear(hidden, weights[f"{name}.2.weight"], weights[f"{name}.2.bias"])


def plain_dlrm(weights, dense, sparse, interaction, diagonal):
    "Naumov et al. 2019 and Wang et al. 2021: a table per feature, a list of pairs."
    x = mlp(dense, weights, "bottom").relu()
    tables = weights["table.weight"].split(list(CARDINALITIES))
    vectors = [x] + [embedding(sparse[:, j], table) for j, table in enumerate(tables)]
    z = torch.cat(vectors, 1)
    if interaction == "dot":
        pairs = [(i, j) for i in range(3) for j in range(i + diagonal)]
        dots = [(vectors[i] * vectors[j]).sum(1, keepdim=True) for i, j in pairs]
        z = torch.cat([x, *dots], 1)
    if interaction == "dcn":
        x0 = z
        for layer in range(3):
            down = linear(z, weights[f"interaction.V.{layer}.weight"])
            up = f"interaction.U.{layer}"
            z = x0 * linear(down, weights[f"{up}.weight"], weights[f"{up}.bias"]) + z
    return mlp(z, weights, "top").squeeze(1)


@pytest.mark.parametrize(
    ("interaction", "diagonal"),
    [("dot", False), ("dot", True), ("cat", False), ("dcn", False)],
)
def test_logits_and_gradients_are_those_of_the_paper(interaction, diagonal):
    model = make_model(interaction=interaction, self_interaction=diagonal)
    batch = make_batch()
    weights = {
        name: p.detach().clone().requires_grad_()
        for name, p in model.named_parameters()
    }
    expected = plain_dlrm(
        weights, batch["dense"], batch["sparse"], interaction, diagonal
    )
    logits = model(batch["dense"], batch["sparse"])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    bce(logits, batch["label"]).backward()
    bce(expected, batch["label"]).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, weights[name].grad, rtol=1e-4, atol=1e-6)


OPTIONS = [
    {"norm": "batch"},
    {"norm": "layer", "dropout": 0.1},
    {"embedding_dropout": 0.2},
    {"embedding_l2": 0.01},
    {"interaction": "dcn", "cross_experts": 4, "cross_rank": 4},
    {"head": "final", "interaction": "cat"},
    {"linear": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cardinalities", [CARDINALITIES, (300_000, 7)], ids=str)
def test_every_option_learns_and_every_weight_has_a_gradient(options, cardinalities):
    model, batch = make_model(cardinalities, **options), make_batch()
    loss = log_loss(model, batch)
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
    model.eval()
    one, other = (model(batch["dense"], batch["sparse"]) for _ in range(2))
    assert torch.equal(one, other)
    again = DLRM(DLRMConfig.from_dict(model.config.to_dict()))
    again.load_state_dict(model.state_dict())
    again.eval()
    assert torch.equal(again(batch["dense"], batch["sparse"]), one)


def test_the_penalty_is_half_the_squared_weights_and_only_while_training():
    model, batch = make_model(embedding_l2=0.1), make_batch()
    plain = bce(model(batch["dense"], batch["sparse"]), batch["label"])
    squares = model.table.weight.square().sum()
    torch.testing.assert_close(log_loss(model, batch), plain + 0.05 * squares)
    model.eval()
    torch.testing.assert_close(log_loss(model, batch), plain)


def test_a_large_table_is_penalised_on_the_rows_of_the_batch():
    model, batch = make_model((300_000, 7), embedding_l2=0.1), make_batch(50)
    rows = (batch["sparse"] + model.offsets).unique()
    squares = model.table.weight[rows].square().sum()
    plain = bce(model(batch["dense"], batch["sparse"]), batch["label"])
    torch.testing.assert_close(log_loss(model, batch), plain + 0.05 * squares)


def test_a_linear_term_alone_is_a_logistic_regression():
    model, batch = make_model(linear=True), make_batch(20)
    with torch.no_grad():
        for p in model.top.parameters():
            p.zero_()
        model.wide.table.weight.normal_()
        expected = model.wide.table.weight[batch["sparse"] + model.offsets].sum((1, 2))
        expected = expected + model.wide.numbers(batch["dense"]).squeeze(1)
        logits = model(batch["dense"], batch["sparse"])
    torch.testing.assert_close(logits, expected)


@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler")
def test_compiled_gives_the_same_logits():
    model, batch = make_model(), make_batch(50)
    compiled = torch.compile(model, dynamic=False)
    torch.testing.assert_close(
        compiled(batch["dense"], batch["sparse"]),
        model(batch["dense"], batch["sparse"]),
    )


@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler")
def test_compiled_as_on_a_gpu():
    "Where the compiler looks inside the model, which it does on a GPU."
    model, batch = make_model((300_000, 7)), make_batch(50)
    gradients = []
    for logits in (model, torch.compile(model._logits, backend="aot_eager")):
        model.zero_grad()
        bce(logits(batch["dense"], batch["sparse"]), batch["label"]).backward()
        gradients.append([p.grad.to_dense() for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])


@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::FutureWarning:torch")
@pytest.mark.parametrize("cardinalities", [CARDINALITIES, (300_000, 7)], ids=str)
def test_compiled_training_is_the_same_course(cardinalities, tmp_path):
    "Sparse gradients too; codes are still checked; its checkpoints are its own."
    data = make_batch()
    settings = {
        "epochs": 3,
        "batch_size": 250,
        "lr": 0.01,
        "device": "cpu",
        "precision": "fp32",
        "progress": False,
    }
    compiling = settings | {"compile": True}
    plain, compiled = make_model(cardinalities), make_model(cardinalities)
    one = train(plain, log_loss, data, **settings)
    other = train(compiled, log_loss, data, **compiling, folder=tmp_path)
    losses = [row["loss"] for row in one.epochs]
    assert losses == pytest.approx([row["loss"] for row in other.epochs], abs=1e-5)
    assert losses[-1] < losses[0]
    for p, q in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-3)
    with pytest.raises(CheckpointError, match="compile"):
        train(make_model(cardinalities), log_loss, data, **settings, folder=tmp_path)
    wrong = data | {"sparse": data["sparse"] + torch.tensor([0, 1])}
    with pytest.raises(IndexError, match="feature 1 has code 7"):
        train(make_model(cardinalities), log_loss, wrong, **compiling)


class Elsewhere(torch.nn.Module):
    "A table without a weight of its own, as one in parts."

    sparse = True

    def __init__(self, table):
        super().__init__()
        self.tables = torch.nn.ModuleList([table])

    def forward(self, codes):
        return self.tables[0](codes)


def test_a_table_that_is_no_embedding_gives_rows_too():
    model, batch = make_model(), make_batch(20)
    expected = model(batch["dense"], batch["sparse"])
    model.table = Elsewhere(model.table)
    torch.testing.assert_close(model(batch["dense"], batch["sparse"]), expected)
