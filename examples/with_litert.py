"""Run a model on a picture with LiteRT: with_litert.py MODEL.tflite PICTURE OUT.png."""
import sys

from ai_edge_litert.interpreter import Interpreter
from pictures import draw, facts_at_the_end, prepare

model, path, out = sys.argv[1:]
facts, interpreter = facts_at_the_end(model), Interpreter(model)
interpreter.allocate_tensors()
picture, inputs = prepare(path, facts, *facts['shape'][2:])
interpreter.set_tensor(interpreter.get_input_details()[0]['index'], inputs['image'])
interpreter.invoke()
found = [interpreter.get_tensor(output['index']) for output in interpreter.get_output_details()]
draw(picture, inputs, dict(zip(facts['outputs'], found, strict=True)), facts, out)
