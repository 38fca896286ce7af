"""Run a model on a picture with LiteRT: with_litert.py MODEL.tflite PICTURE OUT.png."""
import sys

from ai_edge_litert.interpreter import Interpreter
from pictures import draw, metadata_at_the_end, prepare

model, path, out = sys.argv[1:]
metadata, interpreter = metadata_at_the_end(model), Interpreter(model)
interpreter.allocate_tensors()
picture, inputs = prepare(path, metadata, *metadata['shape'][2:])
last = metadata.get('layout') == 'nhwc'  # the channels of the picture, and of maps
image = inputs['image'].transpose(0, 2, 3, 1) if last else inputs['image']
interpreter.set_tensor(interpreter.get_input_details()[0]['index'], image)
interpreter.invoke()
found = [interpreter.get_tensor(output['index']) for output in interpreter.get_output_details()]
found = [value.transpose(0, 3, 1, 2) if last and value.ndim == 4 else value for value in found]
draw(picture, inputs, dict(zip(metadata['outputs'], found, strict=True)), metadata, out)
