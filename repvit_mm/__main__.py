"""``python -m repvit_mm``."""
from .command_line import main
from .errors import run_cli


def run() -> None:
    """The entry point of ``repvit-mm``."""
    run_cli(main)


if __name__ == '__main__':
    run()
