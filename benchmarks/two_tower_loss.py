"""Sampled softmax, forward and backward: the plain formula against the chunked loss.

In fp32 and under bf16 autocast, all in one process on one thread, turn about, in CPU
time; the ratio is what to read. `python benchmarks/two_tower_loss.py`
"""

import statistics
import time

import torch
import torch.nn.functional as F

from recsys_nb.models.sampled_softmax import log_draw, sampled_softmax_loss

N_ITEMS, DIM, REPEATS = 100_000, 64, 7


def lose_plainly(u, v, temperature, log_q, ids):
    "As it is usually written: the whole matrix, and a mask over copies of positives."
    copies = (ids[:, None] == ids) & ~torch.eye(len(ids), dtype=torch.bool)
    logits = u @ v.T / temperature - log_q
    targets = torch.arange(len(u))
    return F.cross_entropy(logits.masked_fill(copies, -torch.inf), targets)


LOSSES = {"plain": lose_plainly, "chunked": sampled_softmax_loss}


def measure_seconds(loss, arguments, precision):
    "CPU time of one forward and backward pass."
    start = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        value = loss(*arguments)
    value.backward()
    return time.process_time() - start


def draw_batch(catalogue, batch_size):
    "Vectors, temperature, corrections and item codes of a batch."
    torch.manual_seed(0)
    weights = 1 / torch.arange(1.0, N_ITEMS + 1)
    if catalogue == "distinct items":
        ids = torch.randperm(N_ITEMS)[:batch_size]
    else:
        ids = torch.multinomial(weights, batch_size, replacement=True)
    u, v = (F.normalize(torch.randn(batch_size, DIM), dim=1) for _ in range(2))
    return u.requires_grad_(), v.requires_grad_(), 0.1, log_draw(weights)[ids], ids


def main():
    "All cases, a line each."
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, d={DIM}, median of {REPEATS} (ms CPU)")
    for catalogue in ("distinct items", "Zipf items"):
        for batch_size in (2048, 8192):
            batch = draw_batch(catalogue, batch_size)
            cases = [(name, p) for name in LOSSES for p in ("fp32", "bf16")]
            times = {case: [] for case in cases}
            for _ in range(REPEATS + 1):
                for name, precision in cases:
                    seconds = measure_seconds(LOSSES[name], batch, precision)
                    times[name, precision].append(seconds)
            ms = {case: 1e3 * statistics.median(t[1:]) for case, t in times.items()}
            for precision in ("fp32", "bf16"):
                plain, chunked = (ms[name, precision] for name in LOSSES)
                print(
                    f"{catalogue:>14}, B={batch_size}, {len(batch[-1].unique())} "
                    f"columns, {precision}: plain {plain:8.1f}  chunked "
                    f"{chunked:8.1f}  plain/chunked {plain / chunked:.2f}"
                )


if __name__ == "__main__":
    main()
