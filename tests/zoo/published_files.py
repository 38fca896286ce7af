"""Made checkpoints in the authors' format, with timm's model for the expected outputs; nothing here uses our names."""
import argparse
import re

import numpy as np
import timm
import torch
from oracles import randomise_norms
from PIL import Image


def official_names(state_dict):
    """timm's tensors under the authors' names, whose blocks are counted through the whole network."""
    blocks, number = {}, 1
    stages = 1 + max(int(name.split('.')[1]) for name in state_dict if name.startswith('stages.'))
    for stage in range(stages):
        if stage:
            blocks[f'stages.{stage}.downsample.pre_block'] = number
            blocks[f'stages.{stage}.downsample'] = number + 1
            number += 2
        depth = 1 + max(int(name.split('.')[3]) for name in state_dict if name.startswith(f'stages.{stage}.blocks.'))
        for block in range(depth):
            blocks[f'stages.{stage}.blocks.{block}'] = number
            number += 1
    return {_official(name, blocks): tensor for name, tensor in state_dict.items()}


def _official(name, blocks):
    if name.startswith('stem.'):
        return re.sub(r'^stem\.conv(\d)', lambda match: f'features.0.{2 * int(match[1]) - 2}', name)
    if name.startswith('head.'):
        name = name.replace('head.head_dist', 'classifier.classifier_dist')
        return name.replace('head.head', 'classifier.classifier')
    block = max((block for block in blocks if name.startswith(f'{block}.')), key=len)
    inside = name.removeprefix(f'{block}.')
    for pattern, replacement in (
            (r'^token_mixer\.', 'token_mixer.0.'), (r'^se\.', 'token_mixer.1.'),
            (r'^spatial_downsample\.', 'token_mixer.0.'), (r'^channel_downsample\.', 'token_mixer.2.'),
            (r'^(channel_mixer|ffn)\.conv1\.', 'channel_mixer.m.0.'),
            (r'^(channel_mixer|ffn)\.conv2\.', 'channel_mixer.m.2.')):
        inside, changed = re.subn(pattern, replacement, inside)
        if changed:
            break
    return f'features.{blocks[block]}.{inside}'


def draw(seed):
    """Coloured clouds of several sizes with sharp edges, of any shape."""
    random = np.random.RandomState(seed)
    width, height = random.randint(230, 420, 2)
    image = np.zeros((height, width, 3), np.float32)
    for cells in (3, 9, 40):
        noise = Image.fromarray(random.randint(0, 256, (cells, cells, 3)).astype(np.uint8))
        image += np.asarray(noise.resize((width, height), Image.BILINEAR), np.float32) / 3
    image[random.rand(height, width) < 0.05] = random.randint(0, 256, 3)
    left, top = width // 4, height // 4
    image[top:2 * top, left:3 * left] *= (1.3, 0.6, 0.3)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def random_model(name, seed=0, **settings):
    """timm's model with values that all show in its output."""
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False, **settings)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return randomise_norms(model, seed).eval()


@torch.no_grad()
def spread_head(model, images):
    """Let the features of ``images`` look standardised to both classifiers, so that their classes differ."""
    features = model.forward_features(images).mean((2, 3))
    for head in (model.head.head, model.head.head_dist):
        head.bn.running_mean.copy_(features.mean(0))
        head.bn.running_var.copy_(features.var(0))


def save_classifier(model, path):
    """As the authors save it: with the settings of the training beside the weights."""
    torch.save({'model': official_names(model.state_dict()), 'args': argparse.Namespace(epochs=300)}, path)
