"""A web page that segments images by clicks on points or on the corners of a box."""
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

#: Limits of an upload in bytes and pixels, as decoding takes memory.
LARGEST_UPLOAD, MOST_PIXELS = 20 << 20, 40_000_000
#: Seconds after which a session ends and files of the page are deleted, and the largest number of sessions.
SESSION_SECONDS, MOST_SESSIONS = 3600, 100
MODES = ('Object', 'Background', 'Box')
#: Photographs of scikit-image to start with.
SAMPLES = ('astronaut.png', 'chelsea.png', 'coffee.png', 'rocket.jpg')
_HELP = ('Upload an image, or choose one below, and click on the object. **Object** adds a point inside it, '
         '**Background** one outside, **Box** takes two clicks on opposite corners.')


class Session:
    """The image and the clicks of one visitor.

    Args:
        sam: The model, shared by all visitors.
    """

    def __init__(self, sam: Sam):
        self._predictor = SamPredictor(sam)
        self.image: np.ndarray | None = None
        self.prompt, self._corner = Prompt(), None

    def upload(self, path: str) -> np.ndarray:
        """Read an image and compute its embedding; returns the image to draw on.

        Raises:
            UserError: If it is no image, damaged or too large; the message is for the visitor and names no path.
        """
        self.image = None
        if Path(path).stat().st_size > LARGEST_UPLOAD:
            raise UserError(f'the image has more than {LARGEST_UPLOAD >> 20} MB')
        try:
            image = read_image(path, MOST_PIXELS)
        except UserError as error:
            raise UserError(str(error).replace(str(path), 'the image')) from error
        self._predictor.set_image(image)
        self.image = image
        return self.clear()

    def clear(self) -> np.ndarray | None:
        """Forget the clicks; returns the image."""
        self.prompt, self._corner = Prompt(), None
        return self.image

    def click(self, x: float, y: float, mode: str) -> tuple[np.ndarray, str]:
        """Add a click at a pixel; returns the image with the best mask, and a text.

        Raises:
            UserError: If there is no image, or the click is outside it.
        """
        if self.image is None:
            raise UserError('upload an image first')
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
                f'{best.mask.mean():.1%} of the image, predicted IoU {best.score:.2f}')


def build_page(sam: Sam, notice: str = '') -> Any:
    """Build the page.

    Args:
        sam: The model.
        notice: Text at the top, e.g. that the weights are random.

    Returns:
        A ``gradio.Blocks``, to be served by :func:`serve`.

    Raises:
        ConfigError: If Gradio is not installed.
    """
    try:
        import gradio as gr
    except ModuleNotFoundError as error:
        raise ConfigError('the web page needs Gradio, which is not installed: '
                          'pip install "repvit-mm[sam-demo]"') from error
    import skimage

    def attempt(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except UserError as error:
            raise gr.Error(str(error)) from error

    def upload(path: str) -> tuple[Any, Session, str]:
        session = Session(sam)
        return attempt(lambda: session.upload(path)), session, 'Click on the object.'

    def click(mode: str, session: Session | None, event: gr.SelectData) -> tuple[Any, str]:
        return attempt(lambda: (session or Session(sam)).click(*event.index, mode))

    def clear(session: Session | None) -> tuple[Any, str]:
        return session and session.clear(), ''

    with gr.Blocks(title='RepViT-SAM', delete_cache=(600, SESSION_SECONDS)) as page:
        gr.Markdown('# RepViT-SAM\n' + _HELP)
        if notice:
            gr.Markdown(f'**{notice}**', elem_id='notice')
        session = gr.State(time_to_live=SESSION_SECONDS)
        image = gr.Image(label='Image', type='filepath', image_mode=None, format='png',
                         sources=['upload', 'clipboard'], elem_id='image')
        # Gradio would open the image itself, and end with an error that means nothing to the visitor.
        image.preprocess = lambda payload: payload and payload.path
        with gr.Row():
            mode = gr.Radio(MODES, value=MODES[0], label='A click is', elem_id='mode')
            status = gr.Textbox(label='Mask', interactive=False, elem_id='status')
            button = gr.Button('Clear the clicks', elem_id='clear')
        gr.Examples([str(Path(skimage.__file__).with_name('data') / name) for name in SAMPLES], image,
                    [image, session, status], upload, run_on_click=True, cache_examples=False,
                    api_name=False)
        image.upload(upload, image, [image, session, status], api_name='upload')
        image.select(click, [mode, session], [image, status])
        button.click(clear, session, [image, status])
    return page


def serve(page: Any, host: str, port: int | None, **settings: Any) -> Any:
    """Serve a page; see ``gradio.Blocks.launch``."""
    return page.launch(server_name=host, server_port=port, share=False, max_file_size=LARGEST_UPLOAD,
                       state_session_capacity=MOST_SESSIONS, **settings)
