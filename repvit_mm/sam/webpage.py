"""A web page that segments pictures by clicks on points or on the corners of a box."""
from typing import Any

import numpy as np
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from ..errors import ConfigError, UserError
from .images import read_image
from .masks import draw, segment
from .prompts import BACKGROUND, FOREGROUND, Prompt

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
        """Read a picture and compute its embedding; returns the picture to draw on."""
        self.image = None
        image = read_image(path)
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


def build_page(sam: Sam, notice: str = '') -> Any:
    """Build the page.

    Args:
        sam: The model.
        notice: Text at the top, e.g. that the weights are random.

    Returns:
        A ``gradio.Blocks``, to be served by ``launch()``.

    Raises:
        ConfigError: If Gradio is not installed.
    """
    try:
        import gradio as gr
    except ModuleNotFoundError as error:
        raise ConfigError('the web page needs Gradio, which is not installed: '
                          'pip install "repvit-mm[sam-demo]"') from error
    sessions: dict[str, Session] = {}

    def session_of(request: gr.Request) -> Session:
        return sessions.setdefault(request.session_hash, Session(sam))

    def upload(path: str | None, request: gr.Request) -> tuple[Any, str]:
        if path is None:
            return None, ''
        return _told(lambda: (session_of(request).upload(path), 'Click on the object.'))

    def click(mode: str, event: gr.SelectData, request: gr.Request) -> tuple[Any, str]:
        return _told(lambda: session_of(request).click(*event.index, mode))

    def clear(request: gr.Request) -> tuple[Any, str]:
        return session_of(request).clear(), ''

    def leave(request: gr.Request) -> None:
        sessions.pop(request.session_hash, None)

    def _told(action: Any) -> tuple[Any, str]:
        try:
            return action()
        except UserError as error:
            raise gr.Error(str(error)) from error

    with gr.Blocks(title='RepViT-SAM') as page:
        gr.Markdown('# RepViT-SAM\n' + _HELP)
        if notice:
            gr.Markdown(f'**{notice}**', elem_id='notice')
        with gr.Row():
            source = gr.Image(label='Picture', type='filepath', image_mode=None, sources=['upload', 'clipboard'],
                              elem_id='source')
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
