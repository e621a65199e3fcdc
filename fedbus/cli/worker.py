"""A worker of `fedbus simulate`: a crowd of virtual clients in a process, until it is told to end.

    python -m fedbus.cli.worker MODULE:APP SERIES FIRST COUNT LOG_LEVEL

The broker, the workspace and the credentials are those of the environment. It is what `fedbus client run --count` is,
but for its log: of the many failures of an app that raises, the first is shown with its traceback, and no other.
"""

from __future__ import annotations

import logging
import sys

import typer

from fedbus.cli.environment import choose_home, environ, setup_log
from fedbus.cli.loading import load_app
from fedbus.cli.roles import Place, take_part
from fedbus.cli.running import THREADS_S_MAX, leave_after, run
from fedbus.cli.tree import FAILED, sentence
from fedbus.errors import FedbusError


class FirstFailure(logging.Filter):
    """Lets one warning of the clients pass, then one line that there are more."""

    MORE = "more failures follow; each reason stands in the session's journal (--log-level debug shows all)"

    def __init__(self) -> None:
        super().__init__()
        self._seen = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is to be shown."""
        if record.levelno < logging.WARNING or not record.name.startswith("fedbus.client"):
            return True
        self._seen += 1
        if self._seen == 2:
            record.msg, record.args, record.exc_info = self.MORE, (), None
        return self._seen <= 2


def main() -> None:
    """Run the crowd that argv names."""
    target, series, first, count, level = sys.argv[1:6]
    choose_home()
    setup_log(level, f"{series}-{first}")
    if level != "debug":
        for handler in logging.getLogger().handlers:
            handler.addFilter(FirstFailure())
    variables = environ()
    place = Place(variables["FEDBUS_URL"], variables["FEDBUS_WORKSPACE"], variables.get("FEDBUS_CREDENTIALS"))
    try:
        run(take_part(place, load_app(target), series, first=int(first), count=int(count)), terminated=0)
    except typer.Exit as end:
        sys.exit(end.exit_code)
    except (FedbusError, OSError) as error:
        print(f"{series}-{first}: {sentence(error)}", file=sys.stderr)
        leave_after(THREADS_S_MAX, FAILED)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
