"What no reader wants in the chapter: compilers, and the gradients of each DLRM against those of the plain formulation."
import shutil

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import embedding, linear

from recsys_nb.dlrm import DLRM, DLRMConfig
from recsys_nb.train import CheckpointError, train


def made(big=False, **options):
    torch.manual_seed(0)
    cards = [300_000, 7] if big else [40, 7]
    return DLRM(DLRMConfig(sparse_cardinalities=cards, sparse_embedding_dim=8, num_dense_features=3, bottom_mlp_dims=[16, 8], top_mlp_dims=[16, 1], reference_init=True, **options))


def examples(n=600):
    g = torch.Generator().manual_seed(1)
    dense, sparse = torch.randn(n, 3, generator=g), torch.stack([torch.randint(c, (n,), generator=g) for c in (40, 7)], 1)
    return {"dense": dense, "sparse": sparse, "y": ((sparse.sum(1) % 2) * 1.)}


def loss(model, batch): return bce(model(batch["dense"], batch["sparse"]), batch["y"])


def plain(w, dense, sparse, interaction, diagonal):
    "Naumov et al. 2019 and Wang et al. 2021 from a dict of weights, with a table a feature, einsum and a list of pairs."
    x = linear(linear(dense, w["bottom.0.weight"], w["bottom.0.bias"]).relu(), w["bottom.2.weight"], w["bottom.2.bias"]).relu()
    vectors = [x, embedding(sparse[:, 0], w["table.weight"][:40]), embedding(sparse[:, 1], w["table.weight"][40:])]
    z = torch.cat(vectors, 1)
    if interaction == "dot": z = torch.stack([*x.T, *(torch.einsum("bd,bd->b", vectors[i], vectors[j]) for i in range(3) for j in range(i + diagonal))], 1)
    if interaction == "dcn":
        x0 = z
        for i in range(3): z = x0 * linear(linear(z, w[f"interaction.V.{i}.weight"]), w[f"interaction.U.{i}.weight"], w[f"interaction.U.{i}.bias"]) + z
    return linear(linear(z, w["top.0.weight"], w["top.0.bias"]).relu(), w["top.2.weight"], w["top.2.bias"]).squeeze(1)


@pytest.mark.parametrize("interaction, diagonal", [("dot", False), ("dot", True), ("cat", False), ("dcn", False)])
def test_logits_and_gradients_are_those_of_the_paper(interaction, diagonal):
    model, data = made(interaction=interaction, self_interaction=diagonal), examples()
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    expected = plain(weights, data["dense"], data["sparse"], interaction, diagonal)
    logits = model(data["dense"], data["sparse"])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    bce(logits, data["y"]).backward(); bce(expected, data["y"]).backward()
    for name, p in model.named_parameters(): torch.testing.assert_close(p.grad, weights[name].grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::FutureWarning:torch")
@pytest.mark.parametrize("big", [False, True])
def test_compiled(big, tmp_path):
    "The same course as without, also where the table has sparse gradients; codes are still checked; and its checkpoints are its own."
    data, settings = examples(), dict(epochs=3, batch_size=250, lr=.01, device="cpu", precision="fp32", progress=False)
    plain, compiled = made(big), made(big)
    a, b = train(plain, loss, data, **settings), train(compiled, loss, data, **settings, compile=True, folder=tmp_path)
    assert [r["loss"] for r in a.epochs] == pytest.approx([r["loss"] for r in b.epochs], abs=1e-5) and b.epochs[-1]["loss"] < b.epochs[0]["loss"]
    for p, q in zip(plain.parameters(), compiled.parameters()): torch.testing.assert_close(p, q, rtol=0, atol=1e-3)
    with pytest.raises(CheckpointError, match="compile"): train(made(big), loss, data, **settings, folder=tmp_path)
    with pytest.raises(IndexError, match="feature 1 has code 7"): train(made(big), loss, data | {"sparse": data["sparse"] + torch.tensor([0, 1])}, **settings, compile=True)


def test_a_table_that_is_no_embedding_gives_rows_too():
    "As the tables in parts of chapter 06d, which have no weight of their own."
    class Elsewhere(torch.nn.Module):
        sparse = True
        def __init__(self, table): super().__init__(); self.tables = torch.nn.ModuleList([table])
        def forward(self, codes): return self.tables[0](codes)
    torch.manual_seed(0); model = DLRM(DLRMConfig(sparse_cardinalities=[5, 3], sparse_embedding_dim=4, num_dense_features=0, bottom_mlp_dims=[], top_mlp_dims=[8, 1]))
    codes = torch.tensor([[4, 0], [1, 2]]); whole = model(None, codes)
    model.table = Elsewhere(model.table)
    torch.testing.assert_close(model(None, codes), whole)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_as_on_a_gpu():
    "Where the compiler looks inside the model, which it does on a GPU, logits and gradients are the same."
    model, data = made(big=True), examples(50); grads = []
    for logits in (model, torch.compile(model._logits, dynamic=False)):
        model.zero_grad(); bce(logits(data["dense"], data["sparse"]), data["y"]).backward()
        grads.append([p.grad.to_dense() for p in model.parameters()])
    for p, q in zip(*grads): torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert all(g.abs().sum() > 0 for g in grads[0])
