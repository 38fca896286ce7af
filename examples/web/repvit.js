// Runs ONNX files of repvit-mm's exporters in the browser. In order: metadata, pixels, models, drawing, page.

const PARAMETERS = new URLSearchParams(location.search);
/** For a file that accepts any size: longest side of its input, in pixels, and what the sides are multiples of. */
const LONGEST = 640, STEP = 32;

/** Yields number and content of each field of a protobuf message that is a text, bytes or a message. */
function* fieldsOf(message) {
  let place = 0;
  const varint = () => {
    let value = 0, scale = 1, byte;
    do {
      byte = message[place++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte > 127);
    return value;
  };
  while (place < message.length) {
    const key = varint(), kind = key % 8;
    if (kind === 2) {
      const length = varint();
      yield [Math.floor(key / 8), message.subarray(place, place += length)];
    } else if (kind === 0) varint();
    else if (kind === 1) place += 8;
    else if (kind === 5) place += 4;
    else return;  // not a message
  }
}

/** Metadata of an ONNX file, which onnxruntime-web does not expose: metadata_props, field 14 of ModelProto. */
function readMetadata(bytes) {
  const metadata = {}, decoder = new TextDecoder();
  for (const [number, entry] of fieldsOf(bytes)) {
    if (number !== 14) continue;
    const [key, value] = [...fieldsOf(entry)].map(([, text]) => decoder.decode(text));
    try {
      metadata[key] = JSON.parse(value);
    } catch {
      metadata[key] = value;
    }
  }
  return metadata;
}

/** ImageData of an image file or a video: upright, on white where transparent, colour profiles ignored. */
export async function readImage(source) {
  const image = source instanceof Blob ? await createImageBitmap(source, {colorSpaceConversion: 'none'}) : source;
  const width = image.videoWidth ?? image.width, height = image.videoHeight ?? image.height;
  const context = new OffscreenCanvas(width, height).getContext('2d');
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, width, height);
}

/** Scales the second axis of an array (outer, length, inner) to a size, in the integers of Pillow's bilinear filter. */
function scaleAxis(values, length, inner, size) {
  if (length === size) return values;
  const ratio = length / size, reach = Math.max(ratio, 1), one = 2 ** 22;
  const taps = Array.from({length: size}, (_, index) => {
    const centre = (index + 0.5) * ratio, first = Math.max(Math.floor(centre - reach + 0.5), 0);
    const count = Math.min(Math.floor(centre + reach + 0.5), length) - first;
    const weights = Array.from({length: count}, (_, tap) => reach - Math.abs(first + tap + 0.5 - centre));
    const total = weights.reduce((sum, weight) => sum + weight);
    return [first, weights.map((weight) => Math.round(weight / total * one))];
  });
  const scaled = new Uint8ClampedArray(values.length / length * size), sums = new Float64Array(inner);
  for (let start = 0, place = 0; start < values.length; start += length * inner) {
    for (const [first, weights] of taps) {
      sums.fill(one / 2);
      for (let tap = 0, from = start + first * inner; tap < weights.length; tap++) {
        for (let index = 0; index < inner; index++) sums[index] += weights[tap] * values[from++];
      }
      for (let index = 0; index < inner; index++) scaled[place++] = Math.floor(sums[index] / one);
    }
  }
  return scaled;
}

/** The middle of an image in the ratio of a size: crop_pct of the largest such part. */
function cropMiddle(image, crop, [height, width]) {
  const scale = crop * Math.min(image.width / width, image.height / height);
  const size = [scale * width, scale * height].map((length) => Math.floor(length + 0.5));
  const context = new OffscreenCanvas(...size).getContext('2d');
  const [left, top] = [image.width - size[0], image.height - size[1]].map((rest) => Math.floor(rest / 2));
  context.putImageData(image, -left, -top);
  return context.getImageData(0, 0, ...size);
}

