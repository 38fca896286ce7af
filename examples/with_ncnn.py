"""Classify a picture with ncnn: with_ncnn.py MODEL.ncnn.param PICTURE OUT.png; MODEL.ncnn.bin is beside it."""
import sys

import ncnn
import numpy as np
from pictures import facts_at_the_end, label, prepare

model, path, out = sys.argv[1:]
weights = model.removesuffix('.param') + '.bin'
facts, net = facts_at_the_end(weights), ncnn.Net()
net.load_param(model)
net.load_model(weights)
picture, image = prepare(path, facts, *facts['shape'][2:])
with net.create_extractor() as extractor:
    extractor.input('in0', ncnn.Mat(image[0]).clone())
    label(picture, np.array(extractor.extract('out0')[1]), facts, out)
