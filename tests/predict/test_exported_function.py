"""The exported function alone, in a process that cannot import this project, against evaluation."""

import json
import subprocess
import sys

import jax
import numpy as np
from test_predictor import WORDS

from ssp_jax import export
from ssp_jax.mask_prompts import prompt_by
from tests.commands import runner

_CALL = """
import sys
sys.modules["ssp_jax"] = None  # as if it were not installed
import jax, numpy as np
folder, inputs, out = sys.argv[1:]
function = jax.export.deserialize(open(f"{folder}/function.bin", "rb").read())
weights = jax.device_put(dict(np.load(f"{folder}/weights.npz")))
labels, scores = jax.jit(function.call)(weights, dict(np.load(inputs)))
np.savez(out, labels=labels, scores=scores)
"""


def test_the_function_alone_gives_the_masks_of_an_evaluation(
    trained, tmp_path, monkeypatch, capsys
):
    workdir, stages, params = trained
    command = runner("ssp_jax.export", export.main, monkeypatch, capsys)
    status, text, _ = command(workdir, f"--out={tmp_path / 'served'}")
    assert status == 0
    assert "for cpu, cuda, tpu" in text
    facts = json.loads((tmp_path / "served" / "facts.json").read_text())
    prompt_by(stages["avs"], params["avs"], stages["avss"], uses=())
    with stages["avss"].batches(WORDS) as batches:
        batch = next(batches)
    expected = np.asarray(stages["avss"].predict(params["avss"], stages["avss"].put(batch)))
    function = jax.export.deserialize((tmp_path / "served" / "function.bin").read_bytes())
    assert [str(aval.shape[0]) for aval in function.out_avals] == ["frames"] * 2  # any number
    inputs = {name: getattr(batch, name) for name in facts["inputs"]}
    np.savez(tmp_path / "inputs.npz", **inputs)
    arguments = [tmp_path / "served", tmp_path / "inputs.npz", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-c", _CALL, *map(str, arguments)], check=True, cwd=tmp_path)
    with np.load(tmp_path / "out.npz") as out:
        # Another compilation rounds otherwise: scores of 1.05 have been 1.03e-5 apart.
        np.testing.assert_allclose(out["scores"], expected, rtol=1e-5, atol=1e-5)
        assert (out["labels"] == expected.argmax(1)).mean() > 0.999
    status, _, error = command(workdir, f"--out={tmp_path / 'served'}")
    assert status == 1
    assert "Traceback" not in error
    assert "exists already" in error.splitlines()[-1]
