"""Classify a picture with OpenVINO: with_openvino.py MODEL.xml PICTURE OUT.png."""
import json
import sys

import openvino
from pictures import label, prepare

path_of_model, path, out = sys.argv[1:]
core = openvino.Core()
model = core.read_model(path_of_model)
facts = json.loads(model.get_rt_info('repvit_mm').astype(str))
picture, image = prepare(path, facts, *(size.get_length() for size in list(model.input('image').partial_shape)[2:]))
label(picture, core.compile_model(model, 'CPU')({'image': image})['logits'][0], facts, out)
