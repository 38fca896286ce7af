"""Zero-shot edge detection from the boundaries of masks, as in the SAM paper (section 7.2 and appendix D.2)."""
import numpy as np
import torch
from scipy import ndimage
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.amg import batched_mask_to_box, build_point_grid
from torch import Tensor
from torchvision.ops import nms

#: Points that are decoded at once.
POINTS_PER_BATCH = 64
#: IoU of boxes above which the weaker mask is dropped.
BOX_OVERLAP = 0.7
#: Smoothing, in pixels, before the second derivatives that give the direction of an edge.
SMOOTHING = 2.


@torch.no_grad()
def edge_map(sam: Sam, image: np.ndarray, points_per_side: int) -> np.ndarray:
    """Probability of an edge at every pixel.

    Each point of a grid gives three masks, which non-maximum suppression by box and predicted IoU reduces. A Sobel
    filter on the probabilities of each mask gives the strength of its outline. The maximum over all masks is scaled to
    0 ... 1 and thinned by :func:`suppress_non_maxima`.

    Args:
        sam: The model.
        image: (H, W, 3) uint8 RGB.
        points_per_side: Side of the grid, in points.

    Returns:
        (H, W) float32.
    """
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    points = build_point_grid(points_per_side) * np.array(image.shape[1::-1])
    inputs = torch.as_tensor(predictor.transform.apply_coords(points, image.shape[:2]), dtype=torch.float,
                             device=predictor.device)[:, None]
    low_res, scores, boxes = [], [], []
    for batch in inputs.split(POINTS_PER_BATCH):
        logits, ious, low = predictor.predict_torch(batch, torch.ones_like(batch[..., 0]), return_logits=True)
        low_res.append(low.flatten(0, 1))
        scores.append(ious.flatten())
        boxes.append(batched_mask_to_box(logits.flatten(0, 1) > sam.mask_threshold).float())
    low_res, scores, boxes = torch.cat(low_res), torch.cat(scores), torch.cat(boxes)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = torch.where(area > 0)[0]  # an empty mask has no outline
    kept = kept[nms(boxes[kept], scores[kept], BOX_OVERLAP)]
    strongest = np.zeros(image.shape[:2], dtype=np.float32)
    # Resizing the masks that are kept a second time takes less memory than keeping all masks at full size.
    for chunk in low_res[kept].split(POINTS_PER_BATCH):
        logits = sam.postprocess_masks(chunk[:, None], predictor.input_size, predictor.original_size)[:, 0]
        for mask in logits:
            np.maximum(strongest, outline_strength(mask.cpu()), out=strongest)
    low, high = strongest.min(), strongest.max()
    if high > low:
        strongest = (strongest - low) / (high - low)
    return suppress_non_maxima(strongest)


def outline_strength(logits: Tensor) -> np.ndarray:
    """Sobel magnitude of a mask's probabilities on its outline, 0 elsewhere; (H, W) logits -> (H, W) float32."""
    probability = logits.float().sigmoid().numpy()
    strength = np.hypot(ndimage.sobel(probability, 0, mode='nearest'), ndimage.sobel(probability, 1, mode='nearest'))
    mask = np.pad(logits.numpy() > 0, 1, mode='edge')  # the border of the image is not an outline
    # Both sides of the outline, as the strength has its peak between them.
    outline = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask, border_value=1)
    return np.where(outline[1:-1, 1:-1], strength, 0).astype(np.float32)


def suppress_non_maxima(strength: np.ndarray) -> np.ndarray:
    """Keep the pixels that are stronger than their neighbours across the edge, as Canny does.

    Args:
        strength: (H, W), from 0 to 1.

    Returns:
        (H, W) float32, zero except at maxima.
    """
    yy, xx, xy = (ndimage.gaussian_filter(strength, SMOOTHING, order=order) for order in ((2, 0), (0, 2), (1, 1)))
    # Across a ridge the curvature is most negative: the direction of the smallest eigenvalue.
    angle = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2
    rows, columns = np.indices(strength.shape)
    best = np.full(strength.shape, -np.inf)
    for step in (-1, 1):
        beside = ndimage.map_coordinates(strength, (rows + step * np.sin(angle), columns + step * np.cos(angle)),
                                         order=1, mode='nearest')
        best = np.maximum(best, beside)
    return np.where(strength >= best - 1e-6, strength, 0).astype(np.float32)
