"""Holds the script that an export contains, which needs JAX alone."""

SCRIPT = '''\
"""Classifies uint8 images [B, H, W, C]: python run.py IMAGES.npy [LOGITS.npy]; see config.json."""

import json, pathlib, sys  # noqa: E401

import jax.export, numpy as np  # noqa: E401, I001

folder = pathlib.Path(__file__).parent
data = (folder / "model.safetensors").read_bytes()
start = 8 + int.from_bytes(data[:8], "little")
kinds, weights = {"F32": "<f4", "I32": "<i4"}, {}
for name, tensor in json.loads(data[8:start]).items():
    first, end = (start + offset for offset in tensor["data_offsets"])
    weights[name] = np.frombuffer(data[first:end], kinds[tensor["dtype"]]).reshape(tensor["shape"])
program = jax.export.deserialize(bytearray((folder / "forward.stablehlo").read_bytes()))
logits, features = program.call(weights, np.load(sys.argv[1]))
classes = json.loads((folder / "config.json").read_text(encoding="utf-8"))["classes"]
print("\\n".join(classes[label] for label in np.argmax(logits, 1)))
np.save(sys.argv[2], logits) if sys.argv[2:] else None
'''
