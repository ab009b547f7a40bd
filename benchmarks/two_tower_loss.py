"""Sampled softmax, forward and backward: the plain formula against recsys_nb.models.sampled_softmax.sampled_softmax_loss, in fp32 and under bf16 autocast.

All in one process on one thread, turn about, in CPU time; the ratio is what to read. `python benchmarks/two_tower_loss.py`
"""
import statistics
import time

import torch
import torch.nn.functional as F

from recsys_nb.models.sampled_softmax import log_draw, sampled_softmax_loss


def plain(u, v, temperature, log_q, ids):
    "The formula as it is usually written: the whole matrix, and a mask over the copies of each row's positive."
    copies = (ids[:, None] == ids) & ~torch.eye(len(ids), dtype=torch.bool)
    return F.cross_entropy((u @ v.T / temperature - log_q).masked_fill(copies, -torch.inf), torch.arange(len(u)))


def chunked(u, v, temperature, log_q, ids): return sampled_softmax_loss(u, v, temperature, log_q, ids)


def seconds(loss, args, precision):
    start = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"): value = loss(*args)
    value.backward()
    return time.process_time() - start


def main(n_items=100_000, d=64, repeats=7):
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, d={d}, forward + backward, median of {repeats} (ms CPU)")
    for catalogue in ("distinct items", "Zipf items"):
        for B in (2048, 8192):
            torch.manual_seed(0)
            weights = 1 / torch.arange(1., n_items + 1)
            ids = torch.randperm(n_items)[:B] if catalogue == "distinct items" else torch.multinomial(weights, B, replacement=True)
            log_q = log_draw(weights)[ids]
            u, v = [F.normalize(torch.randn(B, d), dim=1).requires_grad_() for _ in range(2)]
            times = {(f, precision): [] for f in (plain, chunked) for precision in ("fp32", "bf16")}
            for r in range(repeats + 1):
                for f, precision in times: times[f, precision].append(seconds(f, (u, v, .1, log_q, ids), precision))
            ms = {k: statistics.median(t[1:]) * 1e3 for k, t in times.items()}
            for precision in ("fp32", "bf16"):
                a, b = ms[plain, precision], ms[chunked, precision]
                print(f"{catalogue:>14}, B={B}, {len(ids.unique())} columns, {precision}: plain {a:8.1f}  chunked {b:8.1f}  plain/chunked {a / b:.2f}")


if __name__ == "__main__": main()
