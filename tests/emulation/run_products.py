"""Runs on the emulated machine: `run_products.py FOLDER RESULTS.npz [--default]`.

Every graph of the folder on its input, as a session would; with `--default`, as ONNX Runtime would by itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime

from aigc_runtime.backends.ort import open as ort_open
from aigc_runtime.backends.ort.exact_products import products_saturate
from aigc_runtime.backends.ort.providers import PROVIDERS
from aigc_runtime.system.processor import instruction_set

folder, target = Path(sys.argv[1]), Path(sys.argv[2])
saturate = products_saturate(onnxruntime)
if "--default" in sys.argv:
    mock.patch.object(ort_open, "products_saturate", return_value=False).start()
results = {}
for path in sorted(folder.glob("*.onnx")):
    session, _ = ort_open.open_native(onnxruntime, path.read_bytes(), provider=PROVIDERS["cpu"], threads=1)
    results[path.stem] = session.run(None, dict(np.load(path.with_suffix(".npz"))))[0]
np.savez(target, **results)
print(json.dumps({"instruction_set": instruction_set(), "saturate": saturate}))