/** An image, scaled to a size and normalised, at the upper left of zeros: values and shape (1, 3, height, width). */
function toInput(image, {mean, std, channels}, [rows, columns], [height, width]) {
  const lines = scaleAxis(image.data, image.width, 4, columns);
  const pixels = scaleAxis(lines, image.height, 4 * columns, rows), input = new Float32Array(3 * height * width);
  for (let channel = 0; channel < 3; channel++) {
    const from = channels === 'BGR' ? 2 - channel : channel;
    for (let row = 0; row < rows; row++) {
      for (let column = 0, place = (channel * height + row) * width; column < columns; column++) {
        input[place++] = (pixels[4 * (row * columns + column) + from] - mean[channel]) / std[channel];
      }
    }
  }
  return [input, [1, 3, height, width]];
}

let runtime;

/** Loads onnxruntime-web, for WebGPU if there is a GPU and the page's address does not end in ?engine=wasm. */
async function loadRuntime() {
  const gpu = PARAMETERS.get('engine') !== 'wasm' && await navigator.gpu?.requestAdapter();
  const ort = await import(`./node_modules/onnxruntime-web/dist/ort.${gpu ? 'webgpu' : 'wasm'}.min.mjs`).catch(() => {
    throw new Error('onnxruntime-web is missing: run npm install in the folder of this page');
  });
  const threads = ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1;
  ort.env.logLevel = 'error';
  return {ort, providers: gpu ? ['webgpu', 'wasm'] : ['wasm'], engine: gpu ? 'WebGPU' : `wasm, threads: ${threads}`};
}

/** Opens the content of an ONNX file. */
async function openModel(bytes) {
  const metadata = readMetadata(bytes);
  const task = metadata.task ?? ('image_size' in metadata ? 'prompts' : null);  // of SAM's decoder
  if (!task) throw new Error('expected an ONNX file of the exporters of repvit-mm, with their metadata');
  const {ort, providers} = await (runtime ??= loadRuntime());
  return {metadata, task, session: await ort.InferenceSession.create(bytes, {executionProviders: providers})};
}

/** Runs a file on values and shape of each input; returns tensors by name, and milliseconds. */
async function run({session}, inputs) {
  const {ort} = await runtime, start = performance.now();
  const feeds = session.inputNames.map((name) => [name, new ort.Tensor('float32', ...inputs[name])]);
  const outputs = await session.run(Object.fromEntries(feeds));
  return {outputs, milliseconds: performance.now() - start};
}

/** Runs a file on an image; returns also the height and width of the scaled image, and of the file's input. */
async function predict(model, image) {
  const {session, metadata, task} = model, given = [image.height, image.width];
  const shape = session.inputMetadata[0].shape.slice(2).map((side, axis) => typeof side === 'number' ? side
    : Math.ceil(given[axis] * Math.min(1, LONGEST / Math.max(...given)) / STEP) * STEP);
  const keepsRatio = session.inputNames.includes('size') || task === 'embedding';
  const scale = Math.min(shape[0] / given[0], shape[1] / given[1]);
  const size = keepsRatio ? given.map((side) => Math.max(1, Math.round(scale * side))) : shape;
  const seen = metadata.crop_pct ? cropMiddle(image, metadata.crop_pct, shape) : image;
  const inputs = {image: toInput(seen, metadata, size, shape), size: [Float32Array.from(size), [2]]};
  return {...await run(model, inputs), size, shape};
}

