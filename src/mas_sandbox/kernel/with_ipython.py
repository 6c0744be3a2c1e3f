"""IPython's shell, where the sandbox has it: magics, `!commands`, and its own looks of things."""

from __future__ import annotations

import builtins
import sys
import tempfile

# Whatever has no IPython has no such module, and the plain kernel instead.
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from traitlets.config import Config

from . import figures
from .looks import fitting
from .plain import described, offered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .line import Line


class _Hook(DisplayHook):
    """Tells the value of the last expression."""

    line: Line

    def write_output_prompt(self) -> None:
        return

    def write_format_data(self, format_dict: dict[str, Any], md_dict: Any = None) -> None:
        self.line.say({"type": "result", "data": fitting(format_dict), "main": True})

    def finish_displayhook(self) -> None:
        return


class _Publisher(DisplayPublisher):
    """Tells what is displayed."""

    line: Line

    def publish(self, data: dict[str, Any], *arguments: Any, **options: Any) -> None:
        self.line.say({"type": "result", "data": fitting(data), "main": False})

    def clear_output(self, wait: bool = False) -> None:
        return


class _Shell(InteractiveShell):
    """One whose errors are kept, not printed."""

    displayhook_class = _Hook
    display_pub_class = _Publisher
    told = ""
    system = InteractiveShell.system_raw
    """Without a terminal of its own, which not every sandbox has one to give."""

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        self.told = self.InteractiveTB.stb2text(stb)

    def ask_exit(self) -> NoReturn:
        raise SystemExit

    def enable_gui(self, gui: str | None = None) -> None:
        return


class WithIPython:
    """Code runs as in a notebook's cell."""

    name = "ipython"
    display: Callable[..., None]

    def __init__(self, line: Line) -> None:
        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "NoColor"
        config.InteractiveShell.separate_in = ""
        main = sys.modules["__main__"] = type(sys)("__main__")
        main.__dict__["__builtins__"] = builtins
        self._profile = tempfile.TemporaryDirectory(prefix="ipython-")
        shell: Any = _Shell.instance(
            config=config, user_module=main, ipython_dir=self._profile.name
        )
        shell.displayhook.line = shell.display_pub.line = line
        self._shell, self._line = shell, line
        pictures = shell.display_formatter.formatters["image/png"]
        pictures.for_type_by_name("matplotlib.figure", "Figure", figures.png)
        self.display = offered(display)

    def run(self, code: str, execution: int) -> None:
        """Raises what the code raises."""
        self._shell.told = ""
        outcome = self._shell.run_cell(code, store_history=True)
        error = outcome.error_before_exec or outcome.error_in_exec
        if error is not None:
            raise error

    def tell(self, error: BaseException) -> None:
        """In IPython's own words."""
        said = described(error)
        if self._shell.told:
            said["traceback"] = self._shell.told
        self._line.say(said)
