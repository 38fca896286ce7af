"""Run a model on a picture with onnxruntime: with_onnxruntime.py MODEL.onnx PICTURE OUT.png."""
import json
import sys

import onnxruntime
from pictures import draw, prepare

model, path, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
metadata = dict(session.get_modelmeta().custom_metadata_map)
for key in metadata.keys() & {'mean', 'std', 'classes', 'crop_pct', 'mask_threshold'}:
    metadata[key] = json.loads(metadata[key])
picture, inputs = prepare(path, metadata, *session.get_inputs()[0].shape[2:])
names = [output.name for output in session.get_outputs()]
found = session.run(names, {value.name: inputs[value.name] for value in session.get_inputs()})
draw(picture, inputs, dict(zip(names, found, strict=True)), metadata, out)
