"""mmcv's operators by torchvision's functions, or by loops over plain numbers, with torch's own gradients."""
import math

import torch
import torch.nn.functional as F
import torchvision

# Boxes

def iou(a, b, offset=0, mode='iou'):
    """Intersection over union of two lists of four numbers, 0 for two points; mode 'iof': over the first."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area_a, area_b = ((x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b))
    whole = area_a if mode == 'iof' else area_a + area_b - width * height
    return width * height / whole if whole else 0.


def iou_rotated(a, b, mode='iou', clockwise=True):
    """As :func:`iou`, of boxes x, y, width, height, angle, by cutting the first with the sides of the second."""
    def corners(x, y, width, height, angle):
        cos, sin = math.cos(angle), math.sin(angle) * (1 if clockwise else -1)
        return [(x + u * width / 2 * cos - v * height / 2 * sin, y + u * width / 2 * sin + v * height / 2 * cos)
                for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))]

    def area(polygon):
        return abs(sum(x * v - y * u for (x, y), (u, v) in zip(polygon, polygon[1:] + polygon[:1], strict=True))) / 2

    polygon, cutter = corners(*a), corners(*b)
    for (x, y), (u, v) in zip(cutter, cutter[1:] + cutter[:1], strict=True):
        depth = [(u - x) * (q - y) - (v - y) * (p - x) for p, q in polygon]
        kept = []
        for i, (p, q) in enumerate(polygon):
            before, (r, s) = depth[i - 1], polygon[i - 1]
            if (before < 0) != (depth[i] < 0):
                t = before / (before - depth[i])
                kept.append((r + t * (p - r), s + t * (q - s)))
            if depth[i] >= 0:
                kept.append((p, q))
        polygon = kept
    common, area_a = area(polygon), a[2] * a[3]
    whole = area_a if mode == 'iof' else area_a + b[2] * b[3] - common
    return common / whole if whole else 0.


def ranked(scores):
    """Indices by falling score, equal ones in their order."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def nms(boxes, scores, threshold, offset=0, labels=None, overlap=iou):
    kept = []
    for i in ranked(scores):
        if not any(overlap(boxes[k], boxes[i], offset) > threshold
                   for k in kept if labels is None or labels[k] == labels[i]):
            kept.append(i)
    return kept


