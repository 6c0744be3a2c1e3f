"""Where peers are installed, each in an environment of its own, and how."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..rows import Absent

_HERE = Path(__file__).parent
_PATIENCE_S = 300


@dataclass(frozen=True, slots=True)
class Peer:
    """One of them. `requirement`: what pip or npm installs; `programs`: what it runs, which
    must be on PATH; `program`: ours, that drives it."""

    name: str
    what: str
    program: str
    requirement: str = ""
    programs: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser() / "mas-sandbox" / "bench" / self.name

    @property
    def of_npm(self) -> bool:
        return self.program.endswith(".mjs")

    def command(self) -> list[str] | Absent:
        """What drives it, or why nothing does."""
        for program in (*self.programs, *(("node", "npm") if self.of_npm else ())):
            if shutil.which(program) is None:
                return Absent(f"{program} is not on PATH")
        if self.requirement and self._installed() != self.requirement:
            return Absent(self._said() or "not installed; scripts/bench --peers does it")
        program = str(_HERE / self.program)
        if self.of_npm:
            return ["node", program, str(self.directory)]
        python = self.directory / "bin" / "python" if self.requirement else Path(sys.executable)
        return [str(python), program]

    def install(self) -> str:
        """Why it could not be; empty when it is there."""
        if not self.requirement or self._installed() == self.requirement:
            return ""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        for command in self._steps():
            try:
                ran = subprocess.run(
                    command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                return self._failed(str(error))
            if ran.returncode != 0:
                return self._failed((ran.stderr.strip() or ran.stdout.strip())[-200:])
        (self.directory / "requirement").write_text(self.requirement)
        return ""

    def _steps(self) -> list[list[str]]:
        if self.of_npm:
            flags = ["--no-fund", "--no-audit", "--loglevel=error"]
            return [["npm", "install", "--prefix", str(self.directory), *flags, self.requirement]]
        pip = [str(self.directory / "bin" / "python"), "-m", "pip", "install", "-q"]
        return [
            [sys.executable, "-m", "venv", str(self.directory)],
            [*pip, "--disable-pip-version-check", self.requirement],
        ]

    def _installed(self) -> str:
        return _read(self.directory / "requirement")

    def _said(self) -> str:
        return _read(self.directory / "failed")

    def _failed(self, why: str) -> str:
        said = f"could not be installed: {' '.join(why.split())}"
        (self.directory / "failed").write_text(said)
        return said


def _read(file: Path) -> str:
    return file.read_text() if file.is_file() else ""


PEERS = (
    Peer("sandlock", "sandlock (Landlock, seccomp)", "with_sandlock.py", "sandlock==0.9.0"),
    Peer(
        *("llm-sandbox", "llm-sandbox, bubblewrap backend", "with_llm_sandbox.py"),
        *("llm-sandbox==0.3.46", ("bwrap",)),
    ),
    Peer(
        *("sandbox-runtime", "Anthropic sandbox-runtime, as a library"),
        *("with_sandbox_runtime.mjs", "@anthropic-ai/sandbox-runtime@0.0.83"),
        ("bwrap", "socat", "rg"),
    ),
    Peer("swe-rex", "SWE-ReX local (no wall)", "with_swe_rex.py", "swe-rex==1.4.0"),
    Peer("runsc", "runsc do (gVisor)", "with_runsc.py", programs=("runsc",)),
)