/** Segments the object at points of an image that SAM has encoded: [x, y, 1], or 0 for background. */
async function segment(decoder, {outputs: {image_embeddings: embedding}, size}, {height, width}, points) {
  const side = 4 * embedding.dims[3], shape = Math.max(height, width) > 4 * side ? size : [height, width];
  const places = points.map(([x, y]) => [x * size[1] / width, y * size[0] / height]);
  const {outputs, milliseconds} = await run(decoder, {
    image_embeddings: [embedding.data, embedding.dims],
    point_coords: [Float32Array.from([...places, [0, 0]].flat()), [1, points.length + 1, 2]],
    point_labels: [Float32Array.from([...points.map((point) => point[2]), -1]), [1, points.length + 1]],
    mask_input: [new Float32Array(side * side), [1, 1, side, side]],
    has_mask_input: [new Float32Array(1), [1]],
    orig_im_size: [Float32Array.from(shape), [2]],
  });
  const scores = outputs.iou_predictions.data, area = shape[0] * shape[1];
  const best = points.length > 1 ? 0 : [1, 2, 3].reduce((one, other) => scores[other] > scores[one] ? other : one);
  const logits = outputs.masks.data.subarray(best * area, (best + 1) * area);
  return {mask: Uint8Array.from(logits, (logit) => logit > 0), shape, score: scores[best], points, milliseconds};
}

/** Red, green and blue for a class; neighbours in number are far apart in hue. */
function colourOf(index) {
  const hue = index * 0.618 % 1 * 6;
  return [5, 3, 1].map((shift) => {
    const part = (shift + hue) % 6;
    return Math.floor(242.25 * (1 - 0.75 * Math.max(0, Math.min(part, 4 - part, 1))));
  });
}

const nameOf = ({classes}, index) => classes?.[index] ?? `class ${index}`;
const percent = (share) => `${(100 * share).toFixed(1)}%`;

