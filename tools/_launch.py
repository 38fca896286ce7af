"""torchrun for dist_train.sh and dist_test.sh, without its own traceback after a process has reported its error."""
import logging
import os
import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == '__main__':
    logging.getLogger('torch.distributed.elastic').setLevel(logging.CRITICAL)
    try:
        main()
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        if status < 0:  # killed by a signal, which nothing else reports
            raise
        sys.exit(status)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except RuntimeError as error:
        if 'address already in use' not in str(error).lower():
            raise
        sys.exit(f'error: PORT {os.environ.get("PORT", 29500)} is in use, perhaps by another run; set PORT to another '
                 'number')
