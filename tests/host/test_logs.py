"""A program that embeds a machine hears warnings only, unless it asks for more; a command shows all of it."""

import subprocess
import sys

from tests.limits import WAIT_S

EVENTS = "from ftvm.host.logs import *; log = get_logger('node'); log.info('went live', node='a', why='b c'); "
"""A program in which something happens, and then something bad."""

WARNING = "log.warning('client does not read', unread=3)"


def heard(script: str) -> tuple[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT_S, check=True)
    return done.stdout, done.stderr.splitlines()


def test_unasked_a_program_hears_warnings_only_and_nothing_on_its_output() -> None:
    assert heard(EVENTS + WARNING) == ("", ["client does not read unread=3"])


def test_a_program_may_ask_for_all_by_way_of_logging() -> None:
    script = "import logging; logging.basicConfig(level='INFO', format='%(name)s: %(message)s');" + EVENTS
    assert heard(script) == ("", ["ftvm.node: went live node=a why='b c'"])


def test_a_command_shows_every_event_as_one_line_with_its_time() -> None:
    output, lines = heard("from ftvm.host.logs import show_on_stderr; show_on_stderr();" + EVENTS + WARNING)
    assert output == ""
    assert [line.split(" ", 2)[2] for line in lines] == ["went live node=a why='b c'", "client does not read unread=3"]
