"""A web page that segments pictures by clicks on points or on the corners of a box."""
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from ..errors import ConfigError, UserError
from ..io.images import read_image
from .masks import draw, segment
from .prompts import BACKGROUND, FOREGROUND, Prompt

#: Bytes of an upload, and pixels: an embedding takes a second whatever the size, but decoding takes memory.
LARGEST_UPLOAD, MOST_PIXELS = 20 << 20, 40_000_000
#: Seconds after which an unused session ends, and files of the page are deleted; and how many sessions there are.
SESSION_SECONDS, MOST_SESSIONS = 3600, 100
MODES = ('Object', 'Background', 'Box')
_HELP = ('Upload a picture and click on the object. **Object** adds a point inside it, **Background** one outside, '
         '**Box** takes two clicks on opposite corners.')


class Session:
    """The picture and the clicks of one visitor.

    Args:
        sam: The model, shared by all visitors.

    Attributes:
        embeddings: Number of encoded pictures: one for each upload, not for each click.
    """

    def __init__(self, sam: Sam):
        self._predictor = SamPredictor(sam)
        self.image: np.ndarray | None = None
        self.prompt, self._corner = Prompt(), None
        self.embeddings = 0

    def upload(self, path: str) -> np.ndarray:
        """Read a picture and compute its embedding; returns the picture to draw on.

        Raises:
            UserError: If it is no picture, damaged or too large; the message is for the visitor and names no path.
        """
        self.image = None
        if Path(path).stat().st_size > LARGEST_UPLOAD:
            raise UserError(f'the picture has more than {LARGEST_UPLOAD >> 20} MB')
        try:
            image = read_image(path, MOST_PIXELS)
        except UserError as error:
            raise UserError(str(error).replace(str(path), 'the picture')) from error
        self._predictor.set_image(image)
        self.embeddings += 1
        self.image = image
        return self.clear()

    def clear(self) -> np.ndarray | None:
        """Forget the clicks."""
        self.prompt, self._corner = Prompt(), None
        return self.image

    def click(self, x: float, y: float, mode: str) -> tuple[np.ndarray, str]:
        """Add a click at a pixel; returns the picture with the best mask, and a text.

        Raises:
            UserError: If there is no picture, or the click is outside it.
        """
        if self.image is None:
            raise UserError('upload a picture first')
        prompt, corner, self._corner = self.prompt, self._corner, None
        if mode != 'Box':
            label = FOREGROUND if mode == 'Object' else BACKGROUND
            prompt = prompt._replace(points=(*prompt.points, (x, y)), labels=(*prompt.labels, label))
        elif corner is not None:
            prompt = prompt._replace(box=(*corner, x, y))
        else:
            self._corner = (x, y)
            marked = prompt._replace(points=(*prompt.points, (x, y)), labels=(*prompt.labels, FOREGROUND))
            return draw(self.image, [], marked), 'Click on the opposite corner.'
        self.prompt = prompt.checked(self.image.shape[1], self.image.shape[0])
        best = segment(self._predictor, self.prompt)[0]
        return (draw(self.image, [best.mask], self.prompt),
                f'{best.mask.mean():.1%} of the picture, predicted IoU {best.score:.2f}')


class Sessions:
    """The sessions of all visitors; those that are not used for a while end, the oldest first where there are many.

    Args:
        sam: The model.
        clock: Gives the time in seconds.
    """

    def __init__(self, sam: Sam, clock: Callable[[], float] = time.monotonic):
        self._sam, self._clock = sam, clock
        self._used: dict[str, tuple[float, Session]] = {}

    def __len__(self) -> int:
        return len(self._used)

    def of(self, visitor: str) -> Session:
        """The session of a visitor, a new one if need be."""
        now = self._clock()
        _, session = self._used.pop(visitor, (now, None))
        self._used[visitor] = now, session or Session(self._sam)  # behind all others
        for name, (last, _) in list(self._used.items()):
            if now - last > SESSION_SECONDS or len(self._used) > MOST_SESSIONS:
                del self._used[name]
        return self._used[visitor][1]

    def end(self, visitor: str) -> None:
        """Forget a visitor."""
        self._used.pop(visitor, None)


def build_page(sam: Sam, notice: str = '') -> Any:
    """Build the page.

    Args:
        sam: The model.
        notice: Text at the top, e.g. that the weights are random.

    Returns:
        A ``gradio.Blocks``, to be served by ``launch(max_file_size=LARGEST_UPLOAD)``.

    Raises:
        ConfigError: If Gradio is not installed.
    """
    try:
        import gradio as gr
    except ModuleNotFoundError as error:
        raise ConfigError('the web page needs Gradio, which is not installed: '
                          'pip install "repvit-mm[sam-demo]"') from error
    sessions = Sessions(sam)

    def session_of(request: gr.Request) -> Session:
        return sessions.of(request.session_hash)

    def upload(path: str | None, request: gr.Request) -> tuple[Any, str]:
        if path is None:
            return None, ''
        return _told(lambda: (session_of(request).upload(path), 'Click on the object.'))

    def click(mode: str, event: gr.SelectData, request: gr.Request) -> tuple[Any, str]:
        return _told(lambda: session_of(request).click(*event.index, mode))

    def clear(request: gr.Request) -> tuple[Any, str]:
        return session_of(request).clear(), ''

    def leave(request: gr.Request) -> None:
        sessions.end(request.session_hash)

    def _told(action: Any) -> tuple[Any, str]:
        try:
            return action()
        except UserError as error:
            raise gr.Error(str(error)) from error

    with gr.Blocks(title='RepViT-SAM', delete_cache=(600, SESSION_SECONDS)) as page:
        gr.Markdown('# RepViT-SAM\n' + _HELP)
        if notice:
            gr.Markdown(f'**{notice}**', elem_id='notice')
        with gr.Row():
            source = gr.Image(label='Picture', type='filepath', image_mode=None, sources=['upload', 'clipboard'],
                              elem_id='source')
            # Gradio would open the picture itself, and end with an error that tells the visitor nothing.
            source.preprocess = lambda payload: payload and payload.path
            canvas = gr.Image(label='Click here', interactive=False, format='png', elem_id='canvas')
        with gr.Row():
            mode = gr.Radio(MODES, value=MODES[0], label='A click is', elem_id='mode')
            status = gr.Textbox(label='Mask', interactive=False, elem_id='status')
            button = gr.Button('Clear the clicks', elem_id='clear')
        source.change(upload, source, [canvas, status])
        canvas.select(click, mode, [canvas, status])
        button.click(clear, None, [canvas, status])
        page.unload(leave)
    return page
