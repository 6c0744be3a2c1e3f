"""The commands that there are: what each does, where it is, and examples of it."""

from __future__ import annotations

from typing import NamedTuple

OVERVIEW = """\
  mas-sandbox doctor
  mas-sandbox run calculator --arg expression='15 * 8 + 7'
  mas-sandbox serve -listen :8080
  id=$(mas-sandbox create)
  mas-sandbox exec $id -- python3 -c 'print("hello")'
  mas-sandbox shell $id
  mas-sandbox cp -r ./project $id:/workspace/
  mas-sandbox rm $id"""


class Command(NamedTuple):
    """`where`: module and name; only the module of the command that runs is imported."""

    where: str
    summary: str
    examples: str = ""


COMMANDS = {
    "Sandboxes": {
        "create": Command(
            "create:create",
            "Start a sandbox and print its id.",
            """\
  id=$(mas-sandbox create)
  mas-sandbox create --runtime jail --timeout 2h -m run=r-17 -e MODE=test
  mas-sandbox create --min-isolation vm --policy '{"mem_mb": 256}'
  mas-sandbox create --idle-timeout 30m --on-timeout pause --json""",
        ),
        "ls": Command(
            "ls:ls",
            "List your sandboxes.",
            """\
  mas-sandbox ls
  mas-sandbox ls --state paused -m run=r-17
  mas-sandbox ls -q | xargs mas-sandbox rm""",
        ),
        "rm": Command(
            "lives:rm",
            "End sandboxes, and all that runs and lies in them.",
            """\
  mas-sandbox rm sb_one sb_two
  mas-sandbox rm --all --yes""",
        ),
        "pause": Command(
            "lives:pause",
            "Stop everything in sandboxes where it stands.",
            "  mas-sandbox pause sb_one",
        ),
        "resume": Command(
            "lives:resume", "Let paused sandboxes go on.", "  mas-sandbox resume sb_one"
        ),
        "extend": Command(
            "lives:extend",
            "Let a sandbox live for so long from now on.",
            "  mas-sandbox extend sb_one 2h",
        ),
    },
    "In a sandbox": {
        "exec": Command(
            "execute:execute",
            "Run a program in a sandbox, as if it ran here.",
            """\
  mas-sandbox exec sb_one -- ls -l
  mas-sandbox exec -it sb_one -- vim notes.txt
  tar c . | mas-sandbox exec -i sb_one -- tar x
  mas-sandbox exec -d --tag web sb_one -- python3 -m http.server""",
        ),
        "shell": Command(
            "execute:shell",
            "An interactive shell in a sandbox, or in a fresh one.",
            """\
  mas-sandbox shell sb_one
  mas-sandbox shell --runtime jail --policy '{"network": {"hosts": ["*.example.org"]}}'""",
        ),
        "cp": Command(
            "cp:cp",
            "Copy files and directories into a sandbox, or out of it.",
            """\
  mas-sandbox cp notes.txt sb_one:/workspace/
  mas-sandbox cp -r ./project sb_one:project
  mas-sandbox cp -r sb_one:/workspace/results .
  mas-sandbox cp sb_one:/workspace/log - | grep error""",
        ),
        "ps": Command(
            "processes:ps",
            "List the processes of a sandbox.",
            """\
  mas-sandbox ps sb_one
  mas-sandbox ps sb_one --json""",
        ),
        "logs": Command(
            "processes:logs",
            "Show what a process has written.",
            """\
  mas-sandbox logs sb_one web
  mas-sandbox logs -f sb_one 7""",
        ),
        "kill": Command(
            "processes:kill",
            "End a process, or send it a signal.",
            """\
  mas-sandbox kill sb_one web
  mas-sandbox kill sb_one 7 -s HUP""",
        ),
        "port-forward": Command(
            "forward:port_forward",
            "Reach servers in a sandbox through ports of this machine.",
            """\
  mas-sandbox port-forward sb_one 8000
  mas-sandbox port-forward sb_one 9000:8000 0:5432""",
        ),
        "code": Command(
            "code:code",
            "Run Python in a sandbox, which keeps its variables.",
            """\
  mas-sandbox code sb_one
  mas-sandbox code sb_one -c 'x = 6 * 7'
  mas-sandbox code sb_one -c x
  mas-sandbox code sb_one analysis.py --json""",
        ),
    },
    "Tools": {
        "run": Command(
            "run:run",
            "Run one tool and print its result.",
            """\
  mas-sandbox run calculator --arg expression='15 * 8 + 7'
  mas-sandbox run bash -a command='echo hello; exit 3'
  mas-sandbox run read_file -a path=notes.txt -a start_line:=10
  mas-sandbox run bash -a command='sleep 9' --policy '{"timeout_ms": 500}'""",
        ),
        "tools": Command(
            "tools:tools",
            "List the tools there are.",
            """\
  mas-sandbox tools
  mas-sandbox tools --url http://127.0.0.1:8080 --json""",
        ),
    },
    "The daemon": {
        "serve": Command("serve:serve", "Start the daemon."),
        "doctor": Command(
            "doctor:doctor",
            "Show what this host can enforce, and the commands that mend what it cannot.",
            """\
  mas-sandbox doctor
  mas-sandbox doctor --json""",
        ),
        "image": Command("image:image", "Build and list images of virtual machines."),
        "audit": Command("audit:audit", "Read and verify the audit log."),
    },
}
