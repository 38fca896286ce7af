"""Run a model on a picture with ncnn: with_ncnn.py MODEL.ncnn.param PICTURE OUT.png; MODEL.ncnn.bin is beside it."""
import sys

import ncnn
import numpy as np
from pictures import draw, metadata_at_the_end, prepare

model, path, out = sys.argv[1:]
weights = model.removesuffix('.param') + '.bin'
metadata, net = metadata_at_the_end(weights), ncnn.Net()
net.load_param(model)
net.load_model(weights)
picture, inputs = prepare(path, metadata, *metadata['shape'][2:])
with net.create_extractor() as extractor:
    extractor.input('in0', ncnn.Mat(inputs['image'][0]).clone())
    found = [np.array(extractor.extract(f'out{i}')[1])[None] for i in range(len(metadata['outputs']))]
draw(picture, inputs, dict(zip(metadata['outputs'], found, strict=True)), metadata, out)
