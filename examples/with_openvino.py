"""Run a model on a picture with OpenVINO: with_openvino.py MODEL.xml PICTURE OUT.png."""
import json
import sys

import openvino
from pictures import draw, prepare

path_of_model, path, out = sys.argv[1:]
core = openvino.Core()
model = core.read_model(path_of_model)
metadata = json.loads(model.get_rt_info('repvit_mm').astype(str))
picture, inputs = prepare(path, metadata, *(size.get_length() for size in list(model.input('image').partial_shape)[2:]))
names, taken = ([value.get_any_name() for value in values] for values in (model.outputs, model.inputs))
compiled = core.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})  # some CPUs would compute in bf16
found = compiled({name: inputs[name] for name in taken})
draw(picture, inputs, {name: found[index] for index, name in enumerate(names)}, metadata, out)