def nms_match(boxes, scores, threshold):
    groups = []
    for i in ranked(scores):
        group = next((g for g in groups if iou(boxes[g[0]], boxes[i]) >= threshold), None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    return groups


def soft_nms(boxes, scores, threshold, sigma, min_score, method, offset=0):
    """Pairs of index and new score, best first."""
    left, kept = dict(enumerate(scores)), []
    while left:
        best = max(left, key=left.get)
        kept.append((best, left.pop(best)))
        for i in list(left):
            overlap = iou(boxes[best], boxes[i], offset)
            over = overlap >= threshold
            left[i] *= {'naive': 1 - over, 'linear': 1 - overlap if over else 1,
                        'gaussian': math.exp(-overlap ** 2 / sigma)}[method]
            if left[i] < min_score:
                del left[i]
    return kept


# Sampling

def sample(maps, y, x):
    """The maps (C, H, W) at one point, between pixels; zero outside of them."""
    y0, x0 = (math.floor(torch.as_tensor(at).detach()) for at in (y, x))
    total = torch.zeros_like(maps[:, 0, 0])
    for row in (y0, y0 + 1):
        for column in (x0, x0 + 1):
            if 0 <= row < maps.shape[1] and 0 <= column < maps.shape[2]:
                total = total + maps[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def grid(function, *sizes):
    """The function's results for all indices, as a tensor with these axes first."""
    if not sizes:
        return function()
    return torch.stack([grid(lambda *rest, i=i: function(i, *rest), *sizes[1:]) for i in range(sizes[0])])


def average(maps, rows, columns, place):
    """The mean of rows x columns samples of a bin; place(i, j) is where the sample at these fractions is, y and x."""
    height, width = maps.shape[1:]
    total = maps[:, 0, 0] * 0
    for i in range(rows):
        for j in range(columns):
            y, x = place((i + 0.5) / rows, (j + 0.5) / columns)
            if -1 <= y <= height and -1 <= x <= width:
                total = total + sample(maps, min(max(y, 0), height - 1), min(max(x, 0), width - 1))
    return total / max(rows * columns, 1)


def roi_align(maps, rois, size, scale, ratio, aligned):
    return torchvision.ops.roi_align(maps, rois, size, scale, ratio or -1, aligned)


def roi_align_rotated(maps, rois, size, scale, ratio, aligned, clockwise):
    def one(k, row, column):
        image, x, y, width, height, angle = rois[k].tolist()
        x, y, width, height = x * scale - 0.5 * aligned, y * scale - 0.5 * aligned, width * scale, height * scale
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        cos, sin = math.cos(angle), math.sin(angle) * (1 if clockwise else -1)

        def place(i, j):
            down, across = ((row + i) / size[0] - 0.5) * height, ((column + j) / size[1] - 0.5) * width
            return y + across * sin + down * cos, x + across * cos - down * sin

        return average(maps[int(image)], ratio or math.ceil(height / size[0]), ratio or math.ceil(width / size[1]),
                       place)

    return grid(one, len(rois), *size).permute(0, 3, 1, 2)


def deform_roi_pool(maps, rois, offset, size, scale, ratio, gamma):
    def one(k, row, column):
        image, x1, y1, x2, y2 = rois[k].tolist()
        width, height = (x2 - x1) * scale, (y2 - y1) * scale
        dx, dy = (0, 0) if offset is None else gamma * offset[k, :, row, column]
        return average(maps[int(image)], ratio or math.ceil(height / size[0]), ratio or math.ceil(width / size[1]),
                       lambda i, j: (y1 * scale - 0.5 + height * ((row + i) / size[0] + dy),
                                     x1 * scale - 0.5 + width * ((column + j) / size[1] + dx)))

    return grid(one, len(rois), *size).permute(0, 3, 1, 2)


def deform_conv(maps, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    kernel = weight.shape[-1]
    size = [(side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side in maps.shape[2:]]
    taps = deform_groups * kernel ** 2  # the leading ones, if there are more
    offset, mask = (x if x is None else x.flatten(1)[:, :n * taps * size[0] * size[1]].reshape(len(x), n * taps, *size)
                    for x, n in ((offset, 2), (mask, 1)))
    return torchvision.ops.deform_conv2d(maps, offset, weight, bias, stride, padding, dilation, mask)


def attention(value, shapes, locations, weights):
    """Multi-scale deformable attention: (N, queries, heads * channels)."""
    n, queries, heads, levels, points, _ = locations.shape
    parts = value.split([h * w for h, w in shapes], dim=1)

    def one(image, query, head):
        total = 0
        for level, (h, w) in enumerate(shapes):
            maps = parts[level][image, :, head].T.reshape(-1, h, w)
            for point in range(points):
                x, y = locations[image, query, head, level, point]
                total = total + weights[image, query, head, level, point] * sample(maps, y * h - 0.5, x * w - 0.5)
        return total

    return grid(one, n, queries, heads).flatten(2)


# Maps

def carafe(features, masks, kernel, groups, scale):
    n, channels, height, width = features.shape
    padded = F.pad(features, (kernel // 2, ) * 4)

    def pixel(image, channel, y, x):
        window = padded[image, channel, y // scale:y // scale + kernel, x // scale:x // scale + kernel]
        group = channel // (channels // groups)
        return (window.flatten() * masks[image, group * kernel ** 2:(group + 1) * kernel ** 2, y, x]).sum()

    return grid(pixel, n, channels, height * scale, width * scale)


def psa_mask(masks, kind, mask_size):
    n, _, height, width = masks.shape
    masks = masks.view(n, *mask_size, height, width)

    def entry(image, other, y, x):
        row = other // width - y + (mask_size[0] - 1) // 2
        column = other % width - x + (mask_size[1] - 1) // 2
        inside = 0 <= row < mask_size[0] and 0 <= column < mask_size[1]
        return masks[image, row, column, y, x] if inside else masks.new_zeros(())

    laid = grid(entry, n, height * width, height, width)
    return laid if kind == 'collect' else laid.flatten(2).transpose(1, 2).reshape(laid.shape)


# Loss

def sigmoid_focal_loss(logits, targets, gamma, alpha, weight):
    classes = logits.shape[1]
    positive = F.one_hot(targets, classes + 1)[:, :classes].to(logits)
    found = torchvision.ops.sigmoid_focal_loss(logits, positive, alpha, gamma)
    return found if weight is None else found * torch.cat([weight, weight.new_ones(1)])[targets][:, None]