/** Covers a place of the canvas with a grid of cells; colourAt returns the colour of a cell, or nothing. */
function drawCells(context, [rows, columns], colourAt, opacity, ...place) {
  if (!rows || !columns) return;
  const cells = new ImageData(columns, rows), layer = new OffscreenCanvas(columns, rows);
  for (let cell = 0; cell < rows * columns; cell++) {
    const colour = colourAt(cell);
    if (colour) cells.data.set([...colour, 255 * opacity], 4 * cell);
  }
  layer.getContext('2d').putImageData(cells, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(layer, ...place);
}

function drawText(context, text, x, y) {
  const size = Math.max(10, context.canvas.width / 40);
  context.font = `${size}px sans-serif`;
  context.lineWidth = size / 5;
  context.strokeStyle = 'black';
  context.strokeText(text, x, y + size);
  context.fillStyle = 'white';
  context.fillText(text, x, y + size);
}

/** Pixels of a box inside a mask (height, width), interpolated between the centres of its cells. */
function pasteMask(mask, [height, width], [left, top, right, bottom], threshold) {
  const x = Math.floor(left), y = Math.floor(top), columns = Math.ceil(right) - x, rows = Math.ceil(bottom) - y;
  const at = (row, column) => Math.min(row, column, height - 1 - row, width - 1 - column) < 0 ? 0
    : mask[row * width + column];
  const inside = Uint8Array.from({length: rows * columns}, (_, pixel) => {
    const v = (y + Math.floor(pixel / columns) + 0.5 - top) / (bottom - top) * height - 0.5, i = Math.floor(v);
    const u = (x + pixel % columns + 0.5 - left) / (right - left) * width - 0.5, j = Math.floor(u);
    const between = (row) => at(row, j) * (1 + j - u) + at(row, j + 1) * (u - j);
    return between(i) * (1 + i - v) + between(i + 1) * (v - i) >= threshold;
  });
  return {inside, x, y, rows, columns};
}

/** Task -> draws a result; returns text and class of each line to list. */
const DRAW = {
  classification(context, {outputs}, metadata) {
    const logits = outputs.logits.data, most = Math.max(...logits), powers = logits.map((logit) => Math.exp(logit - most));
    const total = powers.reduce((sum, power) => sum + power);
    const best = [...powers.keys()].sort((one, other) => powers[other] - powers[one]).slice(0, 3);
    const lines = best.map((index) => [`${percent(powers[index] / total)} ${nameOf(metadata, index)}`, index]);
    drawText(context, lines[0][0], 8, 4);
    return lines;
  },

  segmentation(context, {outputs: {logits: {data, dims: [, classes, ...shape]}}}, metadata) {
    const area = shape[0] * shape[1], counts = new Array(classes).fill(0), colours = counts.map((_, i) => colourOf(i));
    drawCells(context, shape, (cell) => {
      let best = 0;
      for (let i = 1; i < classes; i++) if (data[i * area + cell] > data[best * area + cell]) best = i;
      counts[best]++;
      return colours[best];
    }, 0.55, 0, 0, context.canvas.width, context.canvas.height);
    const lines = counts.map((count, index) => [`${percent(count / area)} ${nameOf(metadata, index)}`, index]);
    return lines.filter(([, index]) => counts[index]);
  },

  detection(context, {outputs: {boxes, scores, labels, masks}, size, shape}, metadata) {
    if (!boxes) throw new Error('the file returns maps of a neck: export it without --pyramid');
    const sides = [context.canvas.width, context.canvas.height], cells = masks?.dims[1] * masks?.dims[2];
    const found = [...scores.data.keys()].filter((index) => scores.data[index] > 0).map((index) => ({
      score: scores.data[index], label: Number(labels.data[index]),
      mask: masks?.data.subarray(cells * index, cells * (index + 1)),
      box: Array.from(boxes.data.subarray(4 * index, 4 * index + 4), (edge, axis) =>
        Math.min(Math.max(edge * sides[axis % 2] / size[1 - axis % 2], 0), sides[axis % 2])),
    }));
    for (const {mask, label, box} of masks ? found : []) {
      const area = metadata.masks_fill !== 'image' ? box
        : [0, 0, sides[0] * shape[1] / size[1], sides[1] * shape[0] / size[0]];
      const {inside, x, y, rows, columns} = pasteMask(mask, masks.dims.slice(1), area, metadata.mask_threshold);
      const colour = colourOf(label);
      drawCells(context, [rows, columns], (cell) => inside[cell] && colour, 0.5, x, y);
    }
    for (const {score, label, box: [left, top, right, bottom]} of found.toReversed()) {  // the best one on top
      context.lineWidth = Math.max(1, context.canvas.width / 300);
      context.strokeStyle = `rgb(${colourOf(label)})`;
      context.strokeRect(left, top, right - left, bottom - top);
      drawText(context, `${nameOf(metadata, label)} ${score.toFixed(2)}`, left + 3, top);
    }
    return found.map(({score, label, box}) => [
      `${score.toFixed(3)} ${nameOf(metadata, label)} ${box.map((edge) => edge.toFixed(1)).join(' ')}`, label]);
  },

  prompts(context, {mask, shape, score, points}) {
    const {width, height} = context.canvas;
    drawCells(context, shape, (cell) => mask[cell] && colourOf(1), 0.5, 0, 0, width, height);
    for (const [x, y, label] of points) {
      context.fillStyle = label ? 'lime' : 'red';
      context.fillRect(x - width / 200, y - width / 200, width / 100, width / 100);
    }
    return [[`predicted IoU ${score.toFixed(3)}`, 1]];
  },
};

/** What the page holds: models by task, image, SAM's encoded image and points, last result, video of the camera. */
export const page = {models: {}, image: null, encoded: null, points: [], result: null, video: null};
const element = (id) => document.getElementById(id);
let last = Promise.resolve();

function say(text, className = '') {
  Object.assign(element('status'), {textContent: text, className});
}

/** Says what takes its time, and lets the browser show it. */
async function announce(text) {
  if (!page.video) say(text);
  await new Promise((resolve) => setTimeout(resolve, 20));
}

/** Calls a function after all earlier ones, as a session computes one result at a time. */
function enqueue(call) {
  last = last.then(call).catch((error) => say(error.message.split('\n')[0], 'error'));
  return last;
}

async function takeFiles(files) {
  for (const file of files) {
    try {
      await announce(`Opening ${file.name} ...`);
      if (file.name.endsWith('.onnx')) {
        const model = await openModel(new Uint8Array(await file.arrayBuffer())), {embedding, prompts} = page.models;
        page.models = ['embedding', 'prompts'].includes(model.task) ? {embedding, prompts} : {};
        page.models[model.task] = model;
      } else page.image = await readImage(file);
      page.encoded = null;
    } catch (error) {
      throw new Error(`${file.name}: ${error.message}`);
    }
  }
  await show();
}

/** Runs the model on the image, and shows the result. */
async function show() {
  const {models: {embedding, prompts, ...others}, image} = page, model = embedding ?? Object.values(others)[0];
  page.result = null;
  if (!embedding !== !prompts) return say(`SAM is two files: add the ${prompts ? 'encoder' : 'decoder'}.`);
  if (!model) return say('Choose an ONNX file.');
  if (!image) return say(`${model.metadata.description}. Choose an image.`);
  if (!page.encoded) await announce('Running ...');
  let result = page.encoded ?? await predict(model, image);
  if (embedding) {
    page.points = page.encoded ? page.points : [];
    page.encoded = result;
    if (page.points.length) result = await segment(prompts, page.encoded, image, page.points);
  }
  page.result = result;
  const canvas = element('canvas'), context = canvas.getContext('2d'), {engine} = await runtime;
  Object.assign(canvas, {width: image.width, height: image.height, className: embedding ? 'clickable' : ''});
  context.putImageData(image, 0, 0);
  const draw = DRAW[result.points ? 'prompts' : model.task];
  if (!draw && !embedding) throw new Error(`the file returns ${model.session.outputNames.join(', ')}: nothing to draw`);
  element('found').replaceChildren(...(draw?.(context, result, model.metadata) ?? []).map(([text, index]) => {
    const line = Object.assign(document.createElement('li'), {textContent: text});
    line.style.borderColor = `rgb(${colourOf(index)})`;
    return line;
  }));
  const hint = ' Click on an object; shift-click adds background, double-click starts again.';
  say(`${result.milliseconds.toFixed(0)} ms (${engine}).${embedding ? hint : ''}`);
}

function stopCamera() {
  page.video?.srcObject.getTracks().forEach((track) => track.stop());
  page.video = null;
  element('camera').textContent = 'Camera';
}

/** Runs on the frames of the camera until it is stopped; SAM takes one. */
async function startCamera() {
  if (!navigator.mediaDevices) throw new Error('the camera needs https or localhost');
  const srcObject = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}});
  const video = page.video = Object.assign(document.createElement('video'), {srcObject, muted: true});
  await video.play();
  element('camera').textContent = 'Stop';
  while (page.video === video) {
    await enqueue(async () => {
      Object.assign(page, {image: await readImage(video), encoded: null});
      await show();
    });
    if (!page.result || page.encoded) stopCamera();
  }
}

for (const id of ['models', 'images']) {
  element(id).addEventListener('change', ({target}) => {
    const files = [...target.files];
    if (id === 'images') stopCamera();
    enqueue(() => takeFiles(files));
  });
}
document.addEventListener('dragover', (event) => event.preventDefault());
document.addEventListener('drop', (event) => {
  event.preventDefault();
  const files = [...event.dataTransfer.files];
  stopCamera();
  enqueue(() => takeFiles(files));
});
element('camera').addEventListener('click', () => {
  if (page.video) stopCamera();
  else startCamera().catch((error) => say(error.message, 'error'));
});
element('canvas').addEventListener('click', ({offsetX, offsetY, shiftKey, detail, target}) => {
  if (!page.encoded) return;
  const scale = target.width / target.clientWidth;
  page.points = detail > 1 ? [] : [...page.points, [scale * offsetX, scale * offsetY, shiftKey ? 0 : 1]];
  enqueue(show);
});
// Opens files of this server, such as ?file=model.onnx&file=image.jpg.
enqueue(async () => {
  const files = PARAMETERS.getAll('file').map(async (path) => {
    const response = await fetch(path);
    if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
    return new File([await response.blob()], path);
  });
  if (files.length) await takeFiles(await Promise.all(files));
});
