"""A version served for real: over HTTP, by a process that has TensorFlow and neither Keras nor kwarmup."""

import importlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest

from kwarmup import Plan, cosine, export, warmup

PLAN = Plan(learning_rate=0.1 * (warmup(epochs=1) >> cosine()), batch_size=4, examples=8, epochs=3)


def models():
    keras.utils.set_random_seed(0)
    one = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    number, word = keras.Input((4,), name="number"), keras.Input((3,), dtype="int32", name="word")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(5, 2)(word))
    y = keras.layers.Dense(2)(keras.layers.Concatenate()([number, embedded]))
    return one, keras.Model({"number": number, "word": word}, {"y": y, "half": y / 2})


@pytest.mark.slow
def test_answers_over_http_are_those_of_predict(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("kwarmup.export"), "check", lambda *_: {})
    random = np.random.default_rng(0)
    x, words = random.normal(size=(8, 4)).astype("float32"), random.integers(0, 5, (8, 3)).astype("int32")
    one, several = models()
    for _ in range(2):
        export(one, tmp_path / "one", PLAN, batch=x, class_names=["cat", "dog", "bird"])
    export(several, tmp_path / "several")
    (tmp_path / "one" / "unfinished-0").mkdir()  # as a killed export leaves one

    servers = {}
    try:
        for name in ("one", "several"):
            command = [sys.executable, str(Path(__file__).with_name("serve.py")), str(tmp_path / name)]
            servers[name] = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        urls = {
            name: f"http://127.0.0.1:{int(s.stdout.readline())}/v1/models/{name}"
            for name, s in servers.items()
        }

        status = ask(urls["one"])
        assert status == {"model_version_status": [{"version": "2", "state": "AVAILABLE"}]}
        expected = one.predict(x, verbose=0)
        for part in (x, x[:1]):
            answer = ask(f"{urls['one']}:predict", instances=part.tolist())
            np.testing.assert_allclose(answer["predictions"], expected[: len(part)], atol=1e-6)
        rates = ask(f"{urls['one']}:predict", signature_name="learning_rate", instances=list(range(6)))
        np.testing.assert_allclose(rates["predictions"], PLAN.curve(np.arange(6)), atol=1e-7)
        classes = ask(f"{urls['one']}:predict", signature_name="classify", instances=x.tolist())
        names = [["cat", "dog", "bird"][index] for index in expected.argmax(-1)]
        assert [answer["class_name"] for answer in classes["predictions"]] == names
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(f"{urls['one']}:predict", instances=[[1.0, 2.0]])
        assert caught.value.code == 400
        caught.value.close()

        instances = [{"number": n, "word": w} for n, w in zip(x.tolist(), words.tolist(), strict=True)]
        answers = ask(f"{urls['several']}:predict", instances=instances)["predictions"]
        expected = several.predict({"number": x, "word": words}, verbose=0)
        for name in ("y", "half"):
            np.testing.assert_allclose([a[name] for a in answers], expected[name], atol=1e-6)
    finally:
        for server in servers.values():
            server.kill()
            server.wait()
            server.stdout.close()


def ask(url, **request):
    data = json.dumps(request).encode() if request else None
    with urllib.request.urlopen(url, data, timeout=60) as answer:
        return json.load(answer)
