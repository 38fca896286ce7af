"""Classify a picture with LiteRT: with_litert.py MODEL.tflite PICTURE OUT.png."""
import sys

from ai_edge_litert.interpreter import Interpreter
from pictures import facts_at_the_end, label, prepare

model, path, out = sys.argv[1:]
facts, interpreter = facts_at_the_end(model), Interpreter(model)
interpreter.allocate_tensors()
picture, image = prepare(path, facts, *facts['shape'][2:])
interpreter.set_tensor(interpreter.get_input_details()[0]['index'], image)
interpreter.invoke()
label(picture, interpreter.get_tensor(interpreter.get_output_details()[0]['index'])[0], facts, out)
