"""The tables of docs/scaling.md, as Markdown: of what was measured, and of what is calculated from it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from scaling.kept import Step
from scaling.large import HOURS_A_MONTH, Large, Node, Serving, manifest_room
from scaling.model import served_ms, shape_of, sharded_ms

Row = Sequence[str]
_SHARDS = 8
# Another number of centroids is shown where a query costs so much of what it costs otherwise.
_CHEAPER = 0.95
_LARGE = (1e9, 1e10, 1e11)
_WANTED = (1e6, 3e6, 1e7, 3e7, 1e8)


def tables(sizes: Sequence[Step], options: argparse.Namespace) -> dict[str, str]:
    """Every table by the name of its mark."""
    large = Large(sizes, options)
    return {
        "sizes": _sizes(sizes),
        "build": _build(sizes),
        "query": _query(sizes, large),
        "recall": _recall(sizes),
        "memory": _memory(sizes),
        "serving": _serving(sizes),
        "rates": _rates(large),
        "assumed": _assumed(options),
        "building": _building(large, options),
        "endpoint": _endpoint(large, options),
        "parts": _parts(large),
        "limits": _limits(sizes, large),
    }


def _sizes(sizes: Sequence[Step]) -> str:
    have = ", ".join(_count(size["tokens"]) for size in sizes)
    lacking = [_count(tokens) for tokens in _WANTED if tokens not in {size["tokens"] for size in sizes}]
    machines = {
        f"{told['cores']} cores ({told['processor']}), {_gb(told['memory_bytes'])} GB of memory"
        for told in (size["done"] for size in sizes)
    }
    minutes = sum(step["step_s"] for size in sizes for step in size.values() if isinstance(step, dict)) / 60
    disk = sum(size["search"]["bytes"] for size in sizes)
    text = (
        f"Measured: {have} tokens, on {' and '.join(sorted(machines))}; {minutes:.0f} minutes, {_gb(disk)} GB of disk."
    )
    return text + (f" Not measured yet, though the command has them: {', '.join(lacking)} tokens." if lacking else "")


def _build(sizes: Sequence[Step]) -> str:
    rows = []
    for size in sizes:
        whole, built, codebook = size["search"], size["encode"], size["codebook"]
        n, cpu = whole["tokens"], built["cpu_s"]
        rows.append([
            _count(n), f"{whole['partitions']}", f"{whole['n_centroids']:,}", f"{codebook['cpu_s']:.0f}",
            f"{cpu['quantise and write']:.0f}", f"{n / cpu['quantise and write']:,.0f}", f"{built['wall_s']:.0f}",
            f"{_gib(codebook['peak_bytes'])}", f"{_gib(built['worker_peak_bytes'])}", f"{whole['bytes'] / n:.1f}",
            f"{_gb(whole['bytes'])}",
        ])  # fmt: skip
    header = ["tokens", "partitions", "centroids", "codebook, CPU s", "quantise and write, CPU s", "tokens a CPU s",
              "both workers, s", "peak GiB, codebook", "peak GiB, a worker", "bytes a token", "GB"]  # fmt: skip
    return _table(header, rows)


def _query(sizes: Sequence[Step], large: Large) -> str:
    rows = []
    for size in sizes:
        whole, sharded = size["search"], sharded_ms(size)
        cpu = whole["cpu_ms"]["default"]
        most = max(sharded)
        rows.append([
            _count(whole["tokens"]), f"{np.median(cpu):.2f}", f"{np.percentile(cpu, 95):.2f}",
            *(f"{sharded[n]:.2f}" for n in (1, 2, 4, most)),
            f"{large.model.search_ms(shape_of(size, 1)):.2f}, {large.model.search_ms(shape_of(size, most)):.2f}",
            f"{sum(served_ms(size)[_SHARDS].values()):.1f}", f"{whole['exact_cpu_ms']:,.0f}",
        ])  # fmt: skip
    header = ["tokens", "`Index.search`", "p95", "1 shard", "2", "4", "8", "by the rates, 1 and 8 shards",
              "8 shards over HTTP", "`Index.exact`"]  # fmt: skip
    return _table(header, rows)


def _recall(sizes: Sequence[Step]) -> str:
    rows = []
    for size in sizes:
        whole = size["search"]
        of_exact, recall = whole["recall_of_exact"], whole["recall"]
        rows.append([
            _count(whole["tokens"]), f"{whole['exact_queries']}",
            *(f"{np.median(whole['cpu_ms'][effort]):.2f}, {of_exact[effort]:.3f}, {recall[effort]:.3f}"
              for effort in ("fast", "default", "thorough")),
            f"{whole['recall_exact']:.3f}",
        ])  # fmt: skip
    return _table(["tokens", "queries", "fast", "default", "thorough", "`Index.exact`"], rows)


def _memory(sizes: Sequence[Step]) -> str:
    rows = []
    for size in sizes:
        whole = size["search"]
        shards = size["serve"]["shards"][str(_SHARDS)]["memory"]["shards"]
        rows.append([
            _count(whole["tokens"]), _gib(whole["bytes"]), _gib(whole["peak_bytes"]), _gib(whole["own_bytes"]),
            _gib(shards["own"]), f"{whole['first_s']:.1f}",
        ])  # fmt: skip
    header = ["tokens", "index, GiB", "a searching process, files included", "without files",
              f"{_SHARDS} shards, without files", "first search, s"]  # fmt: skip
    return _table(header, rows)


def _serving(sizes: Sequence[Step]) -> str:
    rows = []
    for size in sizes:
        for n, told in size["serve"]["shards"].items():
            cpu, shards, gateway = told["cpu_ms"], told["memory"]["shards"], told["memory"]["gateway"]
            others = sum(ms for role, ms in cpu.items() if role not in ("shards", "gateway"))
            rows.append([
                _count(size["search"]["tokens"]), n, *(f"{np.percentile(told['ms'], part):.1f}" for part in (50, 95)),
                f"{cpu['shards']:.1f}", f"{cpu['gateway']:.1f}", f"{others:.1f}", f"{told['same_hits']:.3f}",
                f"{_gib(shards['own'] / shards['processes'])}", f"{_gib(gateway['own'])}", f"{told['start_s']:.0f}",
            ])  # fmt: skip
    header = ["tokens", "shards", "ms, median", "p95", "CPU ms: shards", "gateway", "rest", "same hits",
              "GiB a shard", "GiB, gateway", "start, s"]  # fmt: skip
    return _table(header, rows)


def _rates(large: Large) -> str:
    model = large.model
    rows = [
        ["a search, whatever the size", f"{model.fixed:.2f} ms"],
        ["a partition", f"{1000 * model.partition:.1f} µs"],
        ["a million documents", f"{model.document:.2f} ms"],
        ["a list that is visited, in each partition", f"{model.visit:.1f} ns"],
        ["an entry of a list", f"{model.entry:.2f} ns"],
        ["a shard", f"{model.shard:.2f} ms"],
        ["a thousand centroids", f"{1000 * model.centroid:.1f} µs"],
        ["the gateway beside that, and for each shard", f"{model.gateway:.2f} + {model.gateway_shard:.2f} ms"],
        [
            "all of serving beside the search, and for each shard",
            f"{model.serving:.2f} + {model.serving_shard:.2f} ms",
        ],
    ]
    return _table(["what", "CPU"], rows)


def _assumed(options: argparse.Namespace) -> str:
    build, serve = options.build_node, options.serve_node
    gpu = "none given"
    if options.gpu_rate:
        gpu = f"{options.gpu_rate:,.0f} tokens a second of one, {_money(options.gpu_price)} an hour"
    rows = [
        ["encoding", f"{options.encode_rate:,.0f} tokens a second of a core (`--encode-rate`)"],
        ["GPUs", f"{gpu} (`--gpu-rate`, `--gpu-price`)"],
        ["a build's nodes", f"{options.build_nodes} of {_node(build)} (`--build-nodes`, `--build-node`)"],
        ["an endpoint's nodes", f"{_node(serve)} (`--serve-node`)"],
        ["a vCPU", f"{options.cores_per_vcpu:g} of a core measured (`--cores-per-vcpu`)"],
        ["a shard's time", f"{options.shard_ms:g} ms of CPU a query (`--shard-ms`)"],
        ["cores at work", f"{options.utilisation:.0%} (`--utilisation`)"],
        ["texts", f"{options.text_bytes:g} bytes a token (`--text-bytes`)"],
        ["storage", f"{_money(options.storage_price)} a GiB and month (`--storage-price`)"],
    ]
    return _table(["what", "taken to be"], rows)


def _building(large: Large, options: argparse.Namespace) -> str:
    rows = []
    for tokens in _LARGE:
        built = large.building(tokens)
        row = [
            _count(tokens), f"{built.n_centroids:,}", f"{built.codebook_s / 60:.0f}", f"{_hours(built.encode_core_h)}",
            f"{_hours(built.quantise_core_h)}", f"{_hours(built.merge_core_h)}", f"{_hours(built.node_h)}",
            f"{_hours(built.hours)}", f"{_money(built.price)}", f"{_money(built.spot) if built.spot else '-'}",
            f"{built.bytes / 1e12:.2f}",
        ]  # fmt: skip
        if options.gpu_rate:
            hours = tokens / options.gpu_rate / 3600
            row += [_hours(hours), _money(hours * options.gpu_price)]
        rows.append(row)
    header = ["tokens", "centroids", "codebook, CPU minutes", "encode, core hours", "quantise", "merge", "node hours",
              f"hours on {options.build_nodes} nodes", "price", "on spot", "TB"]  # fmt: skip
    return _table(header + ["encode, GPU hours", "price"] * bool(options.gpu_rate), rows)


def _served_sizes(large: Large) -> list[Serving]:
    found = []
    for tokens in _LARGE:
        usual = large.serving(tokens, large.building(tokens).n_centroids)
        best = large.serving(tokens, large.best_centroids(tokens))
        found += [usual, best] if best.http_ms < _CHEAPER * usual.http_ms else [usual]
    return found


def _endpoint(large: Large, options: argparse.Namespace) -> str:
    rows = []
    for served in _served_sizes(large):
        shape, a_month = served.shape, HOURS_A_MONTH * 3600
        rows.append([
            _count(shape.tokens), f"{shape.n_centroids:,}", f"{shape.shards:,}", f"{served.nodes:,}",
            f"{(served.bytes + served.own_bytes) / 1e12:.2f}", f"{served.shard_ms:.0f}", f"{served.gateway_ms:.0f}",
            f"{served.http_ms:,.0f}", f"{served.per_second:,.0f}", f"{served.gateways:,.1f}",
            _money(served.price_a_month), _money(served.storage_a_month),
            _money(1e6 * served.price_a_month / (served.per_second * a_month)),
        ])  # fmt: skip
    header = ["tokens", "centroids", "shards", f"nodes ({options.serve_node.name})", "TB of memory", "CPU ms a shard",
              "gateway", "all, CPU ms a query", "queries a second", "gateways at work", "nodes, a month",
              "storage, a month", "a million queries"]  # fmt: skip
    return _table(header, rows)


def _parts(large: Large) -> str:
    rows = []
    for served in _served_sizes(large):
        told = served.search
        beside = served.http_ms - sum(told.values())
        rows.append([
            _count(served.shape.tokens), f"{served.shape.n_centroids:,}", f"{served.shape.shards:,}",
            *(f"{told[name]:,.1f}" for name in ("centroids", "shards", "lists", "documents", "exact scores")),
            f"{beside:,.1f}",
        ])  # fmt: skip
    header = ["tokens", "centroids", "shards", "all centroids, once", "shards", "lists", "documents",
              "exact scores", "serving"]  # fmt: skip
    return _table(header, rows)


def _limits(sizes: Sequence[Step], large: Large) -> str:
    built = [large.building(tokens) for tokens in _LARGE]
    served = [large.serving(each.tokens, each.n_centroids) for each in built]
    cold = sizes[-1]["cold"]
    ahead = f", reading {cold['read_ahead_bytes'] // 1024:,} kB ahead" if cold["read_ahead_bytes"] else ""
    missed = (
        f"{_count(sizes[-1]['search']['tokens'])} tokens, a query: {cold['major_faults']:.1f} page faults, "
        f"{cold['read_bytes'] / 1e6:.1f} MB, {cold['wall_ms']:.0f} ms in place of {cold['warm_wall_ms']:.0f}"
    )
    rows = [
        ["codebook: tokens a centroid", *(f"{each.tokens / each.n_centroids:,.0f}" for each in built)],
        ["codebook: sampled tokens a centroid", *(f"{each.sample_tokens / each.n_centroids:.0f}" for each in built)],
        ["parts to encode", *(f"{each.parts:,}" for each in built)],
        ["merge: tokens a partition", *(_count(each.tokens / each.partitions) for each in built)],
        ["merge: GiB a task", *(_gib(each.merge_bytes) for each in built)],
        ["manifest: partitions, MB", *(f"{each.partitions:,}, {each.manifest_bytes / 1e6:.1f}" for each in built)],
        ["manifest: of what is allowed", *(f"{manifest_room(each):.0%}" for each in built)],
        ["documents, millions", *(f"{each.documents / 1e6:,.0f}" for each in built)],
        ["centroid stage: CPU ms, in the gateway", *(f"{each.search['centroids']:,.0f}" for each in served)],
        ["fan-out: shards", *(f"{each.shape.shards:,}" for each in served)],
        ["gateway: CPU ms a query", *(f"{each.gateway_ms:,.0f}" for each in served)],
        ["gateway: kB of candidates a query", *(f"{each.candidates_bytes / 1e3:,.0f}" for each in served)],
        ["page cache: TB of files", *(f"{each.bytes / 1e12:.2f}" for each in served)],
        ["a shard opens in, s", *(f"{each.open_s:,.0f}" for each in served)],
    ]  # fmt: skip
    table = _table(["what", *(_count(each.tokens) for each in built)], rows)
    return f"{table}\n\nResiduals on the disk only, {missed}{ahead}."


def _table(header: Row, rows: Sequence[Row]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return (
        "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        .replace("| --- ", "|---")
        .replace("--- |", "---|")
    )


def _node(node: Node) -> str:
    spot = f", {_money(node.spot)} on spot" if node.spot else ""
    return f"{node.name}: {node.vcpus} vCPUs, {node.memory_gib:g} GiB, {_money(node.price)} an hour{spot}"


def _count(n: float) -> str:
    return f"{n / 1e9:g} B" if n >= 1e9 else f"{n / 1e6:.3g} M" if n >= 1e6 else f"{n:,.0f}"


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.2f}"


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f}" if n_bytes < 1e10 else f"{n_bytes / 1e9:.0f}"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours < 100 else f"{hours:,.0f}"


def _money(dollars: float) -> str:
    if dollars >= 100:
        return f"${dollars:,.0f}"
    return f"${dollars:.2f}" if dollars >= 10 else f"${dollars:.3f}".removesuffix("0")
