"""Answer every GET with the name of the node; run in a pod by the tests of the cluster."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answer(BaseHTTPRequestHandler):
    """Answer with the variable NODE."""

    def do_GET(self) -> None:
        """Answer one request."""
        body = os.environ["NODE"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    print("listening", flush=True)  # noqa: T201 - the tests read it from the pod's log
    ThreadingHTTPServer(("", 8080), Answer).serve_forever()
