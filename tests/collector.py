"""A collector of traces: takes OTLP over HTTP and decodes it with OpenTelemetry's own messages."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace


class Collector:
    """Listens on loopback; `answer` is the HTTP status that it gives."""

    def __init__(self) -> None:
        self.spans: list[SimpleNamespace] = []
        self.bodies: list[bytes] = []
        self.asked: list[tuple[str, str]] = []
        self.answer = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.asked.append((self.path, self.headers["content-type"]))
                if outer.answer == 200:
                    outer._take(body)
                self.send_response(outer.answer)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _take(self, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.bodies.append(body)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _attributes(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self.spans += [_span(span, resource) for span in of_scope.spans]

    def named(self, name: str) -> list[SimpleNamespace]:
        return [span for span in list(self.spans) if span.name == name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _span(span, resource) -> SimpleNamespace:
    return SimpleNamespace(
        name=span.name,
        trace=int.from_bytes(span.trace_id),
        id=int.from_bytes(span.span_id),
        parent=int.from_bytes(span.parent_span_id),
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        failed=span.status.code == 2,
        attributes=_attributes(span.attributes),
        resource=resource,
    )


def _attributes(entries) -> dict:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in entries}
