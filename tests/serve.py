"""A minimal server for a SavedModel, with plain TensorFlow and the requests of TensorFlow Serving's REST API.

    python serve.py saved_models/digits

It serves the newest version on a free port of this machine, which it prints. `GET /v1/models/digits` tells the
version, and `POST /v1/models/digits:predict` with `{"instances": [...]}` answers `{"predictions": [...]}`;
`"signature_name"` asks for another endpoint than `serve`.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

# Neither is needed to serve, and here neither is there.
sys.modules["keras"] = sys.modules["kwarmup"] = None

import tensorflow as tf  # noqa: E402

path = Path(sys.argv[1])
version = max(
    (entry for entry in path.iterdir() if entry.name.isdecimal()), key=lambda entry: int(entry.name)
)
model = tf.saved_model.load(str(version))


def predict(request):
    function = model.signatures[request.get("signature_name", "serving_default")]
    specs = function.structured_input_signature[1]
    given = request["instances"]
    # As TensorFlow Serving takes them: an instance has names where there are several inputs.
    columns = {name: [one[name] for one in given] if isinstance(given[0], dict) else given for name in specs}
    outputs = function(**{name: tf.constant(columns[name], spec.dtype) for name, spec in specs.items()})
    rows = {name: _plain(output.numpy()) for name, output in outputs.items()}
    if len(rows) == 1:
        return next(iter(rows.values()))
    return [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]


def _plain(array):
    return [value.decode() if isinstance(value, bytes) else value for value in array.tolist()]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        status = {"version": version.name, "state": "AVAILABLE"}
        self.answer(200, {"model_version_status": [status]})

    def do_POST(self):
        try:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(200, {"predictions": predict(request)})
        except Exception as error:
            self.answer(400, {"error": str(error)})

    def answer(self, status, data):
        text = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
