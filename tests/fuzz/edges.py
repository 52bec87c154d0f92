"""Every edge that has a fuzzer, by name."""

from __future__ import annotations

from tests.fuzz import call_edges, file_edges, grpc_edges, http_edges, runner_edges
from tests.fuzz.engine import Edge

EDGES: dict[str, Edge] = {
    "watch": grpc_edges.watch,
    "job": grpc_edges.job,
    "ticket": grpc_edges.ticket,
    "calls": call_edges.calls,
    "reports": runner_edges.reports,
    "stream": runner_edges.stream,
    "book": runner_edges.book,
    "requests": http_edges.requests,
    "orders": http_edges.orders,
    "files": file_edges.files,
}
