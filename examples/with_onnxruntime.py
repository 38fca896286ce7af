"""Classify a picture with onnxruntime: with_onnxruntime.py MODEL.onnx PICTURE OUT.png."""
import json
import sys

import onnxruntime
from pictures import label, prepare

model, path, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
entries = session.get_modelmeta().custom_metadata_map
facts = {'channels': entries['channels'],
         **{key: json.loads(entries[key]) for key in ('mean', 'std', 'classes') if key in entries}}
picture, image = prepare(path, facts, *session.get_inputs()[0].shape[2:])
label(picture, session.run(['logits'], {'image': image})[0][0], facts, out)
