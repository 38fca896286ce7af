"""``python -m repvit_mm``: the command ``repvit-mm``, where its scripts folder is not on the PATH."""
from repvit_mm_cli import main

if __name__ == '__main__':
    main()
